// Searches scale and zero of the grid of each row and scale group:
//
//   least Σ_j h_j (w_j - scale · (code_j - zero))²     code_j = round(w_j / scale + zero), within 0 .. TOP
//
// Each candidate (scale, zero) gives codes; its loss is that after the least-squares fit to these codes
// of the scale, with FREE of the zero too. So few candidates suffice. ROUNDS times the neighbours of the
// best fit are tried, with values rounded as they are stored; the result is the best of these.
//
//   anchored candidate (a, z):   scale = a · max|w|              zero = z
//   window (a, t), WINDOWS:      scale = a · (max - min)         zero between the windows that begin at
//                                                                min (t = 0) and end at max (t = 1)
//
// One workgroup per row and group; its threads evaluate a candidate each. reduce.wgsl provides LANES, sums
// and maxima, round_f16.wgsl rounded(). Four columns at a time are read from workgroup memory.
//
// Source: GPTQ, arXiv:2210.17323 (the grids). Reference: tests/reference/grid.ts.

override TOP: f32 = 3.0;        // the greatest code
override FREE: bool = false;    // real zeros, f16
override WINDOWS: bool = false; // the form of the candidates; always with FREE
override ROUNDS: u32 = 4;
override TILE: u32 = 64;          // vectors of four columns in workgroup memory
override GEOMETRIC: bool = false; // h_j = √(costs_j · others_j), not costs_j

