// Quantizes a block by HBLLM-row: the Haar transform of each row, salient columns filled from their
// neighbours; then, of what is missing in salient columns, the Haar transform of each pair of rows.
//
//   F = W with salient columns replaced by the mean of the ordinary ones within 3 columns (else the nearest)
//   low, high = (F_even ± F_odd) / √2, each split with a shared mean; Q = (low ± high) / √2
//   D = W - Q in salient columns; low', high' = (D_even row ± D_odd row) / √2, split with own means; Q += D^
//
// With FEEDBACK, pairs of columns settle one after the other with these fits, and later columns of the
// block first compensate for their errors.
//
// One workgroup per pair of rows, two teams each. haar_split.wgsl provides the bindings and fit_lists();
// tile holds the two rows, codes are [rows, words, 4], scales [rows, blocks, 10].
// Source: HBLLM. Reference: tests/reference/haar.ts.

var<workgroup> extra: array<f32, ENTRIES>; // √2 times what salient columns get on top
var<workgroup> list: array<u32, COLS>;     // salient columns
var<workgroup> listed: u32;

// The value of column `col` of F.
fn filled(start: u32, col: u32) -> f32 {
  if (salient[col] == 0) { return tile[start + col]; }
  var sum = 0.0;
  var count = 0.0;
  for (var k = max(col, 3u) - 3; k < min(col + 4, p.cols); k++) {
    if (salient[k] == 0) { sum += tile[start + k]; count += 1.0; }
  }
  if (count > 0.0) { return sum / count; }
  for (var off = 4u; off < p.cols; off++) {
    if (col >= off) { if (salient[col - off] == 0) { return tile[start + col - off]; } }
    if (col + off < p.cols) { if (salient[col + off] == 0) { return tile[start + col + off]; } }
  }
  return 0.0;
}

fn put(row: u32, col: u32, plane: u32, found: Coefficient) {
  let at = (row * p.words + (p.first + col) / 32) * 4 + plane;
  if (found.sign == 1) { atomicOr(&codes[at], 1u << (col % 32)); }
  if (found.group == 1) { atomicOr(&codes[at + 1], 1u << (col % 32)); }
}

