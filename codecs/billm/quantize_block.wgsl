// Quantizes each weight of a block to bits and their dequantized value.
//
//   salient column   q = mean + Σ ± scale[plane]        one bit per plane
//   other column     q = mean[zone] ± scale[zone]       one sign bit, one zone bit
//
// with means and scales rounded to f16 as they are stored. Later columns compensate for the error
// (w - q) / U_jj: with FEEDBACK those of the block immediately, w_k -= error · U_jk, as in GPTQ; those
// after the block by a matrix product. With NEAREST the bits are those of the nearest stored value;
// without, they are the signs of the fit and the zones of the search.
//
// Columns are sequential, rows are independent. LANES threads share a row: all of them quantize eight
// columns, in registers, and each updates its share of the later columns, as vec4s. With FEEDBACK the
// rows of the block are in workgroup memory, and so are the rows of U of the eight columns, which all
// rows read.
//
// Source: BiLLM, arXiv:2402.04291; GPTQ, arXiv:2210.17323. Reference: tests/reference/billm.ts.

override ROWS: u32 = 16;
override LANES: u32 = 8;   // threads of a row
override GROUPS: u32 = 32; // fours of columns of a block
override FEEDBACK: bool = false;
override TILE: u32 = select(1u, ROWS * GROUPS, FEEDBACK);
override FACTORS: u32 = select(1u, 8 * GROUPS, FEEDBACK);
override NEAREST: bool = false;
override HAS_FACTOR: bool = false;
override HAS_SALIENT: bool = false;
override ZONES: u32 = 2;
override PLANES: u32 = 2; // of the salient columns
override SCALES: u32 = 7; // per row and block: zones' (mean, scale), salient mean, salient scales

