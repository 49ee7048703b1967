// The nearest f16 (ties to even). Uses integer arithmetic: drivers may optimize packing and unpacking an
// f16 away, and NVIDIA's does.
fn rounded(value: f32) -> f32 {
  let v = clamp(value, -65504.0, 65504.0);
  if (abs(v) < 6.1035156e-5) { return round(v * 16777216.0) / 16777216.0; } // subnormal: steps of 2^-24
  let b = bitcast<u32>(v);
  return bitcast<f32>((b + 0xfffu + ((b >> 13u) & 1u)) & 0xffffe000u);
}
