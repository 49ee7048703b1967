// Counts the values that share a prefix with one of the wanted ranks, by their next bits.
//
// |x| of a float compares like its bits, so order statistics are found by a radix search: level 0 counts
// the top 11 bits, level 1 the next 10 within each prefix that holds a wanted rank, level 2 the last 10.
// Salient columns count as zeros. slot0 and slot1 map a prefix to its slot in count, or NONE.
//
// Most weights share a few of the first prefixes, so level 0 counts in workgroup memory, and each
// workgroup adds its bins to the global ones. It also clears the counts of the later levels.
// quantile_pick.wgsl resets those of level 0 to zero.
//
// Reference: tests/gpu/kernels/reduce/quantile_test.ts.

override LEVEL: u32 = 0;
override LANES: u32 = 256;
const BINS0 = 2048u;
const NONE = 0xffffffffu;

struct Params { size: u32, cols: u32, clear: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;               // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;              // [cols]
@group(0) @binding(3) var<storage, read> slot: array<u32>;                 // [BINS0 + slots · 1024]
@group(0) @binding(4) var<storage, read_write> count0: array<atomic<u32>>; // [BINS0]
@group(0) @binding(5) var<storage, read_write> count: array<atomic<u32>>;  // [2, slots, 1024]: levels 1, 2

var<workgroup> bins: array<atomic<u32>, BINS0>;

fn count_key(key: u32) {
  if (LEVEL == 0) {
    atomicAdd(&bins[key >> 20u], 1u);
    return;
  }
  let place = slot[key >> 20u];
  if (place == NONE) { return; }
  let at = place * 1024 + ((key >> 10u) & 1023u);
  if (LEVEL == 1) {
    atomicAdd(&count[at], 1u);
    return;
  }
  let next = slot[BINS0 + at];
  if (next != NONE) { atomicAdd(&count[p.clear / 2 + next * 1024 + (key & 1023u)], 1u); }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let step = groups.x * LANES;
  let thread = group.x * LANES + lane;
  if (LEVEL == 0) {
    for (var i = thread; i < p.clear; i += step) { atomicStore(&count[i], 0u); }
  }
  let step_cols = step % p.cols;
  var col = thread % p.cols;
  for (var i = thread; i < p.size; i += step) {
    let value = select(abs(values[i]), 0.0, salient[col] == 1);
    count_key(bitcast<u32>(value));
    col += step_cols;
    if (col >= p.cols) { col -= p.cols; }
  }
  if (LEVEL == 0) {
    workgroupBarrier();
    for (var bin = lane; bin < BINS0; bin += LANES) {
      let found = atomicLoad(&bins[bin]);
      if (found > 0) { atomicAdd(&count0[bin], found); }
    }
  }
}
