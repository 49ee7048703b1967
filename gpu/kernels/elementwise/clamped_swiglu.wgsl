// The gated activation of GPT-OSS:
//
//   out = g · σ(alpha · g) · (u + 1)        g = min(gate, limit)    u = up clamped to -limit .. limit
//
// Source: GPT-OSS, arXiv:2508.10925.
// Reference: tests/reference/ops.ts.

struct Params { size: u32, alpha: f32, limit: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;      // [size]
@group(0) @binding(2) var<storage, read> up: array<f32>;        // [size]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [size]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.size) { return; }
  let g = min(gate[i], p.limit);
  let u = clamp(up[i], -p.limit, p.limit);
  out[i] = g / (1.0 + exp(-p.alpha * g)) * (u + 1.0);
}
