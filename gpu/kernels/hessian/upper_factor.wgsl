// U[i, j] = 0 for j < i, in place;   cost[j] = 1 / U_jj²
//
// Tiles that straddle the diagonal may have left values below it.
//
// Reference: tests/reference/linear_algebra.ts.

@group(0) @binding(0) var<uniform> n: u32;
@group(0) @binding(1) var<storage, read_write> U: array<f32>;    // [n, n]
@group(0) @binding(2) var<storage, read_write> cost: array<f32>; // [n]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= n || id.y >= n) { return; }
  let at = id.y * n + id.x;
  if (id.x < id.y) { U[at] = 0.0; }
  if (id.x == id.y) { cost[id.x] = 1.0 / (U[at] * U[at]); }
}