struct Params {
  rows: u32, stride: u32, first: u32, cols: u32, // the columns first .. first + cols of rows of stride
  group_size: u32, group: u32, groups: u32,      // the first of them begin with this group
  candidates: u32, neighbours: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;       // [rows, stride]
@group(0) @binding(2) var<storage, read> costs: array<f32>;        // [stride]
@group(0) @binding(3) var<storage, read> others: array<f32>;       // [stride], for GEOMETRIC
@group(0) @binding(4) var<storage, read> candidates: array<vec2f>; // [candidates + neighbours]
@group(0) @binding(5) var<storage, read_write> fits: array<f32>;   // [rows, groups, 2]: scale, zero

const LEAST = 5.9604645e-8; // of f16 above 0
const WORST = 3.0e38;
const MOST_ZERO = 512.0; // up to twice this, f16 has steps of 1 / 2 or less

var<workgroup> tile_w: array<vec4f, TILE>;
var<workgroup> tile_h: array<vec4f, TILE>;

// A grid: the loss with it as it is, and the fit to its codes with that fit's loss.
struct Trial { loss: f32, fitted: f32, scale: f32, zero: f32 }

fn cost(col: u32) -> f32 {
  if (GEOMETRIC) { return sqrt(costs[col] * others[col]); }
  return costs[col];
}

// Loads `TILE` vectors from column `start` of the group on; columns beyond its end cost nothing.
fn load(row: u32, group_first: u32, size: u32, start: u32, lane: u32) {
  for (var i = lane; i < TILE; i += LANES) {
    var w = vec4f();
    var h = vec4f();
    for (var k = 0u; k < 4; k++) {
      let col = start + 4 * i + k;
      if (col < size) {
        w[k] = weight[row * p.stride + group_first + col];
        h[k] = cost(group_first + col);
      }
    }
    tile_w[i] = w;
    tile_h[i] = h;
  }
}

fn sum4(v: vec4f) -> f32 { return (v.x + v.y) + (v.z + v.w); }

// The loss of one candidate per thread. Every thread of the workgroup calls it.
fn try_grid(row: u32, group_first: u32, size: u32, total: f32, scale: f32, zero: f32, lane: u32) -> Trial {
  var ee = vec4f();
  var ed = vec4f();
  var dd = vec4f();
  var e1 = vec4f();
  var d1 = vec4f();
  let inverse = 1.0 / scale;
  for (var start = 0u; start < size; start += 4 * TILE) {
    if (size > 4 * TILE) {
      workgroupBarrier(); // the tile may still be read
      load(row, group_first, size, start, lane);
      workgroupBarrier();
    }
    let end = min(TILE, (size - start + 3) / 4);
    for (var i = 0u; i < end; i++) {
      let w = tile_w[i];
      let h = tile_h[i];
      let d = clamp(floor(w * inverse + (zero + 0.5)), vec4f(), vec4f(TOP)) - zero;
      let e = w - scale * d;
      let he = h * e;
      ee += he * e;
      ed += he * d;
      let hd = h * d;
      dd += hd * d;
      if (FREE) {
        e1 += he;
        d1 += hd;
      }
    }
  }
  let loss = sum4(ee);
  var error = loss;
  var with_error = sum4(ed);
  var square = sum4(dd);
  let least = 1e-6 * square; // below this, all codes are the same
  var mean_error = 0.0;
  var mean = 0.0;
  if (FREE) {
    mean_error = sum4(e1) / total;
    mean = sum4(d1) / total;
    error -= mean_error * mean_error * total;
    with_error -= mean_error * mean * total;
    square -= mean * mean * total;
  }
  var change = 0.0;
  if (square > least) { change = with_error / square; }
  let fitted_scale = scale + change;
  var fitted_zero = zero;
  if (FREE) { fitted_zero -= (mean_error - change * mean) / fitted_scale; }
  let fits_well = fitted_scale > LEAST && abs(fitted_zero) <= 2.0 * MOST_ZERO;
  return Trial(
    loss,
    select(loss, error - change * with_error, fits_well),
    select(scale, fitted_scale, fits_well),
    select(zero, fitted_zero, fits_well),
  );
}

// The candidate of least loss among `count` of the lanes, the first one if several have it.
fn first_of_least(loss: f32, index: f32, lane: u32) -> f32 {
  let least = -max_over_lanes(-loss, lane);
  return -max_over_lanes(select(-WORST, -index, loss == least), lane);
}

fn of_lane(value: f32, is_own: bool, lane: u32) -> f32 {
  return max_over_lanes(select(-WORST, value, is_own), lane);
}

fn stored_scale(scale: f32) -> f32 { return max(rounded(scale), LEAST); }

fn stored_zero(zero: f32) -> f32 {
  if (FREE) { return rounded(zero); }
  return zero;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup.y * workgroups.x + workgroup.x;
  let here = (p.cols + p.group_size - 1) / p.group_size;
  let row = index / here;
  if (row >= p.rows) { return; } // the whole workgroup
  let group = index % here;
  let group_first = p.first + group * p.group_size;
  let size = min(p.group_size, p.first + p.cols - group_first);

  var below = WORST;
  var above = -WORST;
  var total = 0.0;
  for (var col = lane; col < size; col += LANES) {
    let w = weight[row * p.stride + group_first + col];
    below = min(below, w);
    above = max(above, w);
    total += cost(group_first + col);
  }
  below = -max_over_lanes(-below, lane);
  above = max_over_lanes(above, lane);
  total = sum_over_lanes(total, lane);
  if (size <= 4 * TILE) {
    load(row, group_first, size, 0, lane);
    workgroupBarrier();
  }

  let largest = max(-below, above);
  var least = WORST;
  var chosen = 0.0;
  var scale = LEAST;
  var zero = 0.0;
  for (var first = 0u; first < p.candidates; first += LANES) {
    let own = min(first + lane, p.candidates - 1);
    let candidate = candidates[own];
    var s = max(candidate.x * largest, LEAST);
    var z = candidate.y;
    if (WINDOWS) {
      // Windows with t < 0 hold 0 as well as all weights, and -1 - t is the place.
      let with_zero = z < 0.0;
      let low = select(below, min(below, 0.0), with_zero);
      let high = select(above, max(above, 0.0), with_zero);
      let t = select(z, -1.0 - z, with_zero);
      s = max(max(candidate.x * (high - low), largest / MOST_ZERO), LEAST);
      z = mix(-low / s, TOP - high / s, t);
      if (!FREE) { z = clamp(floor(z + 0.5), 0.0, TOP); }
    }
    let trial = try_grid(row, group_first, size, total, s, z, lane);
    if (trial.fitted < least) {
      least = trial.fitted;
      chosen = f32(own);
      scale = trial.scale;
      zero = trial.zero;
    }
  }
  var best = first_of_least(least, chosen, lane);
  // Several lanes have the last candidate: with the same numbers.
  var is_own = chosen == best && least < WORST;
  scale = of_lane(scale, is_own, lane);
  zero = of_lane(zero, is_own, lane);

  var best_loss = WORST;
  var best_scale = stored_scale(scale);
  var best_zero = stored_zero(zero);
  for (var round = 0u; round < ROUNDS; round++) {
    least = WORST;
    var fitted_scale = scale;
    var fitted_zero = zero;
    for (var first = 0u; first < p.neighbours; first += LANES) {
      let own = min(first + lane, p.neighbours - 1);
      let step = candidates[p.candidates + own];
      let s = stored_scale(scale * step.x);
      var z = zero;
      if (FREE) { z = stored_zero(zero + step.y); }
      let trial = try_grid(row, group_first, size, total, s, z, lane);
      if (trial.fitted < least) {
        least = trial.fitted;
        chosen = f32(own);
        fitted_scale = trial.scale;
        fitted_zero = trial.zero;
      }
      // Without a branch: the functions that reduce need all threads.
      let loss = -max_over_lanes(-trial.loss, lane);
      let is_best = f32(own) == first_of_least(trial.loss, f32(own), lane);
      let scale_of_best = of_lane(s, is_best, lane);
      let zero_of_best = of_lane(z, is_best, lane);
      if (loss < best_loss) {
        best_loss = loss;
        best_scale = scale_of_best;
        best_zero = zero_of_best;
      }
    }
    best = first_of_least(least, chosen, lane);
    is_own = chosen == best && least < WORST;
    scale = of_lane(fitted_scale, is_own, lane);
    zero = of_lane(fitted_zero, is_own, lane);
  }
  if (lane == 0) {
    let at = (row * p.groups + p.group + group) * 2;
    fits[at] = best_scale;
    fits[at + 1] = best_zero;
  }
}
