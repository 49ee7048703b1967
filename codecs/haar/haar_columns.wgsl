// Quantizes a block by HBLLM-col: the Haar transform of each pair of rows; the coefficients of each
// coefficient row are split with a shared mean, those of salient columns apart, with own means.
//
//   low, high = (W_even row ± W_odd row) / √2;   Q = (low ± high) / √2
//
// With FEEDBACK, columns settle one after the other, and later columns of the block first compensate for
// their errors: a transform of rows commutes with that.
//
// One workgroup per pair of rows, with a team for each list. haar_split.wgsl provides the bindings and
// fit_lists(); tile holds the coefficient rows, codes are [rows, words, 2], scales [rows, blocks, 7].
// Source: HBLLM. Reference: tests/reference/haar.ts.

var<workgroup> list: array<u32, ENTRIES>; // ordinary columns, then salient ones
var<workgroup> listed: array<u32, 2>;

fn put(row: u32, col: u32, found: Coefficient) {
  let at = (row * p.words + (p.first + col) / 32) * 2;
  if (found.sign == 1) { atomicOr(&codes[at], 1u << (col % 32)); }
  if (found.group == 1) { atomicOr(&codes[at + 1], 1u << (col % 32)); }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first_row = 2 * (group.y * groups.x + group.x);
  if (first_row >= p.rows) { return; } // the whole workgroup
  let me = Thread(lane / LANES, lane % LANES);
  let band = me.team % 2;
  let is_apart = me.team / 2; // 1 for salient columns
  for (var col = lane; col < p.cols; col += THREADS) {
    let even = weight[first_row * p.cols + col];
    let odd = weight[(first_row + 1) * p.cols + col];
    tile[col] = (even + odd) * HALF;
    tile[COLS + col] = (even - odd) * HALF;
  }
  if (lane < 2) {
    var found = 0u;
    for (var col = 0u; col < p.cols; col++) {
      if (salient[col] == lane) { list[lane * COLS + found] = col; found++; }
    }
    listed[lane] = found;
  }
  if (first_row == 0) { store_mask(lane); }
  workgroupBarrier();
  let n = listed[is_apart];
  for (var i = me.lane; i < n; i += LANES) {
    values[me.team * WIDTH + i] = tile[band * COLS + list[is_apart * COLS + i]];
  }
  workgroupBarrier();
  fit_lists(me, n, is_apart == 0);
  if (me.lane == 0) {
    let at = ((first_row + band) * p.blocks + p.block) * 7;
    let stored = select(vec4f(0.0), rounded_fit(fits[me.team]), vec4<bool>(n > 0));
    if (is_apart == 0) {
      scales[at] = stored.x;
      scales[at + 1] = stored.y;
      scales[at + 2] = stored.w;
    } else {
      for (var i = 0u; i < 4; i++) { scales[at + 3 + i] = stored[i]; }
    }
  }
  if (!FEEDBACK) {
    for (var col = lane; col < p.cols; col += THREADS) {
      let apart = 2 * salient[col];
      let low = coefficient(apart, tile[col]);
      let high = coefficient(apart + 1, tile[COLS + col]);
      put(first_row, col, low);
      put(first_row + 1, col, high);
      let q = vec2f(low.value + high.value, low.value - high.value) * HALF;
      let u = factor[(p.first + col) * (p.layer_cols + 1)];
      for (var side = 0u; side < 2; side++) {
        let at = (first_row + side) * p.cols + col;
        quantized[(first_row + side) * p.layer_cols + p.first + col] = q[side];
        error[at] = (weight[at] - q[side]) / u;
      }
    }
    return;
  }
  for (var col = 0u; col < p.cols; col++) {
    let apart = 2 * salient[col];
    let low = coefficient(apart, tile[col]);
    let high = coefficient(apart + 1, tile[COLS + col]);
    let start = (p.first + col) * p.layer_cols + p.first;
    let u = factor[start + col];
    let e = vec2f(tile[col] - low.value, tile[COLS + col] - high.value) / u;
    if (lane == 0) {
      put(first_row, col, low);
      put(first_row + 1, col, high);
      quantized[first_row * p.layer_cols + p.first + col] = (low.value + high.value) * HALF;
      quantized[(first_row + 1) * p.layer_cols + p.first + col] = (low.value - high.value) * HALF;
      error[first_row * p.cols + col] = (e.x + e.y) * HALF;
      error[(first_row + 1) * p.cols + col] = (e.x - e.y) * HALF;
    }
    for (var k = col + 1 + lane; k < p.cols; k += THREADS) {
      tile[k] -= e.x * factor[start + k];
      tile[COLS + k] -= e.y * factor[start + k];
    }
    workgroupBarrier();
  }
}
