// part[g, c] = Σ |saliency of row r, column c| over the rows of part g,
// saliency = w² · cost[c]  (METRIC 0, "hessian")   or   w  (METRIC 1, "magnitude")
//
// One workgroup per part g of ROWS rows; neighbouring threads take neighbouring columns.
// Source: BiLLM, arXiv:2402.04291. Reference: tests/reference/billm.ts.

override METRIC: u32 = 0;
override ROWS: u32 = 16;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> cost: array<f32>;             // [cols]
@group(0) @binding(3) var<storage, read_write> part: array<f32>;       // [parts, cols]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  for (var col = lane; col < p.cols; col += 64) {
    var total = 0.0;
    for (var row = group.x * ROWS; row < min((group.x + 1) * ROWS, p.rows); row++) {
      let w = weight[row * p.cols + col];
      if (METRIC == 0) { total += w * w * cost[col]; } else { total += abs(w); }
    }
    part[group.x * p.cols + col] = total;
  }
}
