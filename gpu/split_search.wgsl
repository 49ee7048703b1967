// error[g, i] = Σ cost · (x - fit(x, |x| < threshold[i]) - fit(x, |x| >= threshold[i]))²
//
// over the ROWS rows of part g and the columns that are not salient; fit is one plane, mean ± scale.
//
// A thread owns a row and four candidates, as in salient_search.wgsl. The salient columns are left
// out when the rows are brought into workgroup memory.
// Source: BiLLM, arXiv:2402.04291, algorithm 2. Reference: tests/reference/billm.ts.

override ROWS: u32 = 32;   // threads
override TILE: u32 = 4096; // ROWS · columns
override QUADS: u32 = 1;   // fours of candidates that a workgroup takes, one after the other
const COLS = 256u;         // a block has at most so many columns

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;          // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;             // [cols]
@group(0) @binding(4) var<storage, read> threshold: array<f32>;        // [candidates]
@group(0) @binding(5) var<storage, read_write> error: array<f32>;      // [parts, candidates]

var<workgroup> tile: array<f32, TILE>;
var<workgroup> costs: array<f32, COLS>;
var<workgroup> totals: array<vec4f, ROWS>;

@compute @workgroup_size(ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = min(group.x * ROWS + lane, p.rows - 1);
  var kept = 0u;
  for (var col = 0u; col < p.cols; col++) {
    if (salient[col] == 1) { continue; }
    tile[kept * ROWS + lane] = values[row * p.cols + col];
    if (lane == 0) { costs[kept] = cost[col]; }
    kept++;
  }
  workgroupBarrier();

  for (var quad = group.y * QUADS; quad < min((group.y + 1) * QUADS, (p.candidates + 3) / 4); quad++) {
    let first = quad * 4;
    let last = p.candidates - 1;
    let limit = vec4f(
      threshold[min(first, last)],
      threshold[min(first + 1, last)],
      threshold[min(first + 2, last)],
      threshold[min(first + 3, last)],
    );
    var n_high = vec4f(0.0);
    var mean_low = vec4f(0.0);
    var mean_high = vec4f(0.0);
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + lane];
      let high = vec4f(abs(x)) >= limit;
      n_high += select(vec4f(0.0), vec4f(1.0), high);
      mean_low += select(vec4f(x), vec4f(0.0), high);
      mean_high += select(vec4f(0.0), vec4f(x), high);
    }
    let n_low = max(f32(kept) - n_high, vec4f(1.0));
    n_high = max(n_high, vec4f(1.0));
    mean_low /= n_low;
    mean_high /= n_high;
    var scale_low = vec4f(0.0);
    var scale_high = vec4f(0.0);
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + lane];
      let high = vec4f(abs(x)) >= limit;
      let d = abs(x - select(mean_low, mean_high, high));
      scale_low += select(d, vec4f(0.0), high);
      scale_high += select(vec4f(0.0), d, high);
    }
    scale_low /= n_low;
    scale_high /= n_high;
    var total = vec4f(0.0);
    for (var k = 0u; k < kept; k++) {
      let x = tile[k * ROWS + lane];
      let high = vec4f(abs(x)) >= limit;
      let e = abs(x - select(mean_low, mean_high, high)) - select(scale_low, scale_high, high);
      total += costs[k] * e * e;
    }
    totals[lane] = select(vec4f(0.0), total, group.x * ROWS + lane < p.rows);
    workgroupBarrier();
    if (lane < 4 && first + lane < p.candidates) {
      var sum = 0.0;
      for (var i = 0u; i < ROWS; i++) { sum += totals[i][lane]; }
      error[group.x * p.candidates + first + lane] = sum;
    }
    workgroupBarrier(); // the next four overwrite the totals
  }
}
