// part[g, c] = Σ |saliency of row r, column c| over the rows of part g,
// saliency = w² · cost[c]  (METRIC 0, "hessian")   or   w  (METRIC 1, "magnitude"); with SQUARES the sum of
// saliency².
//
// One workgroup per part g of ROWS rows; adjacent threads take adjacent columns, SLICES
// threads share a column.
// Source: BiLLM, arXiv:2402.04291. Reference: tests/reference/billm.ts.

override METRIC: u32 = 0;
override SQUARES: bool = false;
override ROWS: u32 = 16;
override SLICES: u32 = 4;
const LANES = 64u;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;     // [rows, cols]
@group(0) @binding(2) var<storage, read> cost: array<f32>;       // [cols]
@group(0) @binding(3) var<storage, read_write> part: array<f32>; // [parts, cols]

var<workgroup> sums: array<f32, LANES * SLICES>;

// Without the factor of the column.
fn saliency(w: vec4f) -> vec4f {
  var found = abs(w);
  if (METRIC == 0) { found = w * w; }
  if (SQUARES) { found = found * found; }
  return found;
}

@compute @workgroup_size(LANES, SLICES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let after = min((group.x + 1) * ROWS, p.rows);
  for (var first = 0u; first < p.cols; first += LANES) {
    let col = first + local.x;
    var total = 0.0;
    if (col < p.cols) {
      var row = group.x * ROWS + local.y;
      let step = SLICES * p.cols;
      for (; row + 3 * SLICES < after; row += 4 * SLICES) {
        let at = row * p.cols + col;
        let w = vec4f(weight[at], weight[at + step], weight[at + 2 * step], weight[at + 3 * step]);
        if (METRIC == 0 && !SQUARES) { total += dot(w, w); } else { total += dot(saliency(w), vec4f(1.0)); }
      }
      for (; row < after; row += SLICES) {
        total += saliency(vec4f(weight[row * p.cols + col])).x;
      }
    }
    if (SLICES > 1) {
      sums[lane] = total;
      workgroupBarrier();
      if (local.y == 0) {
        for (var slice = 1u; slice < SLICES; slice++) { total += sums[slice * LANES + local.x]; }
      }
      workgroupBarrier(); // the next columns overwrite the sums
    }
    if (col < p.cols && local.y == 0) {
      if (METRIC == 0) {
        total *= cost[col];
        if (SQUARES) { total *= cost[col]; }
      }
      part[group.x * p.cols + col] = total;
    }
  }
}
