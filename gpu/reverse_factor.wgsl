// U[i, j] = M[n-1-i, n-1-j] for j >= i, else 0;   cost[j] = 1 / U_jj²
//
// M is the inverse of the Cholesky factor of the reversed matrix, lower triangular.

@group(0) @binding(0) var<uniform> n: u32;
@group(0) @binding(1) var<storage, read> M: array<f32>;                 // [n, n]
@group(0) @binding(2) var<storage, read_write> U: array<f32>;           // [n, n]
@group(0) @binding(3) var<storage, read_write> cost: array<f32>;        // [n]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= n || id.y >= n) { return; }
  let value = M[(n - 1 - id.y) * n + n - 1 - id.x];
  U[id.y * n + id.x] = select(0.0, value, id.x >= id.y);
  if (id.x == id.y) { cost[id.x] = 1.0 / (value * value); }
}
