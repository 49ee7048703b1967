// error[g, i] = Σ cost · (x - fit(x, |x| < threshold[i]) - fit(x, |x| >= threshold[i]))²
//
// over the rows of part g and the columns that are not salient; fit is one plane, mean ± scale.
//
// A thread is one candidate, as in salient_search.wgsl.
// Source: BiLLM, arXiv:2402.04291, algorithm 2. Reference: tests/reference/billm.ts.

override CANDIDATES: u32 = 96; // threads, a multiple of 32
override ROWS: u32 = 16;

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;          // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;             // [cols]
@group(0) @binding(4) var<storage, read> threshold: array<f32>;        // [candidates]
@group(0) @binding(5) var<storage, read_write> error: array<f32>;      // [parts, candidates]

const VECTORS = 64u; // blocks have at most 256 columns
var<workgroup> x: array<array<f32, 4>, VECTORS>;
var<workgroup> c: array<array<f32, 4>, VECTORS>;
var<workgroup> kept: array<array<f32, 4>, VECTORS>; // 1 for a column that is not salient

fn load4(v: array<f32, 4>) -> vec4f { return vec4f(v[0], v[1], v[2], v[3]); }

@compute @workgroup_size(CANDIDATES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = (p.cols + 3) / 4;
  for (var col = lane; col < quads * 4; col += CANDIDATES) {
    var value = vec2f(0.0);
    if (col < p.cols) { value = f32(1 - salient[col]) * vec2f(cost[col], 1.0); }
    c[col / 4][col % 4] = value.x;
    kept[col / 4][col % 4] = value.y;
  }
  let limit = vec4f(threshold[min(lane, p.candidates - 1)]);
  var total = 0.0;
  for (var row = group.x * ROWS; row < min((group.x + 1) * ROWS, p.rows); row++) {
    workgroupBarrier(); // the last row is done with
    for (var col = lane; col < quads * 4; col += CANDIDATES) {
      var value = 0.0;
      if (col < p.cols) { value = values[row * p.cols + col]; }
      x[col / 4][col % 4] = value;
    }
    workgroupBarrier();
    var low = vec2f(0.0); // count, Σ x
    var high = vec2f(0.0);
    for (var q = 0u; q < quads; q++) {
      let v = load4(x[q]);
      let k = load4(kept[q]);
      let h = select(vec4f(0.0), k, abs(v) >= limit);
      low += vec2f(dot(k - h, vec4f(1.0)), dot(k - h, v));
      high += vec2f(dot(h, vec4f(1.0)), dot(h, v));
    }
    let mean_low = low.y / max(low.x, 1.0);
    let mean_high = high.y / max(high.x, 1.0);
    var abs_low = 0.0;
    var abs_high = 0.0;
    for (var q = 0u; q < quads; q++) {
      let v = load4(x[q]);
      let k = load4(kept[q]);
      let is_high = abs(v) >= limit;
      let d = abs(v - select(vec4f(mean_low), vec4f(mean_high), is_high));
      let h = select(vec4f(0.0), k, is_high);
      abs_low += dot(k - h, d);
      abs_high += dot(h, d);
    }
    let scale_low = abs_low / max(low.x, 1.0);
    let scale_high = abs_high / max(high.x, 1.0);
    for (var q = 0u; q < quads; q++) {
      let v = load4(x[q]);
      let is_high = abs(v) >= limit;
      let e = abs(v - select(vec4f(mean_low), vec4f(mean_high), is_high)) -
        select(vec4f(scale_low), vec4f(scale_high), is_high);
      total += dot(load4(c[q]), e * e);
    }
  }
  if (lane < p.candidates) { error[group.x * p.candidates + lane] = total; }
}
