// out = f(x), or f(x) · up in a gated MLP (GATED). f is activate() of activate.wgsl.
//
// Reference: tests/reference/decoder.ts.

override GATED: bool = false;

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [size]
@group(0) @binding(2) var<storage, read> up: array<f32>;        // [size], used if GATED
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [size]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= size) { return; }
  var y = activate(x[i]);
  if (GATED) { y *= up[i]; }
  out[i] = y;
}
