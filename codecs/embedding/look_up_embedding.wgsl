// out[t, c] = code[ids[t], c] · scale[ids[t], c / GROUP]  (or += with ACCUMULATE), for the ids in
// first .. first + rows - 1; output rows of other ids are not written.
//
// Codes and scales are those of dequantize_embedding.wgsl; the products are exact in f32. A thread
// computes one value.
//
// Reference: tests/codecs/embedding/look_up_embedding_test.ts.

override BITS: u32 = 8;
override GROUP: u32 = 64;
override ACCUMULATE: bool = false;

struct Params { rows: u32, cols: u32, row_bytes: u32, groups: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;               // [tokens]
@group(0) @binding(2) var<storage, read> codes: array<u32>;             // [rows, row_bytes], bytes
@group(0) @binding(3) var<storage, read> scales: array<u32>;            // [rows, groups], f16
@group(0) @binding(4) var<storage, read_write> out: array<f32>;         // [tokens, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.y;
  let col = id.x;
  let row = ids[token] - p.first; // wraps to a large number for earlier parts
  if (col >= p.cols || row >= p.rows) { return; }
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
  let v = f32(code) * select(pair.x, pair.y, (scale_at & 1u) == 1u);
  let place = token * p.cols + col;
  if (ACCUMULATE) { out[place] += v; } else { out[place] = v; }
}
