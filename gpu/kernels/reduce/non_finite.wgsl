// count += number of NaN and infinities in values.
//
// Tests the bits, because drivers may assume that arithmetic never involves NaN.
//
// Reference: tests/gpu/kernels/reduce/non_finite_test.ts.

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> values: array<u32>; // [size], f32 bits
@group(0) @binding(2) var<storage, read_write> count: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let stride = groups.x * groups.y * 64;
  var found = 0u;
  for (var i = id.y * groups.x * 64 + id.x; i < size; i += stride) {
    found += u32((values[i] & 0x7f800000u) == 0x7f800000u);
  }
  if (found > 0) { atomicAdd(&count, found); }
}
