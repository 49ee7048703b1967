// Fits means and scales to the rows of a block by alternation, and then to the output of the block's
// columns, with S their second moments (ARB-X). By class: low, high, salient low, salient high.
//
//   mean += Σ cost · residual / Σ cost;   scale_i = Σ cost · B_i (W - mean - the other plane) / Σ cost;
//   B = the nearest values        (ROUNDS times; with NEAREST of any zone)
//   mean = Σ S_jk (W_j - α1 B1_j - α2 B2_j) / Σ S_jk;   α_i = Σ S_jk B_ij (W_k - mean - the other plane)
//   / Σ S_jk B_ij B_ik            (MOMENT_ROUNDS times, over pairs of columns of the class, B fixed)
//
// The second kind needs the rows only in nine quadratic forms. ROWS rows in workgroup memory, LANES
// threads of a row. Source: ARB-LLM, arXiv:2410.03129. Reference: tests/reference/arb.ts.

override ROWS: u32 = 8;
override LANES: u32 = 16;
override COLS: u32 = 128;
override ROUNDS: u32 = 15;
override MOMENT_ROUNDS: u32 = 15;
override BITMAP: bool = false;
override NEAREST: bool = false;
override THREADS: u32 = ROWS * LANES;
override TILE: u32 = ROWS * COLS;

