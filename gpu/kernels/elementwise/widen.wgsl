// out[i] = f32(stored[i]) for stored f16 (FORMAT 1) or bf16 (FORMAT 2), two to a word.
//
// f16 is widened by integer arithmetic, which preserves subnormals, infinities and NaN on every driver.
//
// Reference: tests/gpu/kernels/elementwise/widen_test.ts.

override FORMAT: u32 = 1;

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> stored: array<u32>;    // [ceil(size / 2)]
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [size], f32 bits

fn half_to_f32(h: u32) -> u32 {
  let sign = (h & 0x8000u) << 16u;
  let exponent = (h >> 10u) & 31u;
  let mantissa = h & 0x3ffu;
  if (exponent == 31u) { return sign | 0x7f800000u | (mantissa << 13u); }
  if (exponent != 0u) { return sign | ((exponent + 112u) << 23u) | (mantissa << 13u); }
  if (mantissa == 0u) { return sign; }
  let shift = countLeadingZeros(mantissa) - 21u; // moves the leading one to bit 10
  return sign | ((113u - shift) << 23u) | (((mantissa << shift) & 0x3ffu) << 13u);
}

fn widen(h: u32) -> u32 {
  if (FORMAT == 2) { return h << 16u; }
  return half_to_f32(h);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let word = id.y * groups.x * 64 + id.x;
  if (word * 2 >= size) { return; }
  let pair = stored[word];
  out[word * 2] = widen(pair & 0xffffu);
  if (word * 2 + 1 < size) { out[word * 2 + 1] = widen(pair >> 16u); }
}
