// error[g, n-1] = Σ cost · (x - fit(x, first n columns) - fit(x, the other columns))²
//
// over the ROWS rows of part g, for n = 1, 2, ... The columns come in the order of their saliency; fit
// is two planes of mean ± scale: one on x, one on what is left.
//
// A thread owns a row and four candidates, the components of a vec4: one read of an entry serves four
// candidates, and threads meet only before and after each four. The rows lie in workgroup memory as [column][row], so
// that neighbouring threads read neighbours. The sums over rows are added up in the end.
// Source: BiLLM, arXiv:2402.04291, algorithm 2. Reference: tests/reference/billm.ts.

override ROWS: u32 = 32;   // threads
override TILE: u32 = 4096; // ROWS · columns
override QUADS: u32 = 1;   // fours of candidates that a workgroup takes, one after the other
const COLS = 256u;         // a block has at most so many columns

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> order: array<u32>;            // [cols]
@group(0) @binding(3) var<storage, read> cost: array<f32>;             // [cols]
@group(0) @binding(4) var<storage, read_write> error: array<f32>;      // [parts, candidates]

var<workgroup> tile: array<f32, TILE>;
var<workgroup> costs: array<f32, COLS>;
var<workgroup> totals: array<vec4f, ROWS>;

fn signs(d: vec4f) -> vec4f { return select(vec4f(-1.0), vec4f(1.0), d >= vec4f(0.0)); }

@compute @workgroup_size(ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = min(group.x * ROWS + lane, p.rows - 1);
  for (var k = 0u; k < p.cols; k++) { tile[k * ROWS + lane] = values[row * p.cols + order[k]]; }
  for (var k = lane; k < p.cols; k += ROWS) { costs[k] = cost[order[k]]; }
  workgroupBarrier();

  for (var quad = group.y * QUADS; quad < min((group.y + 1) * QUADS, (p.candidates + 3) / 4); quad++) {
    let first = quad * 4;
    let last_in = first + vec4u(0, 1, 2, 3); // place of the last salient column
    let n_in = vec4f(last_in + 1);
    let n_out = max(vec4f(f32(p.cols)) - n_in, vec4f(1.0));
    var mean_in = vec4f(0.0);
    var mean_out = vec4f(0.0);
    for (var k = 0u; k < p.cols; k++) {
      let x = tile[k * ROWS + lane];
      let inside = vec4u(k) <= last_in;
      mean_in += select(vec4f(0.0), vec4f(x), inside);
      mean_out += select(vec4f(x), vec4f(0.0), inside);
    }
    mean_in /= n_in;
    mean_out /= n_out;
    // First plane: its scale, and the mean of what it leaves.
    var scale_in = vec4f(0.0);
    var scale_out = vec4f(0.0);
    var rest_in = vec4f(0.0);  // Σ d
    var rest_out = vec4f(0.0);
    var signs_in = vec4f(0.0); // Σ sign(d)
    var signs_out = vec4f(0.0);
    for (var k = 0u; k < p.cols; k++) {
      let inside = vec4u(k) <= last_in;
      let d = tile[k * ROWS + lane] - select(mean_out, mean_in, inside);
      let d_in = select(vec4f(0.0), d, inside);
      let d_out = select(d, vec4f(0.0), inside);
      let s = signs(d);
      scale_in += abs(d_in);
      scale_out += abs(d_out);
      rest_in += d_in;
      rest_out += d_out;
      signs_in += select(vec4f(0.0), s, inside);
      signs_out += select(s, vec4f(0.0), inside);
    }
    scale_in /= n_in;
    scale_out /= n_out;
    let second_mean_in = (rest_in - scale_in * signs_in) / n_in;
    let second_mean_out = (rest_out - scale_out * signs_out) / n_out;
    // Second plane: its scale.
    var second_in = vec4f(0.0);
    var second_out = vec4f(0.0);
    for (var k = 0u; k < p.cols; k++) {
      let inside = vec4u(k) <= last_in;
      let d = tile[k * ROWS + lane] - select(mean_out, mean_in, inside);
      let r = abs(d - select(scale_out, scale_in, inside) * signs(d) -
        select(second_mean_out, second_mean_in, inside));
      second_in += select(vec4f(0.0), r, inside);
      second_out += select(r, vec4f(0.0), inside);
    }
    second_in /= n_in;
    second_out /= n_out;
    var total = vec4f(0.0);
    for (var k = 0u; k < p.cols; k++) {
      let inside = vec4u(k) <= last_in;
      let d = tile[k * ROWS + lane] - select(mean_out, mean_in, inside);
      let r = abs(d - select(scale_out, scale_in, inside) * signs(d) -
        select(second_mean_out, second_mean_in, inside));
      let e = r - select(second_out, second_in, inside);
      total += costs[k] * e * e;
    }
    totals[lane] = select(vec4f(0.0), total, group.x * ROWS + lane < p.rows);
    workgroupBarrier();
    if (lane < 4 && first + lane < p.candidates) {
      var sum = 0.0;
      for (var i = 0u; i < ROWS; i++) { sum += totals[i][lane]; }
      error[group.x * p.candidates + first + lane] = sum;
    }
    workgroupBarrier(); // the next four overwrite the totals
  }
}
