// error[g, i] = Σ r S rᵀ over the ROWS rows of part g, where r is what the fits of a row leave:
//
//   r = x - fit(x, |x| < threshold[i]) - fit(x, |x| >= threshold[i]) - two planes of the salient columns
//
// and S the second moments of the block's columns; fit is one plane, mean ± scale.
//
// One workgroup per part and candidate: LANES threads fit a row; then a thread multiplies four rows with four
// columns of S at a time.
// Source: ARB-LLM with calibration, arXiv:2410.03129. Reference: tests/gpu/kernels/binarize/split_output_test.ts.

override ROWS: u32 = 16; // a multiple of four
override LANES: u32 = 8;
override STRIDE: u32 = 128; // of a row, a multiple of four
override THREADS: u32 = ROWS * LANES;
override TILE: u32 = ROWS * STRIDE;

// S begins at `start` of a matrix of `stride` columns.
struct Params { rows: u32, cols: u32, candidates: u32, start: u32, stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;     // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> moments: array<f32>;     // S, symmetric
@group(0) @binding(4) var<storage, read> threshold: array<f32>;   // [candidates]
@group(0) @binding(5) var<storage, read_write> error: array<f32>; // [parts, candidates]

var<workgroup> tile: array<f32, TILE>;
var<workgroup> shares: array<vec3f, THREADS>;
var<workgroup> totals: array<f32, THREADS>;

fn over_row(own: vec3f, lane: u32) -> vec3f {
  shares[lane] = own;
  workgroupBarrier();
  var sum = vec3f(0.0);
  let first = lane / LANES * LANES;
  for (var i = first; i < first + LANES; i++) { sum += shares[i]; }
  workgroupBarrier(); // the next call overwrites the shares
  return sum;
}

// Low, high, salient.
fn of_class(class_: u32, x: f32) -> vec3f {
  return select(vec3f(0.0), vec3f(x), vec3u(0, 1, 2) == vec3u(class_));
}

fn sign_of(x: f32) -> f32 { return select(-1.0, 1.0, x >= 0.0); }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x * ROWS + lane / LANES;
  let share = lane % LANES;
  let at = lane / LANES * STRIDE;
  let limit = threshold[group.y];
  let from_row = min(row, p.rows - 1) * p.cols;
  var count = vec3f(0.0);
  var sum = vec3f(0.0);
  for (var col = share; col < p.cols; col += LANES) {
    let x = values[from_row + col];
    tile[at + col] = x;
    let class_ = select(select(0u, 1u, abs(x) >= limit), 2u, salient[col] == 1);
    count += of_class(class_, 1.0);
    sum += of_class(class_, x);
  }
  count = max(over_row(count, lane), vec3f(1.0));
  let mean = over_row(sum, lane) / count;
  sum = vec3f(0.0);
  for (var col = share; col < p.cols; col += LANES) {
    let x = tile[at + col];
    let class_ = select(select(0u, 1u, abs(x) >= limit), 2u, salient[col] == 1);
    sum += of_class(class_, abs(x - mean[class_]));
  }
  let scale = over_row(sum, lane) / count;
  var left = 0.0;
  for (var col = share; col < p.cols; col += LANES) {
    let x = tile[at + col];
    let class_ = select(select(0u, 1u, abs(x) >= limit), 2u, salient[col] == 1);
    let r = x - mean[class_];
    tile[at + col] = r - sign_of(r) * scale[class_];
    if (class_ == 2) { left += tile[at + col]; }
  }
  // The second plane of the salient columns.
  let mean2 = over_row(vec3f(left), lane).x / count.z;
  var far = 0.0;
  for (var col = share; col < p.cols; col += LANES) {
    if (salient[col] == 1) { far += abs(tile[at + col] - mean2); }
  }
  let scale2 = over_row(vec3f(far), lane).x / count.z;
  for (var col = share; col < STRIDE; col += LANES) {
    var r = 0.0; // beyond the last column or row
    if (col < p.cols && row < p.rows) {
      r = tile[at + col];
      if (salient[col] == 1) { r = r - mean2 - sign_of(r - mean2) * scale2; }
    }
    tile[at + col] = r;
  }
  workgroupBarrier();
  let quads = STRIDE / 4;
  var total = 0.0;
  for (var i = lane; i < ROWS / 4 * quads; i += THREADS) {
    let first = i / quads * 4 * STRIDE;
    let col = i % quads * 4;
    let near = min(vec4u(col) + vec4u(0, 1, 2, 3), vec4u(p.cols - 1)); // r is 0 beyond
    var sums: array<vec4f, 4>;
    for (var k = 0u; k < p.cols; k++) {
      let m = vec4u(p.start + k * p.stride) + near;
      let s = vec4f(moments[m.x], moments[m.y], moments[m.z], moments[m.w]);
      sums[0] += tile[first + k] * s;
      sums[1] += tile[first + STRIDE + k] * s;
      sums[2] += tile[first + 2 * STRIDE + k] * s;
      sums[3] += tile[first + 3 * STRIDE + k] * s;
    }
    for (var r = 0u; r < 4; r++) {
      let own = first + r * STRIDE + col;
      total += dot(sums[r], vec4f(tile[own], tile[own + 1], tile[own + 2], tile[own + 3]));
    }
  }
  totals[lane] = total;
  workgroupBarrier();
  if (lane > 0) { return; }
  for (var i = 1u; i < THREADS; i++) { total += totals[i]; }
  error[group.x * p.candidates + group.y] = max(total, 0.0);
}
