// Counts the values that share a prefix with one of the wanted ranks, by their next bits.
//
// |x| of a float orders like its bits, so order statistics are found by counting: level 0 counts the
// top 12 bits, level 1 the next 10 within each prefix that holds a wanted rank, level 2 the last 10.
// Columns marked salient count as zeros. slot0 and slot1 map a prefix to its place in count, or NONE.
//
// Reference: tests/gpu/quantile_test.ts.

override LEVEL: u32 = 0;
const NONE = 0xffffffffu;

struct Params { size: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;                // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;               // [cols]
@group(0) @binding(3) var<storage, read> slot0: array<u32>;                 // [4096]
@group(0) @binding(4) var<storage, read> slot1: array<u32>;                 // [slots, 1024]
@group(0) @binding(5) var<storage, read_write> count: array<atomic<u32>>;   // [4096] or [slots, 1024]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i >= p.size) { return; }
  let value = select(abs(values[i]), 0.0, salient[i % p.cols] == 1);
  let key = bitcast<u32>(value);
  var at = key >> 20u;
  if (LEVEL > 0) {
    let slot = slot0[at];
    if (slot == NONE) { return; }
    at = slot * 1024 + ((key >> 10u) & 1023u);
  }
  if (LEVEL > 1) {
    let slot = slot1[at];
    if (slot == NONE) { return; }
    at = slot * 1024 + (key & 1023u);
  }
  atomicAdd(&count[at], 1u);
}
