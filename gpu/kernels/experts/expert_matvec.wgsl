// Products of vectors with the matrices of their experts: y[i] = M xᵢ (+ bias), with M the matrix of the
// expert of vector i. One workgroup per row and vector; reduce.wgsl provides LANES and sum_over_lanes.
//
// Reference: tests/codecs/experts/experts_test.ts.

override FORMAT: u32; // of the matrices: 0 f32, 1 f16, 2 bf16
override HAS_BIAS: bool;

struct Params { rows: u32, cols: u32, step: u32, k: u32, per_row: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // [vectors / per_row, cols]
@group(0) @binding(2) var<storage, read> weights: array<u32>; // matrices, step elements apart
@group(0) @binding(3) var<storage, read> routing: array<f32>; // [tokens, 2 k]
@group(0) @binding(4) var<storage, read> places: array<u32>;  // [experts], the matrix of each
@group(0) @binding(5) var<storage, read> bias: array<f32>;    // [experts, rows]
@group(0) @binding(6) var<storage, read_write> y: array<f32>; // [vectors, rows]

fn weight_at(at: u32) -> f32 {
  if (FORMAT == 0u) { return bitcast<f32>(weights[at]); }
  let word = weights[at >> 1u];
  if (FORMAT == 1u) {
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (at & 1u) == 1u);
  }
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (at & 1u) == 1u));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let vector = group.y;
  let expert = u32(routing[vector / p.k * 2u * p.k + vector % p.k]);
  let place = places[expert];
  if (place == 0xffffffffu) { return; } // the whole workgroup
  let first = place * p.step + row * p.cols;
  let start = vector / p.per_row * p.cols;
  var sum = 0.0;
  for (var i = lane; i < p.cols; i += LANES) { sum += x[start + i] * weight_at(first + i); }
  var total = sum_over_lanes(sum, lane);
  if (lane != 0u) { return; }
  if (HAS_BIAS) { total += bias[expert * p.rows + row]; }
  y[vector * p.rows + row] = total;
}
