// out[t, i] = residual[t, i] + factor · Σ_s weight[t, s] · y[t, s, i], slot by slot.
//
// Reference: tests/gpu/kernels/experts/combine_test.ts.

struct Params { tokens: u32, width: u32, k: u32, factor: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;         // [tokens, k, width]
@group(0) @binding(2) var<storage, read> routing: array<f32>;   // [tokens, 2 k]
@group(0) @binding(3) var<storage, read> residual: array<f32>;  // [tokens, width]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [tokens, width]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= p.tokens * p.width) { return; }
  let token = i / p.width;
  let col = i % p.width;
  var sum = 0.0;
  for (var slot = 0u; slot < p.k; slot++) {
    let weight = routing[(2u * token + 1u) * p.k + slot];
    sum += weight * y[(token * p.k + slot) * p.width + col];
  }
  out[i] = residual[i] + p.factor * sum;
}
