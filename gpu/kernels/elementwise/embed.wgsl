// out[t] = table[ids[t]]  (or += with ACCUMULATE), for the ids in first .. first + rows - 1.
//
// The table may be bound in parts: output rows of ids in other parts are not written. FORMAT is its
// dtype: 0 f32, 1 f16, 2 bf16.
//
// Reference: tests/gpu/kernels/elementwise/embed_test.ts.

override FORMAT: u32 = 0;
override ACCUMULATE: bool = false;

struct Params { tokens: u32, cols: u32, first: u32, rows: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;       // [tokens]
@group(0) @binding(2) var<storage, read> table: array<u32>;     // [rows, cols], as stored
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [tokens, cols]

fn value(index: u32) -> f32 {
  if (FORMAT == 0) { return bitcast<f32>(table[index]); }
  let word = table[index >> 1u];
  let odd = (index & 1u) == 1u;
  if (FORMAT == 2) { return bitcast<f32>(select(word << 16u, word & 0xffff0000u, odd)); }
  let pair = unpack2x16float(word);
  return select(pair.x, pair.y, odd);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.y;
  let row = ids[token] - p.first; // wraps to a large number for earlier parts
  if (id.x >= p.cols || row >= p.rows) { return; }
  let at = token * p.cols + id.x;
  let v = value(row * p.cols + id.x);
  if (ACCUMULATE) { out[at] += v; } else { out[at] = v; }
}
