// Fits the grid of each row of a scale group.
//
//   GRID 0, range   value = scale · (code - zero)    scale = (max - min) / TOP     zero = round(-min / scale)
//   GRID 1, mean    value = mean ± scale             mean = Σ w / n                scale = Σ |w - mean| / n
//   GRID 2, sign    value = ± scale                                                scale = Σ |w| / n
//
// min and max include 0, so that 0 is a level. Values stored in f16 are rounded here, before they are
// used. The scale of a range is never 0: a row of zeros gets that of -1 .. 1, and a scale below the least
// positive f16 becomes that. HAS_MASK excludes the marked weights; a row without remaining weights gets
// scale = 0. With HAS_COSTS the sums of mean and sign are weighted: Σ h w / Σ h and so on, the scale of
// least weighted error.
//
// One workgroup per row; reduce.wgsl provides LANES, sums and maxima, round_f16.wgsl rounded().
//
// Source: GPTQ, arXiv:2210.17323; XNOR-Net, arXiv:1603.05279. Reference: tests/reference/grid.ts.

override GRID: u32 = 0;
override TOP: f32 = 3.0; // the greatest code
override HAS_MASK: bool = false;
override HAS_COSTS: bool = false;

struct Params { rows: u32, cols: u32, group: u32, groups: u32, words: u32, first_word: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;     // [rows, cols]: the group's columns
@group(0) @binding(2) var<storage, read> mask: array<u32>;       // [rows, words], bits from first_word on
@group(0) @binding(3) var<storage, read> costs: array<f32>;      // [cols]
@group(0) @binding(4) var<storage, read_write> fits: array<f32>; // [rows, groups, 2]: scale; zero or mean

const LEAST = 5.9604645e-8; // of f16 above 0

// 1 for a weight that the fit includes, else 0.
fn counts(row: u32, col: u32) -> f32 {
  if (!HAS_MASK) { return 1.0; }
  return f32(1u - ((mask[row * p.words + p.first_word + col / 32] >> (col % 32)) & 1u));
}

// The weight of a weight in sums.
fn share(row: u32, col: u32) -> f32 {
  if (HAS_COSTS) { return counts(row, col) * costs[col]; }
  return counts(row, col);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let start = row * p.cols;
  var scale: f32;
  var offset = 0.0;
  if (GRID == 0) {
    var below = 0.0;
    var above = 0.0;
    for (var col = lane; col < p.cols; col += LANES) {
      let w = weight[start + col] * counts(row, col);
      below = max(below, -w);
      above = max(above, w);
    }
    below = max_over_lanes(below, lane);
    above = max_over_lanes(above, lane);
    if (below == 0.0 && above == 0.0) {
      below = 1.0;
      above = 1.0;
    }
    scale = max(rounded((above + below) / TOP), LEAST);
    offset = clamp(round(below / scale), 0.0, TOP);
  } else {
    var n = 0.0;
    var sum = 0.0;
    for (var col = lane; col < p.cols; col += LANES) {
      let counted = share(row, col);
      n += counted;
      sum += counted * weight[start + col];
    }
    n = max(sum_over_lanes(n, lane), select(1.0, 1e-30, HAS_COSTS));
    sum = sum_over_lanes(sum, lane);
    let mean = select(0.0, sum / n, GRID == 1);
    var spread = 0.0;
    for (var col = lane; col < p.cols; col += LANES) {
      spread += share(row, col) * abs(weight[start + col] - mean);
    }
    scale = rounded(sum_over_lanes(spread, lane) / n);
    offset = rounded(mean);
  }
  if (lane == 0) {
    let at = (row * p.groups + p.group) * 2;
    fits[at] = scale;
    fits[at + 1] = offset;
  }
}
