// out = x + factor · y
//
// Reference: tests/gpu/kernels/elementwise/scale_test.ts.

struct Params { size: u32, factor: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [size]
@group(0) @binding(2) var<storage, read> y: array<f32>;         // [size]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [size]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.size) { return; }
  out[i] = x[i] + p.factor * y[i];
}
