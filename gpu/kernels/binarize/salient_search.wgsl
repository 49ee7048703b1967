// error[g, n-1] = Σ cost · (x - fit(x, first n columns) - fit(x, the other columns))²
//
// over the ROWS rows of part g, for n = 1, 2, ... The columns are in the order of their saliency; fit is
// two planes of mean ± scale: one on x, one on its residual r. The second plane leaves |r| - scale, so
// Σ cost · (|r| - scale)² follows from three sums of one sweep.
//
// A thread owns a row and four candidates, the components of a vec4: one read of an entry serves four
// candidates, and all but four columns are on the same side for all of them. The rows are in workgroup
// memory as [column][row], padded by one row, so that stores and loads avoid bank conflicts. SLOTS
// threads share a row. The sums over rows are combined at the end.
// Source: BiLLM, arXiv:2402.04291, algorithm 2. Reference: tests/reference/billm.ts.

override ROWS: u32 = 16;
override SLOTS: u32 = 4;    // groups of four candidates in parallel
override QUADS: u32 = 1;    // groups of four candidates per thread, in sequence
override TILE: u32 = 2176;  // (ROWS + 1) · columns
override LOADERS: u32 = 32; // threads that load a row together
const COLS = 256u;          // the greatest number of columns of a block

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> order: array<u32>;       // [cols]
@group(0) @binding(3) var<storage, read> cost: array<f32>;        // [cols]
@group(0) @binding(4) var<storage, read_write> error: array<f32>; // [parts, candidates]

var<workgroup> tile: array<f32, TILE>;
var<workgroup> columns: array<u32, COLS>; // in their order
var<workgroup> costs: array<f32, COLS>;
var<workgroup> totals: array<vec4f, ROWS * SLOTS>;

// Sums of the first plane.
struct First { scale: vec4f, plus: vec4f }

fn add_first(sums: ptr<function, First>, x: f32, mean: vec4f, part: vec4f) {
  (*sums).scale += part * abs(x - mean);
  (*sums).plus += select(vec4f(0.0), part, vec4f(x) >= mean);
}

// The value of the first plane for an entry below the mean and for any other, including the second mean.
struct Ends { mean: vec4f, low: vec4f, high: vec4f }

fn ends(mean: vec4f, sums: First, n: vec4f) -> Ends {
  let scale = sums.scale / n;
  // The residuals x - mean ± scale sum to -scale · Σ sign, as Σ (x - mean) is zero.
  let second_mean = scale * (n - 2.0 * sums.plus) / n;
  return Ends(mean, mean + second_mean - scale, mean + second_mean + scale);
}

// Sums of the second plane over |r|, with and without the costs.
struct Second { r: vec4f, cost: vec4f, cost_r: vec4f, cost_rr: vec4f }

fn add_second(sums: ptr<function, Second>, x: f32, c: f32, e: Ends, part: vec4f) {
  let r = part * abs(x - select(e.low, e.high, vec4f(x) >= e.mean));
  let cr = c * r;
  (*sums).r += r;
  (*sums).cost_r += cr;
  (*sums).cost_rr += cr * r;
}

fn second_error(sums: Second, n: vec4f) -> vec4f {
  let scale = sums.r / n;
  return sums.cost_rr - scale * (2.0 * sums.cost_r - scale * sums.cost);
}

