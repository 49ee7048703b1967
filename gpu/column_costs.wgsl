// cost[j] = 1 / U_jj²
//
// Reference: tests/gpu/inverse_factor_test.ts.

@group(0) @binding(0) var<uniform> n: u32;
@group(0) @binding(1) var<storage, read> U: array<f32>;                 // [n, n]
@group(0) @binding(2) var<storage, read_write> cost: array<f32>;        // [n]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= n) { return; }
  let u = U[id.x * n + id.x];
  cost[id.x] = 1.0 / (u * u);
}
