// out[i] = the nearest f16 of values[i], ties to even, two to a word; overflows += the values that
// f16 cannot hold, NaN among them.
//
// Uses integer arithmetic, as the rounding of `pack2x16float` depends on the driver. A thread computes
// a word.
//
// Reference: tests/gpu/kernels/elementwise/narrow_test.ts.

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> values: array<u32>;    // [size], f32 bits
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [ceil(size / 2)]
@group(0) @binding(3) var<storage, read_write> overflows: atomic<u32>;

const LEAST_NORMAL = 0x38800000u; // 2^-14
const BEYOND = 0x477ff000u;       // 65520, half way from the greatest f16 to the next step

fn narrow(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude >= BEYOND) { return sign | 0x7c00u; }
  if (magnitude >= LEAST_NORMAL) {
    return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
  }
  // Subnormal: steps of 2^-24. The 24 bits of the f32 are shifted so that a step is one.
  let shift = 126u - min(magnitude >> 23u, 126u);
  if (shift > 24u) { return sign; }
  let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  let half = 1u << (shift - 1u);
  return sign | ((mantissa + half - 1u + ((mantissa >> shift) & 1u)) >> shift);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let word = id.y * groups.x * 64 + id.x;
  if (word * 2 >= size) { return; }
  let low = values[word * 2];
  var high = 0u;
  if (word * 2 + 1 < size) { high = values[word * 2 + 1]; }
  out[word] = narrow(low) | (narrow(high) << 16u);
  let beyond = u32((low & 0x7fffffffu) >= BEYOND) + u32((high & 0x7fffffffu) >= BEYOND);
  if (beyond > 0) { atomicAdd(&overflows, beyond); }
}
