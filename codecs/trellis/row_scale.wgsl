// scale[row] = f16 of Σ_j w_j t_j / Σ_j z_j t_j, t = z H: the factor of z that brings it nearest to w in
// the output error (w - scale z) H (w - scale z)ᵀ. 0 for a row of zeros.
//
// One workgroup per row; reduce.wgsl provides LANES and sum_over_lanes, round_f16.wgsl rounded().
// Reference: tests/codecs/trellis/row_fits_test.ts.

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;      // w: [rows, cols]
@group(0) @binding(2) var<storage, read> values: array<f32>;      // z: [rows, cols]
@group(0) @binding(3) var<storage, read> turned: array<f32>;      // t: [rows, cols]
@group(0) @binding(4) var<storage, read_write> scale: array<f32>; // [rows]

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup.y * workgroups.x + workgroup.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let start = row * p.cols;
  var along = 0.0;
  var square = 0.0;
  for (var i = lane; i < p.cols; i += LANES) {
    let t = turned[start + i];
    along += weight[start + i] * t;
    square += values[start + i] * t;
  }
  along = sum_over_lanes(along, lane);
  square = sum_over_lanes(square, lane);
  if (lane == 0) { scale[row] = rounded(along / max(square, 1e-30)); }
}
