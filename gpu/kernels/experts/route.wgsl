// The experts of each token: those with the K greatest logits, and their parts in softmax(logits), over
// all experts or, if RENORMALIZED, over the chosen ones. Of equal logits the first counts. One workgroup
// per token.
//
// Reference: tests/gpu/kernels/experts/route_test.ts.

override RENORMALIZED: bool;
override HAS_BIAS: bool;
const LANES = 64u;
const MOST = 1024u; // experts

struct Params { tokens: u32, experts: u32, k: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [tokens, experts]
@group(0) @binding(2) var<storage, read> bias: array<f32>;          // [experts]
@group(0) @binding(3) var<storage, read_write> routing: array<f32>; // [tokens, 2 k]: experts, then weights

var<workgroup> values: array<f32, MOST>;
var<workgroup> tops: array<f32, LANES>;
var<workgroup> places: array<u32, LANES>;
var<workgroup> sums: array<f32, LANES>;

const LOWEST = -3.4e38;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token = group.y * groups.x + group.x;
  if (token >= p.tokens) { return; } // the whole workgroup
  for (var e = lane; e < p.experts; e += LANES) {
    var logit = logits[token * p.experts + e];
    if (HAS_BIAS) { logit += bias[e]; }
    values[e] = logit;
  }
  var greatest = 0.0;
  var total = 0.0;
  for (var slot = 0u; slot < p.k; slot++) {
    // Each lane takes every so many experts, which only it writes and reads.
    var top = LOWEST;
    var place = p.experts;
    for (var e = lane; e < p.experts; e += LANES) {
      if (values[e] > top) { top = values[e]; place = e; }
    }
    tops[lane] = top;
    places[lane] = place;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
      if (lane < half) {
        let other = lane + half;
        let is_better = tops[other] > tops[lane] ||
          (tops[other] == tops[lane] && places[other] < places[lane]);
        if (is_better) { tops[lane] = tops[other]; places[lane] = places[other]; }
      }
      workgroupBarrier();
    }
    let found = min(places[0], p.experts - 1u); // NaN is not found
    let value = tops[0];
    workgroupBarrier();
    if (slot == 0u) {
      greatest = value;
      if (!RENORMALIZED) {
        var sum = 0.0;
        for (var e = lane; e < p.experts; e += LANES) { sum += exp(values[e] - greatest); }
        sums[lane] = sum;
        workgroupBarrier();
        for (var i = 0u; i < LANES; i++) { total += sums[i]; }
      }
    }
    if (found % LANES == lane) { values[found] = LOWEST; }
    let weight = exp(value - greatest);
    if (RENORMALIZED) { total += weight; }
    if (lane == 0u) {
      routing[token * 2u * p.k + slot] = f32(found);
      routing[token * 2u * p.k + p.k + slot] = weight;
    }
  }
  if (lane != 0u) { return; }
  for (var slot = 0u; slot < p.k; slot++) { routing[token * 2u * p.k + p.k + slot] /= total; }
}
