// out = f(x), or f(x) · up in a gated MLP (GATED).
//
// KIND 0 ReLU; 1 SiLU x / (1 + e^-x); 2 GELU with erf; 3 GELU with tanh.
// erf by Abramowitz and Stegun 7.1.26, |error| < 1.5e-7.
// Reference: tests/reference/decoder.ts.

override KIND: u32 = 0;
override GATED: bool = false;

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // [size]
@group(0) @binding(2) var<storage, read> up: array<f32>;            // [size], used if GATED
@group(0) @binding(3) var<storage, read_write> out: array<f32>;     // [size]

fn erf(v: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(v));
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return sign(v) * (1.0 - poly * exp(-v * v));
}

fn activate(v: f32) -> f32 {
  if (KIND == 0) { return max(v, 0.0); }
  if (KIND == 1) { return v / (1.0 + exp(-v)); }
  if (KIND == 2) { return 0.5 * v * (1.0 + erf(v * 0.70710678)); }
  let inner = clamp(0.79788456 * (v + 0.044715 * v * v * v), -15.0, 15.0); // tanh may overflow
  return 0.5 * v * (1.0 + tanh(inner));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= size) { return; }
  var y = activate(x[i]);
  if (GATED) { y *= up[i]; }
  out[i] = y;
}
