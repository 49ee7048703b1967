// target[c, r] = source[r, c]
//
// A thread moves a block of 4 x 4: four reads of neighbours, four writes of neighbours. Rows of the
// target are padded to a multiple of four; the padding is written as zero.
//
// Reference: tests/gpu/transpose_test.ts.

struct Params { rows: u32, cols: u32, start: u32, stride: u32, target_stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>; // [cols, target_stride]

fn load(row: u32, col: u32) -> vec4f {
  let at = p.start + row * p.stride + col;
  let value = vec4f(source[at], source[at + 1], source[at + 2], source[at + 3]);
  return select(vec4f(0.0), value, row < p.rows);
}

fn store(row: u32, col: u32, value: vec4f) {
  if (col >= p.cols) { return; }
  let at = col * p.target_stride + row;
  result[at] = value.x;
  result[at + 1] = value.y;
  result[at + 2] = value.z;
  result[at + 3] = value.w;
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x * 4;
  let row = id.y * 4;
  if (row >= p.target_stride || col >= p.cols) { return; }
  let a = load(row, col);
  let b = load(row + 1, col);
  let c = load(row + 2, col);
  let d = load(row + 3, col);
  store(row, col, vec4f(a.x, b.x, c.x, d.x));
  store(row, col + 1, vec4f(a.y, b.y, c.y, d.y));
  store(row, col + 2, vec4f(a.z, b.z, c.z, d.z));
  store(row, col + 3, vec4f(a.w, b.w, c.w, d.w));
}
