// For each wanted rank: finds the bin of count that holds it, appends the bin to the rank's prefix, and
// assigns each bin found a slot in the next level. After the last level the prefixes are the bits of the
// order statistics, and out[q] is their linear interpolation.
//
// Quantile q is between the ranks 2q (below) and 2q + 1 (above) of `wanted`. A workgroup sums the bins
// of a slot: level 0 has one; level 1 has one per rank (only the first rank of a prefix has its own slot;
// the workgroups of the others return immediately); at level 2 a workgroup handles both ranks of a
// quantile, with half of its threads each. Then a thread per rank searches the prefix sums.
//
// Reference: tests/gpu/kernels/reduce/quantile_test.ts.

override LEVEL: u32 = 0;
override LANES: u32 = 256; // a power of two
override SIDES: u32 = select(1u, 2u, LEVEL == 2);
override BINS: u32 = select(1024u, 2048u, LEVEL == 0); // of a slot
override WIDTH: u32 = LANES / SIDES;                   // threads that add up one slot
override RUN: u32 = BINS / WIDTH;                      // bins of a thread
const BINS0 = 2048u;
const NONE = 0xffffffffu;

struct Wanted { rank: u32, slot: u32, prefix: u32 }

struct Params { quantiles: u32, last: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> place: array<f32>;              // [quantiles], among the sorted values
@group(0) @binding(2) var<storage, read> count: array<u32>;              // [2, slots, 1024]: levels 1, 2
@group(0) @binding(3) var<storage, read_write> count0: array<u32>;       // [BINS0], left at zero
@group(0) @binding(4) var<storage, read_write> wanted: array<Wanted>;    // [2, slots]: after levels 0, 1
@group(0) @binding(5) var<storage, read_write> slot: array<atomic<u32>>; // [BINS0 + slots · 1024]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;          // [quantiles]

var<workgroup> ends: array<u32, BINS0>; // values in this bin and those before it in the thread's run
var<workgroup> sums: array<u32, LANES>; // values in this run of the slot and those before it
var<workgroup> is_first: u32;
var<workgroup> found: array<u32, 2>;

// sums = Σ of `own` over this thread and those before it among WIDTH.
fn add_up(own: u32, lane: u32) {
  var sum = own;
  sums[lane] = own;
  workgroupBarrier();
  for (var stride = 1u; stride < WIDTH; stride *= 2) {
    var other = 0u;
    if (lane % WIDTH >= stride) { other = sums[lane - stride]; }
    workgroupBarrier();
    sum += other;
    sums[lane] = sum;
    workgroupBarrier();
  }
}

// The bin that holds a rank in the slot of a side, and the rank within that bin.
struct Place { bin: u32, rank: u32 }

fn place_of(side: u32, wanted_rank: u32) -> Place {
  var rank = wanted_rank;
  var run = 0u; // the first whose sum exceeds the rank
  for (var width = WIDTH / 2; width > 0; width /= 2) {
    if (sums[side * WIDTH + run + width - 1] <= rank) { run += width; }
  }
  if (run > 0) { rank -= sums[side * WIDTH + run - 1]; }
  let first = side * BINS + run * RUN;
  var bin = 0u;
  for (var width = RUN / 2; width > 0; width /= 2) {
    if (ends[first + bin + width - 1] <= rank) { bin += width; }
  }
  if (bin > 0) { rank -= ends[first + bin - 1]; }
  return Place(run * RUN + bin, rank);
}

fn rank_of(i: u32) -> u32 {
  return min(min(u32(floor(place[i / 2])), p.last) + i % 2, p.last);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let ranks = p.quantiles * 2;
  let side = lane / WIDTH;
  var start = 0u; // of the slot's counts
  if (LEVEL == 1) {
    if (lane == 0) { is_first = u32(wanted[group.x].slot == group.x); }
    if (workgroupUniformLoad(&is_first) == 0) { return; }
    start = group.x * 1024;
  }
  if (LEVEL == 2) { start = (ranks + wanted[ranks + group.x * 2 + side].slot) * 1024; }

  let own = lane % WIDTH * RUN;
  var total = 0u;
  for (var i = own; i < own + RUN; i++) {
    if (LEVEL == 0) {
      total += count0[i];
      count0[i] = 0;
    } else {
      total += count[start + i];
    }
    ends[side * BINS + i] = total;
  }
  add_up(total, lane);

  if (LEVEL == 2) {
    if (lane % WIDTH == 0) {
      let w = wanted[ranks + group.x * 2 + side];
      found[side] = (w.prefix << 10u) | place_of(side, w.rank).bin;
    }
    workgroupBarrier();
    if (lane == 0) {
      let below = bitcast<f32>(found[0]);
      let above = bitcast<f32>(found[1]);
      out[group.x] = below + (above - below) * (place[group.x] - f32(rank_of(group.x * 2)));
    }
    return;
  }

  let table = select(BINS0 + start, 0u, LEVEL == 0);
  for (var i = lane; i < BINS; i += LANES) { atomicStore(&slot[table + i], NONE); }
  storageBarrier();
  workgroupBarrier();
  // The index of the first rank in a bin becomes the bin's slot.
  for (var i = lane; i < ranks; i += LANES) {
    if (LEVEL == 0) {
      let found_at = place_of(0, rank_of(i));
      wanted[i] = Wanted(found_at.rank, 0, found_at.bin);
      atomicMin(&slot[found_at.bin], i);
    } else if (wanted[i].slot == group.x) {
      let w = wanted[i];
      let found_at = place_of(0, w.rank);
      wanted[ranks + i] = Wanted(found_at.rank, 0, (w.prefix << 10u) | found_at.bin);
      atomicMin(&slot[table + found_at.bin], i);
    }
  }
  storageBarrier();
  workgroupBarrier();
  for (var i = lane; i < ranks; i += LANES) {
    if (LEVEL == 0) {
      wanted[i].slot = atomicLoad(&slot[wanted[i].prefix]);
    } else if (wanted[i].slot == group.x) {
      let bin = wanted[ranks + i].prefix & 1023u;
      wanted[ranks + i].slot = atomicLoad(&slot[table + bin]);
    }
  }
}
