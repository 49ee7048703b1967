// value_at(row, col): a number of a quantized embedding; for kernels that declare p, codes, scales, zeros.
//
//   without ZEROS   code · scale             codes of BITS = 8 (two's complement) or 4 (0 .. 15, minus 8; the
//                                            even column in the low half of a byte); rows begin at any byte
//   ZEROS           (code - zero) · scale    codes are fields of BITS bits, the first in the lowest bits of a
//                                            word; rows begin with a word
//
// Scales and zeros are f16, one each per GROUP columns. The first product is exact in f32; with ZEROS the
// difference and the product are rounded to f32.

override BITS: u32 = 8;
override GROUP: u32 = 64;
override ZEROS: bool = false;

fn code_at(row: u32, col: u32) -> f32 {
  if (ZEROS) {
    let bit = col * BITS;
    let word = row * (p.row_bytes / 4) + bit / 32;
    let shift = bit % 32;
    var code = codes[word] >> shift;
    if (shift + BITS > 32) { code |= codes[word + 1] << (32 - shift); }
    return f32(code & ((1u << BITS) - 1));
  }
  let at = row * p.row_bytes + col * BITS / 8;
  let byte = codes[at >> 2u] >> (8 * (at & 3u));
  if (BITS == 8) { return f32(i32(byte << 24u) >> 24u); }
  return f32(i32((byte >> (4 * (col & 1u))) & 15u) - 8);
}

fn value_at(row: u32, col: u32) -> f32 {
  let group = row * p.groups + col / GROUP;
  let is_odd = (group & 1u) == 1u;
  let scale = unpack2x16float(scales[group >> 1u]);
  var code = code_at(row, col);
  if (ZEROS) {
    let zero = unpack2x16float(zeros[group >> 1u]);
    code -= select(zero.x, zero.y, is_odd);
  }
  return code * select(scale.x, scale.y, is_odd);
}

