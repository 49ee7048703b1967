// In place: x = factor · x, or cap · tanh(factor · x / cap) (CAPPED).
//
// Reference: tests/gpu/kernels/elementwise/scale_test.ts.

override CAPPED: bool = false;

struct Params { size: u32, factor: f32, cap: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>; // [size]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.size) { return; }
  let y = p.factor * x[i];
  if (CAPPED) {
    x[i] = p.cap * tanh(clamp(y / p.cap, -15.0, 15.0)); // tanh may overflow
  } else {
    x[i] = y;
  }
}