@compute @workgroup_size(ROWS, SLOTS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  const ALL = vec4f(1.0);
  let stride = ROWS + 1;
  for (var k = lane; k < p.cols; k += ROWS * SLOTS) {
    columns[k] = order[k];
    costs[k] = cost[order[k]];
  }
  workgroupBarrier();
  for (var r = lane / LOADERS; r < ROWS; r += ROWS * SLOTS / LOADERS) {
    let start = min(group.x * ROWS + r, p.rows - 1) * p.cols;
    for (var first = lane % LOADERS; first < p.cols; first += 4 * LOADERS) {
      let k = first + LOADERS * vec4u(0, 1, 2, 3);
      let near = min(k, vec4u(p.cols - 1));
      let x = vec4f( // four loads in flight
        values[start + columns[near.x]],
        values[start + columns[near.y]],
        values[start + columns[near.z]],
        values[start + columns[near.w]],
      );
      tile[k.x * stride + r] = x.x;
      if (k.y < p.cols) { tile[k.y * stride + r] = x.y; }
      if (k.z < p.cols) { tile[k.z * stride + r] = x.z; }
      if (k.w < p.cols) { tile[k.w * stride + r] = x.w; }
    }
  }
  workgroupBarrier();

  for (var turn = 0u; turn < QUADS; turn++) {
    let quad = (group.y * QUADS + turn) * SLOTS + local.y;
    let first = quad * 4; // columns before are inside for all four, those from `after` on for none
    let after = min(first + 4, p.cols);
    var total = vec4f(0.0);
    if (first < p.candidates) {
      let n_in = vec4f(first + vec4u(1, 2, 3, 4));
      let n_out = max(f32(p.cols) - n_in, vec4f(1.0));
      let at = local.x;
      var total_in = 0.0;
      var k = 0u;
      for (; k < first; k += 4) {
        let i = k * stride + at;
        total_in += (tile[i] + tile[i + stride]) + (tile[i + 2 * stride] + tile[i + 3 * stride]);
      }
      var mean_in = vec4f(total_in);
      var mean_out = vec4f(0.0);
      for (; k < after; k++) {
        let x = tile[k * stride + at];
        let inside = vec4u(k) <= first + vec4u(0, 1, 2, 3);
        mean_in += select(vec4f(0.0), vec4f(x), inside);
        mean_out += select(vec4f(x), vec4f(0.0), inside);
      }
      var total_out = 0.0;
      for (; k + 3 < p.cols; k += 4) {
        let i = k * stride + at;
        total_out += (tile[i] + tile[i + stride]) + (tile[i + 2 * stride] + tile[i + 3 * stride]);
      }
      for (; k < p.cols; k++) { total_out += tile[k * stride + at]; }
      mean_in /= n_in;
      mean_out = (mean_out + total_out) / n_out;

      var first_in = First();
      var first_out = First();
      for (k = 0; k < first; k += 4) {
        let i = k * stride + at;
        add_first(&first_in, tile[i], mean_in, ALL);
        add_first(&first_in, tile[i + stride], mean_in, ALL);
        add_first(&first_in, tile[i + 2 * stride], mean_in, ALL);
        add_first(&first_in, tile[i + 3 * stride], mean_in, ALL);
      }
      for (; k < after; k++) {
        let x = tile[k * stride + at];
        let part = select(vec4f(0.0), ALL, vec4u(k) <= first + vec4u(0, 1, 2, 3));
        add_first(&first_in, x, mean_in, part);
        add_first(&first_out, x, mean_out, ALL - part);
      }
      for (; k + 3 < p.cols; k += 4) {
        let i = k * stride + at;
        add_first(&first_out, tile[i], mean_out, ALL);
        add_first(&first_out, tile[i + stride], mean_out, ALL);
        add_first(&first_out, tile[i + 2 * stride], mean_out, ALL);
        add_first(&first_out, tile[i + 3 * stride], mean_out, ALL);
      }
      for (; k < p.cols; k++) { add_first(&first_out, tile[k * stride + at], mean_out, ALL); }

      let ends_in = ends(mean_in, first_in, n_in);
      let ends_out = ends(mean_out, first_out, n_out);
      var second_in = Second();
      var second_out = Second();
      var cost_in = 0.0;
      for (k = 0; k < first; k += 4) {
        let i = k * stride + at;
        add_second(&second_in, tile[i], costs[k], ends_in, ALL);
        add_second(&second_in, tile[i + stride], costs[k + 1], ends_in, ALL);
        add_second(&second_in, tile[i + 2 * stride], costs[k + 2], ends_in, ALL);
        add_second(&second_in, tile[i + 3 * stride], costs[k + 3], ends_in, ALL);
        cost_in += (costs[k] + costs[k + 1]) + (costs[k + 2] + costs[k + 3]);
      }
      second_in.cost = vec4f(cost_in);
      for (; k < after; k++) {
        let x = tile[k * stride + at];
        let part = select(vec4f(0.0), ALL, vec4u(k) <= first + vec4u(0, 1, 2, 3));
        add_second(&second_in, x, costs[k], ends_in, part);
        add_second(&second_out, x, costs[k], ends_out, ALL - part);
        second_in.cost += part * costs[k];
        second_out.cost += (ALL - part) * costs[k];
      }
      var cost_out = 0.0;
      for (; k + 3 < p.cols; k += 4) {
        let i = k * stride + at;
        add_second(&second_out, tile[i], costs[k], ends_out, ALL);
        add_second(&second_out, tile[i + stride], costs[k + 1], ends_out, ALL);
        add_second(&second_out, tile[i + 2 * stride], costs[k + 2], ends_out, ALL);
        add_second(&second_out, tile[i + 3 * stride], costs[k + 3], ends_out, ALL);
        cost_out += (costs[k] + costs[k + 1]) + (costs[k + 2] + costs[k + 3]);
      }
      for (; k < p.cols; k++) {
        add_second(&second_out, tile[k * stride + at], costs[k], ends_out, ALL);
        cost_out += costs[k];
      }
      second_out.cost += cost_out;
      total = second_error(second_in, n_in) + second_error(second_out, n_out);
    }
    totals[lane] = select(vec4f(0.0), total, group.x * ROWS + local.x < p.rows);
    workgroupBarrier();
    if (lane < 4 * SLOTS) {
      let candidate = ((group.y * QUADS + turn) * SLOTS + lane / 4) * 4 + lane % 4;
      var sum = 0.0;
      for (var i = 0u; i < ROWS; i++) { sum += totals[lane / 4 * ROWS + i][lane % 4]; }
      if (candidate < p.candidates) {
        // Rounding may make a sum near zero negative; NaN is kept.
        error[group.x * p.candidates + candidate] = select(sum, 0.0, sum < 0.0);
      }
    }
    workgroupBarrier(); // the next fours overwrite the totals
  }
}