// (base + extra) / √2 in the order of haar_weights.wgsl.
fn weight_of(place: u32, col: u32, base: f32) -> f32 {
  if (salient[col] == 1) { return (base + extra[place * COLS + col]) * HALF; }
  return base * HALF;
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
  let place = me.team / 2; // of the team's row
  let row = first_row + place;
  let start = place * COLS;
  let band = me.team % 2;
  for (var i = lane; i < 2 * p.cols; i += THREADS) {
    let col = i % p.cols;
    tile[i / p.cols * COLS + col] = weight[(first_row + i / p.cols) * p.cols + col];
  }
  if (lane == 0) {
    var found = 0u;
    for (var col = 0u; col < p.cols; col++) { if (salient[col] == 1) { list[found] = col; found++; } }
    listed = found;
  }
  if (first_row == 0) { store_mask(lane); }
  workgroupBarrier();
  let pairs = p.cols / 2;
  for (var k = me.lane; k < pairs; k += LANES) {
    let even = filled(start, 2 * k);
    let odd = filled(start, 2 * k + 1);
    values[me.team * WIDTH + k] = select(even + odd, even - odd, band == 1) * HALF;
  }
  workgroupBarrier();
  fit_lists(me, pairs, true);
  let low_fit = fits[2 * place];
  let high_fit = fits[2 * place + 1];
  let low_limit = limits[2 * place];
  let high_limit = limits[2 * place + 1];
  let scales_at = (row * p.blocks + p.block) * 10;
  if (me.lane == 0) {
    let stored = rounded_fit(fits[me.team]);
    scales[scales_at + 3 * band] = stored.x;
    scales[scales_at + 3 * band + 1] = stored.y;
    scales[scales_at + 3 * band + 2] = stored.w;
  }
  // √2 Q of salient columns.
  for (var i = me.lane + band * LANES; i < listed; i += 2 * LANES) {
    let col = list[i];
    let low = coefficient(2 * place, values[2 * place * WIDTH + col / 2]);
    let high = coefficient(2 * place + 1, values[(2 * place + 1) * WIDTH + col / 2]);
    extra[start + col] = select(low.value + high.value, low.value - high.value, col % 2 == 1);
  }
  if (!FEEDBACK) {
    for (var k = me.lane; k < pairs; k += LANES) {
      put(row, 2 * k + band, 0u, coefficient(me.team, values[me.team * WIDTH + k]));
    }
  }
  // What the ordinary coefficients of this thread's columns are worth, before lists are overwritten.
  var bases: array<vec2f, 8>; // of at most 8 pairs
  if (!FEEDBACK) {
    for (var i = 0u; i * 2 * LANES < pairs; i++) {
      let k = i * 2 * LANES + band * LANES + me.lane;
      if (k < pairs) {
        let low = coefficient(2 * place, values[2 * place * WIDTH + k]).value;
        let high = coefficient(2 * place + 1, values[(2 * place + 1) * WIDTH + k]).value;
        bases[i] = vec2f(low + high, low - high);
      }
    }
  }
  workgroupBarrier();
  let is_extra = me.team < 2; // teams with a list of salient columns: low and high
  var n = 0u;
  if (is_extra) { n = listed; }
  for (var i = me.lane; i < n; i += LANES) {
    let col = list[i];
    let even = tile[col] - extra[col] * HALF;
    let odd = tile[COLS + col] - extra[COLS + col] * HALF;
    values[me.team * WIDTH + i] = select(even + odd, even - odd, me.team == 1) * HALF;
  }
  workgroupBarrier();
  fit_lists(me, n, false);
  if (is_extra) {
    let at = ((first_row + me.team) * p.blocks + p.block) * 10 + 6;
    let stored = rounded_fit(fits[me.team]);
    if (me.lane == 0) {
      for (var i = 0u; i < 4; i++) { scales[at + i] = select(0.0, stored[i], n > 0); }
    }
    for (var i = me.lane; i < n; i += LANES) {
      put(first_row + me.team, list[i], 2u, coefficient(me.team, values[me.team * WIDTH + i]));
    }
  }
  for (var i = lane; i < listed; i += THREADS) {
    let low = coefficient(0u, values[i]).value;
    let high = coefficient(1u, values[WIDTH + i]).value;
    extra[list[i]] = low + high;
    extra[COLS + list[i]] = low - high;
  }
  workgroupBarrier();
  if (!FEEDBACK) {
    for (var i = 0u; i * 2 * LANES < pairs; i++) {
      let k = i * 2 * LANES + band * LANES + me.lane;
      if (k >= pairs) { break; }
      for (var side = 0u; side < 2; side++) {
        let col = 2 * k + side;
        let q = weight_of(place, col, bases[i][side]);
        quantized[row * p.layer_cols + p.first + col] = q;
        let u = factor[(p.first + col) * (p.layer_cols + 1)];
        error[row * p.cols + col] = (tile[start + col] - q) / u;
      }
    }
    return;
  }
  let stored_low = rounded_fit(low_fit);
  let stored_high = rounded_fit(high_fit);
  for (var k = 0u; k < pairs; k++) {
    let even = 2 * k;
    let w = vec2f(tile[start + even], tile[start + even + 1]);
    var aim = w; // without what salient columns get on top
    if (salient[even] == 1) { aim.x -= extra[start + even] * HALF; }
    if (salient[even + 1] == 1) { aim.y -= extra[start + even + 1] * HALF; }
    let low = nearest(stored_low, (aim.x + aim.y) * HALF);
    let high = nearest(stored_high, (aim.x - aim.y) * HALF);
    let q = vec2f(
      weight_of(place, even, low.value + high.value),
      weight_of(place, even + 1, low.value - high.value),
    );
    let at = (p.first + even) * p.layer_cols + p.first;
    let e0 = (w.x - q.x) / factor[at + even];
    let e1 = (w.y - e0 * factor[at + even + 1] - q.y) / factor[at + p.layer_cols + even + 1];
    if (me.lane == 0 && band == 0) {
      put(row, even, 0u, low);
      put(row, even + 1, 0u, high);
      quantized[row * p.layer_cols + p.first + even] = q.x;
      quantized[row * p.layer_cols + p.first + even + 1] = q.y;
      error[row * p.cols + even] = e0;
      error[row * p.cols + even + 1] = e1;
    }
    for (var col = even + 2 + band * LANES + me.lane; col < p.cols; col += 2 * LANES) {
      tile[start + col] -= e0 * factor[at + col] + e1 * factor[at + p.layer_cols + col];
    }
    workgroupBarrier();
  }
}
