// target[target_start + r * target_stride + c] = c < cols ? source[start + r * stride + c] : 0
//
// for r < rows and c < width: copies a part of one matrix to a part of another, as f32. FORMAT is the
// dtype of the source: 0 f32, 1 f16, 2 bf16.
//
// Reference: tests/gpu/kernels/elementwise/copy_region_test.ts.

override FORMAT: u32 = 0;

struct Params {
  rows: u32, cols: u32, start: u32, stride: u32, target_start: u32, target_stride: u32, width: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;

fn value(index: u32) -> f32 {
  if (FORMAT == 0) { return bitcast<f32>(source[index]); }
  let word = source[index >> 1u];
  let odd = (index & 1u) == 1u;
  if (FORMAT == 2) { return bitcast<f32>(select(word << 16u, word & 0xffff0000u, odd)); }
  let pair = unpack2x16float(word);
  return select(pair.x, pair.y, odd);
}

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.width || id.y >= p.rows) { return; }
  let v = value(p.start + id.y * p.stride + id.x);
  result[p.target_start + id.y * p.target_stride + id.x] = select(0.0, v, id.x < p.cols);
}
