// Splits lists of coefficients into two groups by magnitude, and fits a mean ± scale to each: at the
// quantile of |x|, out of CANDIDATES from 0.10 to 0.90, with the smallest squared error.
//
// Each of TEAMS teams of LANES threads has a list of its own in `values`. A shared mean is that of the
// whole list. The scale is the mean distance from the mean, or with RMS its root mean square. ROUNDS times,
// coefficients then take the nearest value, of any group, and means and scales the least squares.
//
// It is the beginning of the kernels of haar_rows.wgsl and haar_columns.wgsl, with their bindings.
// round_f16.wgsl provides rounded(). Source: HBLLM. Reference: tests/reference/haar.ts.

override LANES: u32 = 64;
override TEAMS: u32 = 4;
override THREADS: u32 = LANES * TEAMS;
override WIDTH: u32 = 128; // of a list
override LISTS: u32 = TEAMS * WIDTH;
override CANDIDATES: u32 = 41;
override RMS: bool = false;
override NEAREST: bool = false;
override ROUNDS: u32 = 0;
override COLS: u32 = 128; // columns of a whole block
override ENTRIES: u32 = 2 * COLS;
override FEEDBACK: bool = false;

const HALF = 0.70710677f; // 1 / √2
const LARGE = 3.0e38;

struct Params {
  rows: u32, cols: u32, first: u32, layer_cols: u32, words: u32, block: u32, blocks: u32
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;              // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;             // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> factor: array<f32>;              // [layer_cols, layer_cols]
@group(0) @binding(4) var<storage, read_write> quantized: array<f32>;     // [rows, layer_cols]
@group(0) @binding(5) var<storage, read_write> error: array<f32>;         // [rows, cols]
@group(0) @binding(6) var<storage, read_write> codes: array<atomic<u32>>; // [rows, words, planes], 0
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;        // [rows, blocks, numbers]
@group(0) @binding(8) var<storage, read_write> mask: array<u32>;          // [words]

var<workgroup> tile: array<f32, ENTRIES>; // the two rows of a pair
var<workgroup> values: array<f32, LISTS>;
var<workgroup> sorted: array<f32, LISTS>; // magnitudes
var<workgroup> errors: array<f32, THREADS>;
var<workgroup> fits: array<vec4f, TEAMS>;     // mean and scale of the low and the high group
var<workgroup> limits: array<f32, TEAMS>;     // of the high group
var<workgroup> counts: array<vec4f, THREADS>; // low -, low +, high -, high +
var<workgroup> sums: array<vec4f, THREADS>;

struct Thread { team: u32, lane: u32 }

// The salient columns of the block as bits.
fn store_mask(lane: u32) {
  for (var word = lane; word < (p.cols + 31) / 32; word += THREADS) {
    var marks = 0u;
    for (var i = 0u; i < min(32u, p.cols - word * 32); i++) { marks |= salient[word * 32 + i] << i; }
    mask[p.first / 32 + word] = marks;
  }
}

// A coefficient's stored value with its sign and its group.
struct Coefficient { value: f32, sign: u32, group: u32 }

fn value_of(fit: vec4f, sign: u32, group: u32) -> f32 {
  let own = select(fit.xy, fit.zw, group == 1);
  return own.x + select(-own.y, own.y, sign == 1);
}

fn nearest(fit: vec4f, x: f32) -> Coefficient {
  let off = abs(abs(vec2f(x) - fit.xz) - fit.yw);
  let group = select(0u, 1u, off.y < off.x);
  let sign = select(0u, 1u, x >= select(fit.x, fit.z, group == 1));
  return Coefficient(value_of(fit, sign, group), sign, group);
}

fn rounded_fit(fit: vec4f) -> vec4f {
  let v = vec4f(rounded(fit.x), rounded(fit.y), rounded(fit.z), rounded(fit.w));
  return select(v, vec4f(0.0), v == vec4f(0.0)); // not -0
}

// The stored coefficient of x in the team's list.
fn coefficient(team: u32, x: f32) -> Coefficient {
  let stored = rounded_fit(fits[team]);
  if (NEAREST) { return nearest(stored, x); }
  let group = select(0u, 1u, abs(x) >= limits[team]);
  let sign = select(0u, 1u, x >= select(fits[team].x, fits[team].z, group == 1));
  return Coefficient(value_of(stored, sign, group), sign, group);
}

// Quantile i of the sorted magnitudes from `first` on, of which there are n > 0.
fn quantile(first: u32, n: u32, i: u32) -> f32 {
  let whole = 10 * (CANDIDATES - 1);
  let place = (n - 1) * (CANDIDATES - 1 + 8 * i);
  let at = first + place / whole;
  let next = min(at + 1, first + n - 1);
  return sorted[at] + f32(place % whole) / f32(whole) * (sorted[next] - sorted[at]);
}

struct Split { error: f32, fit: vec4f }

fn split_at(first: u32, n: u32, limit: f32, shared_mean: bool) -> Split {
  var count = vec2f(0.0);
  var sum = vec2f(0.0);
  for (var i = first; i < first + n; i++) {
    let x = values[i];
    let here = select(vec2f(1.0, 0.0), vec2f(0.0, 1.0), abs(x) >= limit);
    count += here;
    sum += x * here;
  }
  let some = max(count, vec2f(1.0));
  var mean = sum / some;
  if (shared_mean) { mean = vec2f((sum.x + sum.y) / f32(n)); }
  var far = vec2f(0.0);
  var square = vec2f(0.0);
  for (var i = first; i < first + n; i++) {
    let x = values[i];
    let high = abs(x) >= limit;
    let d = abs(x - select(mean.x, mean.y, high));
    let here = select(vec2f(1.0, 0.0), vec2f(0.0, 1.0), high);
    far += d * here;
    square += d * d * here;
  }
  var scale = far / some;
  if (RMS) { scale = sqrt(square / some); }
  let error = square - 2.0 * scale * far + count * scale * scale;
  return Split(error.x + error.y, vec4f(mean.x, scale.x, mean.y, scale.y));
}

// Fits the list of each team, of n coefficients, which may differ from team to team; all threads call it.
fn fit_lists(me: Thread, n: u32, shared_mean: bool) {
  let first = me.team * WIDTH;
  let thread = me.team * LANES + me.lane;
  for (var i = me.lane; i < n; i += LANES) {
    let own = abs(values[first + i]);
    var rank = 0u;
    for (var k = 0u; k < n; k++) {
      let other = abs(values[first + k]);
      rank += u32(other < own || (other == own && k < i));
    }
    sorted[first + rank] = own;
  }
  workgroupBarrier();
  var best = Split(LARGE, vec4f(0.0));
  var limit = 0.0;
  var place = CANDIDATES;
  if (n > 0) {
    for (var i = me.lane; i < CANDIDATES; i += LANES) {
      let t = quantile(first, n, i);
      let found = split_at(first, n, t, shared_mean);
      if (found.error < best.error) { best = found; limit = t; place = i; }
    }
  }
  errors[thread] = best.error;
  workgroupBarrier();
  // The first of the best candidates: candidate i is thread i mod LANES's, and the lower of its own.
  var least = LARGE;
  var winner = 0u;
  for (var i = 0u; i < LANES; i++) {
    let own = errors[me.team * LANES + i];
    if (own < least) { least = own; winner = i; }
  }
  if (me.lane == winner) { fits[me.team] = best.fit; limits[me.team] = limit; }
  workgroupBarrier();
  for (var round = 0u; round < ROUNDS; round++) {
    let fit = fits[me.team];
    var count = vec4f(0.0);
    var sum = vec4f(0.0);
    for (var i = me.lane; i < n; i += LANES) {
      let x = values[first + i];
      let found = nearest(fit, x);
      let here = select(vec4f(0.0), vec4f(1.0), vec4u(0, 1, 2, 3) == vec4u(found.group * 2 + found.sign));
      count += here;
      sum += x * here;
    }
    counts[thread] = count;
    sums[thread] = sum;
    workgroupBarrier();
    if (me.lane == 0) {
      for (var i = 1u; i < LANES; i++) {
        count += counts[thread + i];
        sum += sums[thread + i];
      }
      if (shared_mean) { fits[me.team] = shared_fit(fit, count, sum); } else { fits[me.team] = own_fit(fit, count, sum); }
    }
    workgroupBarrier();
  }
}

// A value that is nearest to no coefficient does not move.
fn own_fit(fit: vec4f, count: vec4f, sum: vec4f) -> vec4f {
  let before = vec4f(fit.x - fit.y, fit.x + fit.y, fit.z - fit.w, fit.z + fit.w);
  let v = select(before, sum / max(count, vec4f(1.0)), count > vec4f(0.0));
  return vec4f(0.5 * (v.x + v.y), 0.5 * abs(v.y - v.x), 0.5 * (v.z + v.w), 0.5 * abs(v.w - v.z));
}

// Least squares of one mean m and two scales a: a n + m d = D of each group, n = n⁺ + n⁻, d = n⁺ - n⁻,
// D = S⁺ - S⁻, and m Σ n + Σ a d = Σ S.
fn shared_fit(fit: vec4f, count: vec4f, sum: vec4f) -> vec4f {
  let n = max(count.xz + count.yw, vec2f(1.0));
  let d = count.yw - count.xz;
  let D = sum.yw - sum.xz;
  let left = dot(count, vec4f(1.0)) - dot(d, d / n);
  var mean = fit.x;
  if (left > 0.5) { mean = (dot(sum, vec4f(1.0)) - dot(d, D / n)) / left; }
  let is_used = count.xz + count.yw > vec2f(0.0);
  let scale = select(fit.yw, max((D - mean * d) / n, vec2f(0.0)), is_used);
  return vec4f(mean, scale.x, mean, scale.y);
}
