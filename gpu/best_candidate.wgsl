// best = the first candidate with the smallest Σ error over the parts.
//
// One workgroup of 128 threads, one candidate each. Errors are not negative, so they order like their
// bits, and a NaN comes after infinity: it never wins.
// Reference: tests/reference/billm.ts.

struct Params { parts: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> error: array<f32>;            // [parts, candidates]
@group(0) @binding(2) var<storage, read_write> best: array<u32>;       // [1]

var<workgroup> totals: array<u32, 128>; // f32 bits

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) lane: u32) {
  var total = 0.0;
  if (lane < p.candidates) {
    for (var i = 0u; i < p.parts; i++) { total += error[i * p.candidates + lane]; }
  }
  totals[lane] = bitcast<u32>(total);
  workgroupBarrier();
  if (lane != 0) { return; }
  var winner = 0u;
  for (var i = 1u; i < p.candidates; i++) {
    if (totals[i] < totals[winner]) { winner = i; }
  }
  best[0] = winner;
}
