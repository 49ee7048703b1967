// The first place of each expert's pairs, and tiles of at most ROWS pairs of one expert each. tiles[0] is
// their number; tile i is (expert, first place, end) at 3 i + 1. One workgroup.
//
// Reference: tests/gpu/kernels/experts/sort_pairs_test.ts.

override ROWS: u32;
const THREADS = 256u;
const MOST = 1024u; // experts

struct Params { experts: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> counts: array<u32>;       // [experts]
@group(0) @binding(2) var<storage, read_write> starts: array<u32>; // [experts + 1]
@group(0) @binding(3) var<storage, read_write> tiles: array<u32>;  // [3 tiles + 1]

var<workgroup> pairs_before: array<u32, MOST>;
var<workgroup> tiles_before: array<u32, MOST>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  for (var e = thread; e < p.experts; e += THREADS) { pairs_before[e] = counts[e]; }
  workgroupBarrier();
  if (thread == 0u) {
    var pairs = 0u;
    var count = 0u;
    for (var e = 0u; e < p.experts; e++) {
      let own = pairs_before[e];
      pairs_before[e] = pairs;
      tiles_before[e] = count;
      pairs += own;
      count += (own + ROWS - 1u) / ROWS;
    }
    starts[p.experts] = pairs;
    tiles[0] = count;
  }
  workgroupBarrier();
  for (var e = thread; e < p.experts; e += THREADS) {
    let first = pairs_before[e];
    let end = first + counts[e];
    starts[e] = first;
    var at = 3u * tiles_before[e] + 1u;
    for (var place = first; place < end; place += ROWS) {
      tiles[at] = e;
      tiles[at + 1u] = place;
      tiles[at + 2u] = min(end, place + ROWS);
      at += 3u;
    }
  }
}
