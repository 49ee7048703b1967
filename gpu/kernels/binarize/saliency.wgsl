// out[r, c] = w² · cost[c], the saliency of a weight (optimal brain surgeon).
//
// Source: BiLLM, arXiv:2402.04291, equation 3. Reference: tests/reference/billm.ts.

struct Params { size: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;    // [rows, cols]
@group(0) @binding(2) var<storage, read> cost: array<f32>;      // [cols]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.size) { return; }
  let w = weight[i];
  out[i] = w * w * cost[i % p.cols];
}
