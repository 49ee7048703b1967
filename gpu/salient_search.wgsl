// error[g, n-1] = Σ cost · (x - fit(x, first n columns) - fit(x, the other columns))²
//
// over the rows of part g, for n = 1 .. CANDIDATES. The columns come in the order of their saliency;
// fit is two planes of mean ± scale: one on x, one on what is left.
//
// A thread is one candidate: all threads read the same entry of the row, and the sum over rows needs
// no exchange between them. A workgroup takes ROWS rows, each held in workgroup memory in turn.
// Source: BiLLM, arXiv:2402.04291, algorithm 2. Reference: tests/reference/billm.ts.

override CANDIDATES: u32 = 64; // threads, a multiple of 32
override ROWS: u32 = 16;

struct Params { rows: u32, cols: u32, candidates: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> order: array<u32>;            // [cols]
@group(0) @binding(3) var<storage, read> cost: array<f32>;             // [cols]
@group(0) @binding(4) var<storage, read_write> error: array<f32>;      // [parts, candidates]

const VECTORS = 64u; // blocks have at most 256 columns
var<workgroup> x: array<array<f32, 4>, VECTORS>;
var<workgroup> c: array<array<f32, 4>, VECTORS>;

fn load4(v: array<f32, 4>) -> vec4f { return vec4f(v[0], v[1], v[2], v[3]); }

fn ones(condition: vec4<bool>) -> vec4f { return select(vec4f(0.0), vec4f(1.0), condition); }

@compute @workgroup_size(CANDIDATES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let quads = (p.cols + 3) / 4;
  let n_in = f32(min(lane + 1, p.cols));
  let n_out = max(f32(p.cols) - n_in, 1.0);
  for (var col = lane; col < quads * 4; col += CANDIDATES) {
    var value = 0.0;
    if (col < p.cols) { value = cost[order[col]]; }
    c[col / 4][col % 4] = value; // 0 beyond the last column
  }
  var total = 0.0;
  for (var row = group.x * ROWS; row < min((group.x + 1) * ROWS, p.rows); row++) {
    workgroupBarrier(); // the last row is done with
    for (var col = lane; col < quads * 4; col += CANDIDATES) {
      var value = 0.0;
      if (col < p.cols) { value = values[row * p.cols + order[col]]; }
      x[col / 4][col % 4] = value;
    }
    workgroupBarrier();
    var sum_in = 0.0;
    var sum_out = 0.0;
    for (var q = 0u; q < quads; q++) {
      let v = load4(x[q]);
      let inside = ones(q * 4 + vec4u(0, 1, 2, 3) <= vec4u(lane));
      sum_in += dot(v, inside);
      sum_out += dot(v, 1.0 - inside); // x is 0 beyond the last column
    }
    let mean_in = sum_in / n_in;
    let mean_out = sum_out / n_out;
    // First plane: scales, and the mean of what it leaves.
    var abs_in = 0.0;
    var abs_out = 0.0;
    var rest_in = vec2f(0.0); // Σ d, Σ sign(d)
    var rest_out = vec2f(0.0);
    for (var q = 0u; q < quads; q++) {
      let col = q * 4 + vec4u(0, 1, 2, 3);
      let inside = ones(col <= vec4u(lane));
      let outside = ones(col < vec4u(p.cols)) * (1.0 - inside);
      let d = load4(x[q]) - (mean_in * inside + mean_out * (1.0 - inside));
      let s = select(vec4f(-1.0), vec4f(1.0), d >= vec4f(0.0));
      abs_in += dot(abs(d), inside);
      abs_out += dot(abs(d), outside);
      rest_in += vec2f(dot(d, inside), dot(s, inside));
      rest_out += vec2f(dot(d, outside), dot(s, outside));
    }
    let scale_in = abs_in / n_in;
    let scale_out = abs_out / n_out;
    let shift_in = mean_in + (rest_in.x - scale_in * rest_in.y) / n_in;
    let shift_out = mean_out + (rest_out.x - scale_out * rest_out.y) / n_out;
    // Second plane.
    abs_in = 0.0;
    abs_out = 0.0;
    for (var q = 0u; q < quads; q++) {
      let col = q * 4 + vec4u(0, 1, 2, 3);
      let inside = ones(col <= vec4u(lane));
      let outside = ones(col < vec4u(p.cols)) * (1.0 - inside);
      let v = load4(x[q]);
      let d = v - (mean_in * inside + mean_out * (1.0 - inside));
      let s = select(vec4f(-1.0), vec4f(1.0), d >= vec4f(0.0));
      let r = abs(v - (shift_in + scale_in * s) * inside - (shift_out + scale_out * s) * (1.0 - inside));
      abs_in += dot(r, inside);
      abs_out += dot(r, outside);
    }
    let second_in = abs_in / n_in;
    let second_out = abs_out / n_out;
    for (var q = 0u; q < quads; q++) {
      let inside = ones(q * 4 + vec4u(0, 1, 2, 3) <= vec4u(lane));
      let v = load4(x[q]);
      let d = v - (mean_in * inside + mean_out * (1.0 - inside));
      let s = select(vec4f(-1.0), vec4f(1.0), d >= vec4f(0.0));
      let r = v - (shift_in + scale_in * s) * inside - (shift_out + scale_out * s) * (1.0 - inside);
      let e = abs(r) - (second_in * inside + second_out * (1.0 - inside));
      total += dot(load4(c[q]), e * e);
    }
  }
  if (lane < p.candidates) { error[group.x * p.candidates + lane] = total; }
}
