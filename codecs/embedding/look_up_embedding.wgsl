// out[t, c] = the number in row ids[t] and column c of a quantized embedding (or += with ACCUMULATE), for the
// ids in first .. first + rows - 1; output rows of other ids are not written. See embedding_value.wgsl, which
// stands before this text. A thread computes one value.
//
// Reference: tests/codecs/embedding/look_up_embedding_test.ts.

override ACCUMULATE: bool = false;

struct Params { rows: u32, cols: u32, row_bytes: u32, groups: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;       // [tokens]
@group(0) @binding(2) var<storage, read> codes: array<u32>;     // [rows, row_bytes], bytes
@group(0) @binding(3) var<storage, read> scales: array<u32>;    // [rows, groups], f16
@group(0) @binding(4) var<storage, read> zeros: array<u32>;     // [rows, groups], f16, for ZEROS
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [tokens, cols]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.y;
  let col = id.x;
  let row = ids[token] - p.first; // wraps to a large number for earlier parts
  if (col >= p.cols || row >= p.rows) { return; }
  let v = value_at(row, col);
  let place = token * p.cols + col;
  if (ACCUMULATE) { out[place] += v; } else { out[place] = v; }
}
