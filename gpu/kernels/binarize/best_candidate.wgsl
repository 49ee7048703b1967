// best = the first candidate with the smallest Σ error over the parts; then
//
//   chosen[0] = best                        without MARK
//   chosen[order[k]] = u32(k <= best)       with MARK: the best + 1 first columns of the order
//
// One workgroup: SLICES threads share the parts of a candidate. Errors are not negative, so they compare
// like their bits, and NaN compares greater than infinity and never wins.
// Reference: tests/reference/billm.ts.

override SLICES: u32 = 2;
override MARK: bool = false;
const CANDIDATES = 128u; // the greatest number of candidates

struct Params { parts: u32, candidates: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> error: array<f32>;        // [parts, candidates]
@group(0) @binding(2) var<storage, read> order: array<u32>;        // [cols] with MARK
@group(0) @binding(3) var<storage, read_write> chosen: array<u32>; // [1], or [cols] with MARK

var<workgroup> sums: array<f32, CANDIDATES * SLICES>;
var<workgroup> totals: array<u32, CANDIDATES>; // f32 bits
var<workgroup> places: array<u32, CANDIDATES>;

@compute @workgroup_size(CANDIDATES, SLICES)
fn main(
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n = p.candidates;
  let own = local.x;
  var sum = 0.0;
  if (own < n) {
    var i = local.y;
    for (; i + 3 * SLICES < p.parts; i += 4 * SLICES) {
      let at = i * n + own;
      let step = SLICES * n;
      sum += (error[at] + error[at + step]) + (error[at + 2 * step] + error[at + 3 * step]);
    }
    for (; i < p.parts; i += SLICES) { sum += error[i * n + own]; }
  }
  sums[lane] = sum;
  workgroupBarrier();
  if (local.y == 0) {
    for (var slice = 1u; slice < SLICES; slice++) { sum += sums[slice * CANDIDATES + own]; }
    totals[own] = select(0xffffffffu, bitcast<u32>(sum), own < n);
    places[own] = own;
  }
  workgroupBarrier();
  for (var stride = CANDIDATES / 2; stride > 0; stride /= 2) {
    if (lane < stride) {
      let other = lane + stride;
      let mine = totals[lane];
      let theirs = totals[other];
      if (theirs < mine || (theirs == mine && places[other] < places[lane])) {
        totals[lane] = theirs;
        places[lane] = places[other];
      }
    }
    workgroupBarrier();
  }
  let best = places[0];
  if (MARK) {
    for (var k = lane; k < p.cols; k += CANDIDATES * SLICES) { chosen[order[k]] = u32(k <= best); }
  } else if (lane == 0) {
    chosen[0] = best;
  }
}
