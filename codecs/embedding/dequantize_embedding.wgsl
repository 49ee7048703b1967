// table[r, c] = code[r, c] · scale[r, c / GROUP], exact in f32.
//
// Codes have BITS = 8 (two's complement) or 4 (0 .. 15, minus 8; the even column in the low half of a
// byte). Rows of codes begin at any byte, scales at any f16. A thread computes one value.
//
// Reference: tests/codecs/embedding/dequantize_embedding_test.ts.

override BITS: u32 = 8;
override GROUP: u32 = 64;

struct Params { rows: u32, cols: u32, row_bytes: u32, groups: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;             // [rows, row_bytes], bytes
@group(0) @binding(2) var<storage, read> scales: array<u32>;            // [rows, groups], f16
@group(0) @binding(3) var<storage, read_write> table: array<f32>;       // [rows, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let row = index / p.cols;
  if (row >= p.rows) { return; }
  let col = index % p.cols;
  let at = row * p.row_bytes + col * BITS / 8;
  let byte = codes[at >> 2u] >> (8 * (at & 3u));
  var code: i32;
  if (BITS == 8) {
    code = i32(byte << 24u) >> 24u;
  } else {
    code = i32((byte >> (4 * (col & 1u))) & 15u) - 8;
  }
  let scale_at = row * p.groups + col / GROUP;
  let pair = unpack2x16float(scales[scale_at >> 1u]);
  table[index] = f32(code) * select(pair.x, pair.y, (scale_at & 1u) == 1u);
}
