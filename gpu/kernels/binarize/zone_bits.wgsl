// Bit c % 32 of zones[r, c / 32] = column c is not salient and |values[r, c]| >= threshold[best].
//
// A thread computes one word.

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;     // [cols]
@group(0) @binding(3) var<storage, read> threshold: array<f32>;   // [candidates]
@group(0) @binding(4) var<storage, read> best: array<u32>;        // [1]
@group(0) @binding(5) var<storage, read_write> zones: array<u32>; // [rows, ceil(cols / 32)]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let words = (p.cols + 31) / 32;
  let row = id.x / words;
  if (row >= p.rows) { return; }
  let first = id.x % words * 32;
  let limit = threshold[best[0]];
  var bits = 0u;
  for (var i = 0u; i < min(32u, p.cols - first); i++) {
    let col = first + i;
    bits |= u32(salient[col] == 0 && abs(values[row * p.cols + col]) >= limit) << i;
  }
  zones[id.x] = bits;
}
