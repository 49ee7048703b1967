// pattern[i, r, c] = the factor of parameter i of row r in the level of column c.
//
// levels_source.ts provides pattern(). Reference: tests/reference/levels.ts.

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;         // [rows, cols]
@group(0) @binding(2) var<storage, read_write> factors: array<f32>; // [PARAMETERS, rows, cols]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.cols || id.y >= p.rows) { return; }
  let at = id.y * p.cols + id.x;
  let both = pattern(codes[at]);
  factors[at] = both.x;
  if (PARAMETERS == 2) { factors[p.rows * p.cols + at] = both.y; }
}
