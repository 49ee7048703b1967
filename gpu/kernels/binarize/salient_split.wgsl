// error[g, i] = Σ cost · (x - fit(x, |x| < threshold[i]) - fit(x, |x| >= threshold[i]))²
//
// over the ROWS rows of part g and the columns that are not excluded; fit is two planes, each mean ± scale,
// the second one of what the first one leaves.
//
// A thread owns a row and every SLOTS-th candidate.
// Source: the column group bitmap of ARB-LLM, arXiv:2410.03129. Reference: tests/reference/arb.ts.

override ROWS: u32 = 16;
override SLOTS: u32 = 8;
override TILE: u32 = 2176; // ROWS · columns
override THREADS: u32 = ROWS * SLOTS;
const COLS = 256u; // the greatest number of columns of a block

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> excluded: array<u32>;    // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;        // [cols]
@group(0) @binding(4) var<storage, read> threshold: array<f32>;   // [candidates]
@group(0) @binding(5) var<storage, read_write> error: array<f32>; // [parts, candidates]

var<workgroup> tile: array<f32, TILE>;    // [columns][ROWS]
var<workgroup> columns: array<u32, COLS>; // those that are not excluded
var<workgroup> kept: u32;
var<workgroup> totals: array<f32, THREADS>;

// The first plane of both halves, low and high: means and scales; then the second one.
struct Fits { mean: vec2f, scale: vec2f, mean2: vec2f, scale2: vec2f }

fn sign_of(x: f32) -> f32 { return select(-1.0, 1.0, x >= 0.0); }

@compute @workgroup_size(ROWS, SLOTS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  if (lane == 0) {
    var found = 0u;
    for (var col = 0u; col < p.cols; col++) {
      if (excluded[col] == 0) { columns[found] = col; found++; }
    }
    kept = found;
  }
  workgroupBarrier();
  let row = min(group.x * ROWS + local.x, p.rows - 1);
  for (var k = local.y; k < kept; k += SLOTS) {
    tile[k * ROWS + local.x] = values[row * p.cols + columns[k]];
  }
  workgroupBarrier();
  for (var turn = 0u; turn < p.candidates; turn += SLOTS) {
    let candidate = turn + local.y;
    let limit = threshold[min(candidate, p.candidates - 1)];
    var fits = Fits();
    var n = vec2f(0.0);
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + local.x];
      let half = select(vec2f(1.0, 0.0), vec2f(0.0, 1.0), abs(x) >= limit);
      n += half;
      fits.mean += x * half;
    }
    n = max(n, vec2f(1.0));
    fits.mean /= n;
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + local.x];
      fits.scale += select(vec2f(abs(x - fits.mean.x), 0.0), vec2f(0.0, abs(x - fits.mean.y)), abs(x) >= limit);
    }
    fits.scale /= n;
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + local.x];
      let z = select(0u, 1u, abs(x) >= limit);
      let r = x - fits.mean[z];
      let left = r - sign_of(r) * fits.scale[z];
      fits.mean2 += select(vec2f(left, 0.0), vec2f(0.0, left), z == 1);
    }
    fits.mean2 /= n;
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + local.x];
      let z = select(0u, 1u, abs(x) >= limit);
      let r = x - fits.mean[z];
      let left = abs(r - sign_of(r) * fits.scale[z] - fits.mean2[z]);
      fits.scale2 += select(vec2f(left, 0.0), vec2f(0.0, left), z == 1);
    }
    fits.scale2 /= n;
    var total = 0.0;
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + local.x];
      let z = select(0u, 1u, abs(x) >= limit);
      let r = x - fits.mean[z];
      let e = abs(r - sign_of(r) * fits.scale[z] - fits.mean2[z]) - fits.scale2[z];
      total += cost[columns[k]] * e * e;
    }
    totals[lane] = select(0.0, total, group.x * ROWS + local.x < p.rows);
    workgroupBarrier();
    if (local.x == 0 && candidate < p.candidates) {
      var sum = 0.0;
      for (var i = 0u; i < ROWS; i++) { sum += totals[local.y * ROWS + i]; }
      error[group.x * p.candidates + candidate] = sum;
    }
    workgroupBarrier(); // the next candidates overwrite the totals
  }
}
