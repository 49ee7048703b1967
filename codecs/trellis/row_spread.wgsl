// spread[row] = √(mean of w²) of the row, at least 1e-20.
//
// One workgroup per row; reduce.wgsl provides LANES and sum_over_lanes. Weights are divided by the row's
// largest magnitude first, so that no square leaves the range of f32.
// Reference: tests/codecs/trellis/row_fits_test.ts.

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;       // [rows, cols]
@group(0) @binding(2) var<storage, read_write> spread: array<f32>; // [rows]

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup.y * workgroups.x + workgroup.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let start = row * p.cols;
  var top = 0.0;
  for (var i = lane; i < p.cols; i += LANES) { top = max(top, abs(weight[start + i])); }
  top = max(max_over_lanes(top, lane), 1e-20);
  var sum = 0.0;
  for (var i = lane; i < p.cols; i += LANES) {
    let w = weight[start + i] / top;
    sum += w * w;
  }
  sum = sum_over_lanes(sum, lane);
  if (lane == 0) { spread[row] = max(top * sqrt(sum / f32(p.cols)), 1e-20); }
}
