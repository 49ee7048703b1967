// For each wanted rank: finds the bin of count that holds it, appends the bin to the rank's prefix,
// and gives each bin so found a slot in the next level. After the last level the prefixes are the
// bits of the order statistics, and out[q] = their linear interpolation.
//
// One workgroup; a thread handles one quantile: the rank below and the rank above. The slots are
// numbered by the first thread, one for each different bin.
//
// Reference: tests/gpu/quantile_test.ts.

override LEVEL: u32 = 0;
override BINS: u32 = select(1024u, 4096u, LEVEL == 0);
const MAX_QUANTILES = 128u;
const NONE = 0xffffffffu;

struct Wanted { rank: u32, slot: u32, prefix: u32 }

@group(0) @binding(0) var<uniform> quantiles: u32;
@group(0) @binding(1) var<storage, read> count: array<u32>;                 // [slots, BINS]
@group(0) @binding(2) var<storage, read> weight: array<f32>;                // [quantiles], towards the rank above
@group(0) @binding(3) var<storage, read_write> wanted: array<Wanted>;       // [quantiles, 2]
@group(0) @binding(4) var<storage, read_write> slots: array<u32>;           // [slots, BINS], set to NONE before
@group(0) @binding(5) var<storage, read_write> out: array<f32>;             // [quantiles]

var<workgroup> bins: array<u32, MAX_QUANTILES * 2>;

@compute @workgroup_size(MAX_QUANTILES)
fn main(@builtin(local_invocation_index) lane: u32) {
  if (lane < quantiles) {
    for (var side = 0u; side < 2; side++) {
      var w = wanted[lane * 2 + side];
      let start = w.slot * BINS;
      var bin = 0u;
      var inside = count[start];
      while (w.rank >= inside && bin + 1 < BINS) {
        w.rank -= inside;
        bin++;
        inside = count[start + bin];
      }
      w.prefix = (w.prefix << select(10u, 12u, LEVEL == 0)) | bin;
      bins[lane * 2 + side] = start + bin;
      wanted[lane * 2 + side] = w;
    }
    if (LEVEL == 2) {
      let below = bitcast<f32>(wanted[lane * 2].prefix);
      let above = bitcast<f32>(wanted[lane * 2 + 1].prefix);
      out[lane] = below + (above - below) * weight[lane];
    }
  }
  if (LEVEL == 2) { return; }
  storageBarrier();
  workgroupBarrier();
  if (lane != 0) { return; }
  var next = 0u;
  for (var i = 0u; i < quantiles * 2; i++) {
    if (slots[bins[i]] == NONE) {
      slots[bins[i]] = next;
      next++;
    }
    wanted[i].slot = slots[bins[i]];
  }
}