struct Params { rows: u32, cols: u32, first: u32, layer_cols: u32, words: u32, block: u32, blocks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;         // [cols]
@group(0) @binding(3) var<storage, read> zones: array<u32>;           // [rows, ceil(cols / 32)]
@group(0) @binding(4) var<storage, read> zone_fits: array<f32>;       // [rows, 2 · ZONES]
@group(0) @binding(5) var<storage, read> salient_fit: array<f32>;     // [rows, 2 · PLANES]
@group(0) @binding(6) var<storage, read> factor: array<f32>;          // [layer_cols, layer_cols]
@group(0) @binding(7) var<storage, read_write> quantized: array<f32>; // [rows, layer_cols]
@group(0) @binding(8) var<storage, read_write> error: array<f32>;     // [rows, cols]
@group(0) @binding(9) var<storage, read_write> bits: array<u32>;      // [planes of bits, rows, words]
@group(0) @binding(10) var<storage, read_write> scales: array<f32>;   // [rows, blocks, SCALES]
@group(0) @binding(11) var<storage, read_write> marks: array<u32>;    // [layer_cols], as salient

var<workgroup> tile: array<vec4f, TILE>;       // [row][column / 4]
var<workgroup> factors: array<vec4f, FACTORS>; // [column % 8][column / 4] of U
var<workgroup> diagonal: array<f32, 256>;

// Means and scales of a row. Unrounded fits decide the bits, rounded ones the values.
struct Fits {
  mean: vec2f,
  stored_mean: vec2f,
  stored_scale: vec2f,
  plane_mean: vec4f,
  plane_scale: vec4f,
  stored_plane: vec4f,
  stored_center: f32,
}

// The value and the error of a weight.
struct Settled { q: f32, e: f32 }

// Quantizes a weight and sets bit `col % 32` of `out`; no effect beyond the last column.
fn settle(w: f32, col: u32, high_bits: u32, fits: Fits, out: ptr<function, vec4u>) -> Settled {
  if (col >= p.cols) { return Settled(0.0, 0.0); }
  let i = col % 32;
  var q: f32;
  if (HAS_SALIENT && salient[col] == 1) {
    var signs = 0u; // bit k is that of plane k
    if (NEAREST) {
      // A greedy choice of signs does not find the nearest sum of three or more.
      var least = 3.4e38;
      for (var code = 0u; code < (1u << PLANES); code++) {
        var value = fits.stored_center;
        for (var plane = 0u; plane < PLANES; plane++) {
          let step = fits.stored_plane[plane];
          value += select(-step, step, ((code >> plane) & 1u) == 1u);
        }
        let off = abs(w - value);
        if (off < least) {
          least = off;
          signs = code;
        }
      }
    } else {
      var r = w;
      for (var plane = 0u; plane < PLANES; plane++) {
        r -= fits.plane_mean[plane];
        let plus = r >= 0.0;
        r -= select(-fits.plane_scale[plane], fits.plane_scale[plane], plus);
        signs |= u32(plus) << plane;
      }
    }
    q = fits.stored_center;
    for (var plane = 0u; plane < PLANES; plane++) {
      let plus = (signs >> plane) & 1u;
      q += select(-fits.stored_plane[plane], fits.stored_plane[plane], plus == 1u);
      (*out)[plane] |= plus << i;
    }
  } else {
    var high = ZONES == 2 && ((high_bits >> i) & 1u) == 1u;
    var plus = w >= select(fits.mean.x, fits.mean.y, high);
    if (NEAREST) {
      let plus2 = vec2f(w) >= fits.stored_mean;
      if (ZONES == 2) {
        let off = abs(w - fits.stored_mean - select(-fits.stored_scale, fits.stored_scale, plus2));
        high = off.y < off.x;
      }
      plus = select(plus2.x, plus2.y, high);
    }
    let mean = select(fits.stored_mean.x, fits.stored_mean.y, high);
    let scale = select(fits.stored_scale.x, fits.stored_scale.y, high);
    q = mean + select(-scale, scale, plus);
    (*out)[0] |= u32(plus) << i;
    if (ZONES == 2) { (*out)[1] |= u32(high) << i; }
  }
  var e = 0.0;
  if (HAS_FACTOR) { e = (w - q) / diagonal[col]; }
  return Settled(q, e);
}

fn weight_at(row: u32, col: u32) -> f32 {
  var w = 0.0;
  if (col < p.cols) { w = weight[row * p.cols + col]; }
  return w;
}

fn four_weights(row: u32, col: u32) -> vec4f {
  return vec4f(
    weight_at(row, col),
    weight_at(row, col + 1),
    weight_at(row, col + 2),
    weight_at(row, col + 3),
  );
}

// Four adjacent entries of U from workgroup memory.
fn four_factors(col: u32, later: u32) -> vec4f {
  let at = (p.first + min(col, p.cols - 1)) * p.layer_cols + p.first +
    min(later + vec4u(0, 1, 2, 3), vec4u(p.cols - 1));
  return vec4f(factor[at.x], factor[at.y], factor[at.z], factor[at.w]);
}

@compute @workgroup_size(LANES * ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let threads = LANES * ROWS;
  let share = lane % LANES; // of the row
  let place = lane / LANES; // of the row in the workgroup
  let own_row = group.x * ROWS + place;
  let writes = own_row < p.rows;
  let row = min(own_row, p.rows - 1);
  if (group.x == 0) {
    for (var col = lane; col < p.cols; col += threads) { marks[p.first + col] = salient[col]; }
  }
  if (HAS_FACTOR) {
    for (var col = lane; col < p.cols; col += threads) { diagonal[col] = factor[(p.first + col) * (p.layer_cols + 1)]; }
  }
  if (FEEDBACK) {
    for (var g = share; g < GROUPS; g += LANES) {
      tile[place * GROUPS + g] = four_weights(row, g * 4);
    }
  }

  var mean = vec2f(0.0);
  var scale = vec2f(0.0);
  for (var z = 0u; z < ZONES; z++) {
    mean[z] = zone_fits[(row * ZONES + z) * 2];
    scale[z] = zone_fits[(row * ZONES + z) * 2 + 1];
  }
  let stored_mean = vec2f(rounded(mean.x), rounded(mean.y));
  let stored_scale = vec2f(rounded(scale.x), rounded(scale.y));
  var plane_mean = vec4f(0.0);
  var plane_scale = vec4f(0.0);
  var stored_plane = vec4f(0.0);
  var stored_center = 0.0;
  if (HAS_SALIENT) {
    var center = 0.0;
    for (var plane = 0u; plane < PLANES; plane++) {
      plane_mean[plane] = salient_fit[(row * PLANES + plane) * 2];
      plane_scale[plane] = salient_fit[(row * PLANES + plane) * 2 + 1];
      center += plane_mean[plane];
      stored_plane[plane] = rounded(plane_scale[plane]);
    }
    stored_center = rounded(center);
  }
  if (writes && share == 0) {
    let scales_at = (row * p.blocks + p.block) * SCALES;
    for (var z = 0u; z < ZONES; z++) {
      scales[scales_at + z * 2] = stored_mean[z];
      scales[scales_at + z * 2 + 1] = stored_scale[z];
    }
    if (HAS_SALIENT) {
      scales[scales_at + ZONES * 2] = stored_center;
      for (var plane = 0u; plane < PLANES; plane++) {
        scales[scales_at + ZONES * 2 + 1 + plane] = stored_plane[plane];
      }
    }
  }
  let fits = Fits(
    mean,
    stored_mean,
    stored_scale,
    plane_mean,
    plane_scale,
    stored_plane,
    stored_center,
  );

  if (HAS_FACTOR && !FEEDBACK) { workgroupBarrier(); } // for the diagonal

  let words = (p.cols + 31) / 32;
  var out = vec4u(0);
  var high_bits = 0u;
  for (var col = 0u; col < p.cols; col += 8) {
    let g = col / 4;
    if (FEEDBACK) {
      for (var i = lane; i < 8 * GROUPS; i += 2 * threads) {
        let j = i + threads; // two loads in flight
        if (max(i % GROUPS, j % GROUPS) < g) { continue; }
        let factors_i = four_factors(col + i / GROUPS, i % GROUPS * 4);
        let factors_j = four_factors(col + j / GROUPS, j % GROUPS * 4);
        factors[i] = factors_i;
        if (j < 8 * GROUPS) { factors[j] = factors_j; }
      }
      workgroupBarrier(); // also for what the other threads of the row have moved
    }
    if (col % 32 == 0 && ZONES == 2) { high_bits = zones[row * words + col / 32]; }
    var low: vec4f;
    var high: vec4f;
    if (FEEDBACK) {
      low = tile[place * GROUPS + g];
      high = tile[place * GROUPS + g + 1];
    } else {
      low = four_weights(row, col);
      high = four_weights(row, col + 4);
    }
    // Updates of the columns that are already done, and of a column itself, have no effect.
    let s0 = settle(low.x, col, high_bits, fits, &out);
    if (FEEDBACK) { low -= s0.e * factors[g]; high -= s0.e * factors[g + 1]; }
    let s1 = settle(low.y, col + 1, high_bits, fits, &out);
    if (FEEDBACK) { low -= s1.e * factors[GROUPS + g]; high -= s1.e * factors[GROUPS + g + 1]; }
    let s2 = settle(low.z, col + 2, high_bits, fits, &out);
    if (FEEDBACK) { low -= s2.e * factors[2 * GROUPS + g]; high -= s2.e * factors[2 * GROUPS + g + 1]; }
    let s3 = settle(low.w, col + 3, high_bits, fits, &out);
    if (FEEDBACK) { high -= s3.e * factors[3 * GROUPS + g + 1]; }
    let s4 = settle(high.x, col + 4, high_bits, fits, &out);
    if (FEEDBACK) { high -= s4.e * factors[4 * GROUPS + g + 1]; }
    let s5 = settle(high.y, col + 5, high_bits, fits, &out);
    if (FEEDBACK) { high -= s5.e * factors[5 * GROUPS + g + 1]; }
    let s6 = settle(high.z, col + 6, high_bits, fits, &out);
    if (FEEDBACK) { high -= s6.e * factors[6 * GROUPS + g + 1]; }
    let s7 = settle(high.w, col + 7, high_bits, fits, &out);

    if (writes) {
      let low_q = vec4f(s0.q, s1.q, s2.q, s3.q);
      let high_q = vec4f(s4.q, s5.q, s6.q, s7.q);
      let low_e = vec4f(s0.e, s1.e, s2.e, s3.e);
      let high_e = vec4f(s4.e, s5.e, s6.e, s7.e);
      for (var i = share; i < 4; i += LANES) {
        let at = row * p.cols + col + i;
        let out_at = row * p.layer_cols + p.first + col + i;
        if (col + i < p.cols) {
          quantized[out_at] = low_q[i];
          if (HAS_FACTOR) { error[at] = low_e[i]; }
        }
        if (col + i + 4 < p.cols) {
          quantized[out_at + 4] = high_q[i];
          if (HAS_FACTOR) { error[at + 4] = high_e[i]; }
        }
      }
    }
    if (FEEDBACK) {
      for (var k = g + 2 + share; k < GROUPS; k += LANES) {
        let at = place * GROUPS + k;
        tile[at] -= (s0.e * factors[k] + s1.e * factors[GROUPS + k] +
          s2.e * factors[2 * GROUPS + k] + s3.e * factors[3 * GROUPS + k]) +
          (s4.e * factors[4 * GROUPS + k] + s5.e * factors[5 * GROUPS + k] +
          s6.e * factors[6 * GROUPS + k] + s7.e * factors[7 * GROUPS + k]);
      }
      workgroupBarrier(); // the next eight columns overwrite the factors
    }
    if (col % 32 == 24 || col + 8 >= p.cols) {
      if (writes && share == 0) {
        let at = row * p.words + p.first / 32 + col / 32;
        for (var plane = 0u; plane < max(ZONES, select(1u, PLANES, HAS_SALIENT)); plane++) {
          bits[plane * p.rows * p.words + at] = out[plane];
        }
      }
      out = vec4u(0);
    }
  }
}
