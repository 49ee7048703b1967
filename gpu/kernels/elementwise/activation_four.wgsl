// The same as activation.wgsl for four values at a time.

override GATED: bool = false;

@group(0) @binding(0) var<uniform> count: u32; // of fours
@group(0) @binding(1) var<storage, read> x: array<vec4f>;         // [count]
@group(0) @binding(2) var<storage, read> up: array<vec4f>;        // [count], used if GATED
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>; // [count]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= count) { return; }
  let v = x[i];
  var y = vec4f(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
  if (GATED) { y *= up[i]; }
  out[i] = y;
}
