// Refits the scale of each row of a scale group, with its codes as they are:
//
//   scale' = scale · (1 + Σ_j R_j Q_j / Σ_j Q_j T_j)     R = (W - Q) H     T = Q H within the group
//
// the minimum of the output error tr((W - Q) H (W - Q)ᵀ) along this scale. The scale is rounded to f16;
// Q is scaled with it, and step is the change of Q. A scale that would not stay positive stays as it is.
//
// One workgroup per row; reduce.wgsl provides LANES and sums, round_f16.wgsl rounded().
//
// Source: coordinate descent on the objective of GPTQ, arXiv:2210.17323.
// Reference: tests/codecs/grid/refit_scales_test.ts.

struct Params { rows: u32, cols: u32, first: u32, size: u32, group: u32, groups: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> residual: array<f32>;        // R: [rows, cols]
@group(0) @binding(2) var<storage, read> own: array<f32>;             // T: [rows, size]
@group(0) @binding(3) var<storage, read_write> quantized: array<f32>; // Q: [rows, cols]
@group(0) @binding(4) var<storage, read_write> fits: array<f32>;      // [rows, groups, 2]: scale, zero
@group(0) @binding(5) var<storage, read_write> step: array<f32>;      // [rows, size]

const LEAST = 5.9604645e-8; // of f16 above 0

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup.y * workgroups.x + workgroup.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let start = row * p.cols + p.first;
  var along = 0.0;
  var square = 0.0;
  for (var i = lane; i < p.size; i += LANES) {
    let q = quantized[start + i];
    along += residual[start + i] * q;
    square += q * own[row * p.size + i];
  }
  along = sum_over_lanes(along, lane);
  square = sum_over_lanes(square, lane);
  let at = (row * p.groups + p.group) * 2;
  let scale = fits[at];
  var fitted = scale;
  if (square > 0.0) { fitted = rounded(scale * (1.0 + along / square)); }
  if (!(fitted >= LEAST)) { fitted = scale; }
  let ratio = fitted / scale;
  for (var i = lane; i < p.size; i += LANES) {
    let q = quantized[start + i];
    quantized[start + i] = q * ratio;
    step[row * p.size + i] = q * (ratio - 1.0);
  }
  storageBarrier(); // every lane has read the scale
  if (lane == 0) { fits[at] = fitted; }
}
