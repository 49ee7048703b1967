// out[r] = the index of the greatest entry of row r, the least one of several; 2^32 - 1 if an entry is
// NaN or infinite, for which nothing can be said.
//
// One workgroup per row. Indices are compared as f32, which holds those below 2^24.
// Reference: tests/gpu/argmax_test.ts.

@group(0) @binding(0) var<uniform> cols: u32;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // [rows, cols]
@group(0) @binding(2) var<storage, read_write> out: array<u32>;    // [rows]

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * cols;
  var top = -3.4e38;
  var wrong = 0.0;
  for (var i = lane; i < cols; i += LANES) {
    let value = x[start + i];
    // By its bits: drivers may take NaN for a number.
    if ((bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u) { wrong = 1.0; }
    top = max(top, value);
  }
  top = max_over_lanes(top, lane);
  wrong = max_over_lanes(wrong, lane);
  var before = -3.0e38; // the index with its sign turned, so that the least is the greatest
  for (var i = lane; i < cols; i += LANES) {
    if (x[start + i] == top) { before = max(before, -f32(i)); }
  }
  before = max_over_lanes(before, lane);
  if (lane == 0) { out[group.x] = select(u32(-before), 0xffffffffu, wrong > 0.0); }
}
