// target[target_start + r * target_stride + c] = c < cols ? source[start + r * stride + c] : 0
//
// for r < rows and c < width: a part of one matrix becomes a part of another.
//
// Reference: tests/gpu/transpose_test.ts.

struct Params {
  rows: u32, cols: u32, start: u32, stride: u32, target_start: u32, target_stride: u32, width: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.width || id.y >= p.rows) { return; }
  let value = source[p.start + id.y * p.stride + id.x];
  result[p.target_start + id.y * p.target_stride + id.x] = select(0.0, value, id.x < p.cols);
}
