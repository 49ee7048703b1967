// top = max(top, |v|) over all values, as the bits of an f32: those of positive numbers are ordered like
// them. A NaN counts as the largest.
//
// Reference: tests/gpu/kernels/reduce/largest_test.ts.

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> values: array<u32>;           // [size], f32 bits
@group(0) @binding(2) var<storage, read_write> top: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let stride = groups.x * groups.y * 64;
  var found = 0u;
  for (var i = id.y * groups.x * 64 + id.x; i < size; i += stride) {
    found = max(found, values[i] & 0x7fffffffu);
  }
  atomicMax(&top, found);
}
