// error[g, i] = Σ cost · (x - fit(x, |x| < threshold[i]) - fit(x, |x| >= threshold[i]))²
//
// over the ROWS rows of part g and the columns that are not salient; fit is one plane, mean ± scale. The
// sums of the low zone are those of all columns minus those of the high zone.
//
// A thread owns a row and four candidates, as in salient_search.wgsl. Salient columns are skipped when
// the rows are loaded into workgroup memory.
// Source: BiLLM, arXiv:2402.04291, algorithm 2. Reference: tests/reference/billm.ts.

override ROWS: u32 = 16;
override SLOTS: u32 = 4;    // groups of four candidates in parallel
override QUADS: u32 = 1;    // groups of four candidates per thread, in sequence
override TILE: u32 = 2176;  // (ROWS + 1) · columns
override LOADERS: u32 = 32; // threads that load a row together
const COLS = 256u;          // the greatest number of columns of a block

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;     // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;        // [cols]
@group(0) @binding(4) var<storage, read> threshold: array<f32>;   // [candidates]
@group(0) @binding(5) var<storage, read_write> error: array<f32>; // [parts, candidates]

var<workgroup> tile: array<f32, TILE>;
var<workgroup> costs: array<f32, COLS>;
var<workgroup> columns: array<u32, COLS>;            // those that are not salient
var<workgroup> marks: array<atomic<u32>, COLS / 32>; // their bits
var<workgroup> totals: array<vec4f, ROWS * SLOTS>;

// The number and the sum of the entries in the high zone.
struct Zone { n: vec4f, x: vec4f }

fn add_zone(high: ptr<function, Zone>, x: f32, limit: vec4f) {
  let one = select(vec4f(0.0), vec4f(1.0), vec4f(abs(x)) >= limit);
  (*high).n += one;
  (*high).x += one * x;
}

// The fits of four candidates: mean and scale of the low and the high zone.
struct Fits { low: vec4f, high: vec4f, low_scale: vec4f, high_scale: vec4f }

// The sums of distances from the mean, over both zones and over the high zone.
struct Spread { all: vec4f, high: vec4f }

fn add_spread(sums: ptr<function, Spread>, x: f32, limit: vec4f, fits: Fits) {
  let high = vec4f(abs(x)) >= limit;
  let d = abs(x - select(fits.low, fits.high, high));
  (*sums).all += d;
  (*sums).high += select(vec4f(0.0), d, high);
}

fn error_of(x: f32, c: f32, limit: vec4f, fits: Fits) -> vec4f {
  let high = vec4f(abs(x)) >= limit;
  let e = abs(x - select(fits.low, fits.high, high)) -
    select(fits.low_scale, fits.high_scale, high);
  return c * e * e;
}

@compute @workgroup_size(ROWS, SLOTS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let stride = ROWS + 1;
  for (var col = lane; col < p.cols; col += ROWS * SLOTS) {
    if (salient[col] == 0) { atomicOr(&marks[col / 32], 1u << (col % 32)); }
  }
  workgroupBarrier();
  for (var col = lane; col < p.cols; col += ROWS * SLOTS) {
    let word = atomicLoad(&marks[col / 32]);
    if (((word >> (col % 32)) & 1u) == 0u) { continue; }
    var k = countOneBits(word & ((1u << (col % 32)) - 1));
    for (var i = 0u; i < col / 32; i++) { k += countOneBits(atomicLoad(&marks[i])); }
    columns[k] = col;
    costs[k] = cost[col];
  }
  var kept = 0u;
  for (var i = 0u; i < COLS / 32; i++) { kept += countOneBits(atomicLoad(&marks[i])); }
  workgroupBarrier();
  for (var r = lane / LOADERS; r < ROWS; r += ROWS * SLOTS / LOADERS) {
    let start = min(group.x * ROWS + r, p.rows - 1) * p.cols;
    for (var first = lane % LOADERS; first < kept; first += 4 * LOADERS) {
      let k = first + LOADERS * vec4u(0, 1, 2, 3);
      let near = min(k, vec4u(kept - 1));
      let x = vec4f( // four loads in flight
        values[start + columns[near.x]],
        values[start + columns[near.y]],
        values[start + columns[near.z]],
        values[start + columns[near.w]],
      );
      tile[k.x * stride + r] = x.x;
      if (k.y < kept) { tile[k.y * stride + r] = x.y; }
      if (k.z < kept) { tile[k.z * stride + r] = x.z; }
      if (k.w < kept) { tile[k.w * stride + r] = x.w; }
    }
  }
  workgroupBarrier();

  for (var turn = 0u; turn < QUADS; turn++) {
    let first = ((group.y * QUADS + turn) * SLOTS + local.y) * 4;
    var total = vec4f(0.0);
    if (first < p.candidates) {
      let last = p.candidates - 1;
      let limit = vec4f(
        threshold[first],
        threshold[min(first + 1, last)],
        threshold[min(first + 2, last)],
        threshold[min(first + 3, last)],
      );
      let at = local.x;
      var high = Zone();
      var total_x = 0.0;
      var k = 0u;
      for (; k + 3 < kept; k += 4) {
        let i = k * stride + at;
        let x = vec4f(tile[i], tile[i + stride], tile[i + 2 * stride], tile[i + 3 * stride]);
        total_x += (x.x + x.y) + (x.z + x.w);
        add_zone(&high, x.x, limit);
        add_zone(&high, x.y, limit);
        add_zone(&high, x.z, limit);
        add_zone(&high, x.w, limit);
      }
      for (; k < kept; k++) {
        let x = tile[k * stride + at];
        total_x += x;
        add_zone(&high, x, limit);
      }
      let n_low = max(f32(kept) - high.n, vec4f(1.0));
      let n_high = max(high.n, vec4f(1.0));
      var fits = Fits((total_x - high.x) / n_low, high.x / n_high, vec4f(0.0), vec4f(0.0));
      var sums = Spread();
      for (k = 0; k + 3 < kept; k += 4) {
        let i = k * stride + at;
        add_spread(&sums, tile[i], limit, fits);
        add_spread(&sums, tile[i + stride], limit, fits);
        add_spread(&sums, tile[i + 2 * stride], limit, fits);
        add_spread(&sums, tile[i + 3 * stride], limit, fits);
      }
      for (; k < kept; k++) { add_spread(&sums, tile[k * stride + at], limit, fits); }
      fits.low_scale = (sums.all - sums.high) / n_low;
      fits.high_scale = sums.high / n_high;
      for (k = 0; k + 3 < kept; k += 4) {
        let i = k * stride + at;
        total += error_of(tile[i], costs[k], limit, fits);
        total += error_of(tile[i + stride], costs[k + 1], limit, fits);
        total += error_of(tile[i + 2 * stride], costs[k + 2], limit, fits);
        total += error_of(tile[i + 3 * stride], costs[k + 3], limit, fits);
      }
      for (; k < kept; k++) { total += error_of(tile[k * stride + at], costs[k], limit, fits); }
    }
    totals[lane] = select(vec4f(0.0), total, group.x * ROWS + local.x < p.rows);
    workgroupBarrier();
    if (lane < 4 * SLOTS) {
      let candidate = ((group.y * QUADS + turn) * SLOTS + lane / 4) * 4 + lane % 4;
      var sum = 0.0;
      for (var i = 0u; i < ROWS; i++) { sum += totals[lane / 4 * ROWS + i][lane % 4]; }
      if (candidate < p.candidates) { error[group.x * p.candidates + candidate] = sum; }
    }
    workgroupBarrier(); // the next fours overwrite the totals
  }
}
