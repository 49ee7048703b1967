// The number of (token, slot) pairs of each expert; or, if PLACES, the pairs of each expert one after the
// other, by rising expert and then by rising pair. One workgroup per expert; each of its threads counts in
// a range of pairs of its own, so that the order does not depend on chance.
//
// Reference: tests/gpu/kernels/experts/sort_pairs_test.ts.

override PLACES: bool;
const THREADS = 256u;

struct Params { pairs: u32, k: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> routing: array<f32>;   // [tokens, 2 k]
@group(0) @binding(2) var<storage, read> starts: array<u32>;    // [experts + 1]
@group(0) @binding(3) var<storage, read_write> out: array<u32>; // [experts] counts, or [pairs]

var<workgroup> counts: array<u32, THREADS>;

fn expert_of(pair: u32) -> u32 {
  return u32(routing[pair / p.k * 2u * p.k + pair % p.k]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let expert = group.x;
  let each = (p.pairs + THREADS - 1u) / THREADS;
  let first = min(p.pairs, thread * each);
  let end = min(p.pairs, first + each);
  var count = 0u;
  for (var pair = first; pair < end; pair++) { count += u32(expert_of(pair) == expert); }
  counts[thread] = count;
  workgroupBarrier();
  // Inclusive prefix sums.
  for (var step = 1u; step < THREADS; step *= 2u) {
    var before = 0u;
    if (thread >= step) { before = counts[thread - step]; }
    workgroupBarrier();
    counts[thread] += before;
    workgroupBarrier();
  }
  if (!PLACES) {
    if (thread == THREADS - 1u) { out[expert] = counts[thread]; }
    return;
  }
  var place = starts[expert] + counts[thread] - count;
  for (var pair = first; pair < end; pair++) {
    if (expert_of(pair) == expert) {
      out[place] = pair;
      place++;
    }
  }
}
