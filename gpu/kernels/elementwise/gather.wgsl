// target[r, c] = source[r, place[c]], or with ROWS also in the order of rows: source[place[r], place[c]].
//
// Reference: tests/gpu/kernels/elementwise/gather_test.ts.

override ROWS: bool = false;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;         // [rows, cols]
@group(0) @binding(2) var<storage, read> place: array<u32>;          // [cols], each below cols
@group(0) @binding(3) var<storage, read_write> gathered: array<f32>; // [rows, cols]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.cols || id.y >= p.rows) { return; }
  var row = id.y;
  if (ROWS) { row = place[row]; }
  gathered[id.y * p.cols + id.x] = source[row * p.cols + place[id.x]];
}