// `stride` of S; its block begins at `start`.
struct Params { rows: u32, cols: u32, start: u32, stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;     // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;        // [cols]
@group(0) @binding(4) var<storage, read> moments: array<f32>;     // S
@group(0) @binding(5) var<storage, read_write> zones: array<u32>; // [rows, ⌈cols / 32⌉], bits
@group(0) @binding(6) var<storage, read_write> signs: array<u32>; // [2, rows, ⌈cols / 32⌉], bits
@group(0) @binding(7) var<storage, read_write> fits: array<f32>;  // [rows, 10]

const FIRST = 1u;
const SECOND = 2u;

var<workgroup> values: array<f32, TILE>;
var<workgroup> states: array<u32, TILE>; // signs in bits 0 and 1, class from bit 2 on
var<workgroup> shares: array<vec4f, THREADS>;

struct Fit { mean: vec4f, scale: vec4f, scale2: vec4f }

fn over_row(own: vec4f, lane: u32) -> vec4f {
  shares[lane] = own;
  workgroupBarrier();
  var sum = vec4f(0.0);
  let first = lane / LANES * LANES;
  for (var i = first; i < first + LANES; i++) { sum += shares[i]; }
  workgroupBarrier(); // the next call overwrites the shares
  return sum;
}

fn of_class(state: u32, x: f32) -> vec4f {
  return select(vec4f(0.0), vec4f(x), vec4u(0, 1, 2, 3) == vec4u(state >> 2u));
}

fn signed(x: f32, state: u32, bit: u32) -> f32 { return select(-x, x, (state & bit) != 0); }

fn ratio(a: vec4f, b: vec4f, old: vec4f) -> vec4f {
  return select(old, a / max(b, vec4f(1e-37)), b > vec4f(0.0));
}

fn residual(x: f32, state: u32, fit: Fit) -> f32 {
  let class_ = state >> 2u;
  return x - fit.mean[class_] - signed(fit.scale[class_], state, FIRST) -
    signed(fit.scale2[class_], state, SECOND);
}

// The state of the nearest value among those of a class, and the distance.
struct Nearest { state: u32, far: f32 }

fn nearest_of(x: f32, class_: u32, fit: Fit) -> Nearest {
  var best = Nearest(0u, 3.0e38);
  for (var code = 0u; code < select(2u, 4u, class_ >= 2); code++) {
    let state = code | (class_ << 2u);
    let far = abs(residual(x, state, fit));
    // A positive sign of what is as near.
    if (far < best.far || (far == best.far && code > (best.state & 3))) { best = Nearest(state, far); }
  }
  return best;
}

fn assigned(x: f32, state: u32, fit: Fit) -> u32 {
  let class_ = state >> 2u;
  var best = nearest_of(x, class_, fit);
  if (NEAREST && (class_ < 2 || BITMAP)) {
    let other = nearest_of(x, class_ ^ 1, fit);
    if (other.far < best.far) { best = other; }
  }
  return best.state;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let place = lane / LANES;
  let share = lane % LANES;
  let is_row = group.x * ROWS + place < p.rows;
  let row = min(group.x * ROWS + place, p.rows - 1);
  let words = (p.cols + 31) / 32;
  let at = place * COLS;
  var total = vec4f(0.0); // Σ cost
  var sum = vec4f(0.0);
  for (var col = share; col < p.cols; col += LANES) {
    let x = weight[row * p.cols + col];
    values[at + col] = x;
    var class_ = (zones[row * words + col / 32] >> (col % 32)) & 1;
    if (salient[col] == 1) { class_ = select(2u, 2 + class_, BITMAP); }
    states[at + col] = class_ << 2u;
    total += of_class(class_ << 2u, cost[col]);
    sum += of_class(class_ << 2u, cost[col] * x);
  }
  total = over_row(total, lane);
  let none = vec4f(0.0);
  var fit = Fit(ratio(over_row(sum, lane), total, none), none, none);
  sum = none;
  for (var col = share; col < p.cols; col += LANES) {
    let state = states[at + col];
    let off = values[at + col] - fit.mean[state >> 2u];
    states[at + col] = state | select(0u, FIRST, off >= 0.0);
    sum += of_class(state, cost[col] * abs(off));
  }
  fit.scale = ratio(over_row(sum, lane), total, none);
  // The second plane of salient columns; its mean is added to the first one's.
  sum = none;
  for (var col = share; col < p.cols; col += LANES) {
    sum += of_class(states[at + col], cost[col] * residual(values[at + col], states[at + col], fit));
  }
  let is_salient = vec4<bool>(false, false, true, true);
  fit.mean += select(none, ratio(over_row(sum, lane), total, none), is_salient);
  sum = none;
  for (var col = share; col < p.cols; col += LANES) {
    let state = states[at + col];
    let off = residual(values[at + col], state, fit);
    states[at + col] = state | select(0u, SECOND, off >= 0.0 && state >= 8);
    sum += of_class(state, cost[col] * abs(off));
  }
  fit.scale2 = select(none, ratio(over_row(sum, lane), total, none), is_salient);

  for (var round = 0u; round < ROUNDS; round++) {
    sum = none;
    for (var col = share; col < p.cols; col += LANES) {
      sum += of_class(states[at + col], cost[col] * residual(values[at + col], states[at + col], fit));
    }
    fit.mean += ratio(over_row(sum, lane), total, none);
    sum = none;
    for (var col = share; col < p.cols; col += LANES) {
      let state = states[at + col];
      let off = residual(values[at + col], state, Fit(fit.mean, none, fit.scale2));
      sum += of_class(state, cost[col] * signed(off, state, FIRST));
    }
    fit.scale = ratio(over_row(sum, lane), total, fit.scale);
    sum = none;
    for (var col = share; col < p.cols; col += LANES) {
      let state = states[at + col];
      let off = residual(values[at + col], state, Fit(fit.mean, fit.scale, none));
      sum += of_class(state, cost[col] * signed(off, state, SECOND));
    }
    fit.scale2 = select(none, ratio(over_row(sum, lane), total, fit.scale2), is_salient);
    var counted = none;
    for (var col = share; col < p.cols; col += LANES) {
      let state = assigned(values[at + col], states[at + col], fit);
      states[at + col] = state;
      counted += of_class(state, cost[col]);
    }
    total = over_row(counted, lane);
  }

  // With 1 the mask of the class, b and c the planes: 1S1, 1Sb, 1Sc, bSb, bSc, cSc, 1Sw, bSw, cSw.
  var f: array<vec4f, 9>;
  if (MOMENT_ROUNDS > 0) {
    for (var col = share; col < p.cols; col += LANES) {
      let own = states[at + col];
      var one = 0.0;
      var b = 0.0;
      var c = 0.0;
      for (var k = 0u; k < p.cols; k++) {
        let state = states[at + k];
        let s = select(0.0, moments[p.start + k * p.stride + col], (state ^ own) < 4);
        one += s;
        b += signed(s, state, FIRST);
        c += signed(s, state, SECOND);
      }
      let x = values[at + col];
      f[0] += of_class(own, one);
      f[1] += of_class(own, b);
      f[2] += of_class(own, c);
      f[3] += of_class(own, signed(b, own, FIRST));
      f[4] += of_class(own, signed(c, own, FIRST));
      f[5] += of_class(own, signed(c, own, SECOND));
      f[6] += of_class(own, x * one);
      f[7] += of_class(own, x * b);
      f[8] += of_class(own, x * c);
    }
    for (var i = 0u; i < 9; i++) { f[i] = over_row(f[i], lane); }
    for (var round = 0u; round < MOMENT_ROUNDS; round++) {
      fit.mean = ratio(f[6] - fit.scale * f[1] - fit.scale2 * f[2], f[0], fit.mean);
      fit.scale = ratio(f[7] - fit.mean * f[1] - fit.scale2 * f[4], f[3], fit.scale);
      fit.scale2 = select(
        none,
        ratio(f[8] - fit.mean * f[2] - fit.scale * f[4], f[5], fit.scale2),
        is_salient,
      );
    }
  }
  workgroupBarrier(); // for the states of other threads
  if (!is_row) { return; }
  for (var word = share; word < words; word += LANES) {
    var out = vec3u(0);
    for (var i = 0u; i < min(32u, p.cols - word * 32); i++) {
      let state = states[at + word * 32 + i];
      out |= (vec3u(state, state >> 1u, state >> 2u) & vec3u(1)) << vec3u(i);
    }
    signs[row * words + word] = out.x;
    signs[(p.rows + row) * words + word] = out.y;
    zones[row * words + word] = out.z;
  }
  if (share > 0) { return; }
  for (var i = 0u; i < 2; i++) {
    fits[row * 10 + 2 * i] = fit.mean[i];
    fits[row * 10 + 2 * i + 1] = fit.scale[i];
    fits[row * 10 + 4 + 3 * i] = fit.mean[2 + i];
    fits[row * 10 + 5 + 3 * i] = fit.scale[2 + i];
    fits[row * 10 + 6 + 3 * i] = fit.scale2[2 + i];
  }
}
