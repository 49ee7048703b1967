// RMS norm:    out = x / sqrt(mean(x²) + epsilon) · weight
// Layer norm:  out = (x - mean(x)) / sqrt(mean((x - mean(x))²) + epsilon) · weight          (CENTER)
//              out + bias                                                                     (BIAS)
//
// One workgroup per row; row r has row r % parts of the weight and of the bias. Reference: tests/reference/decoder.ts.

override CENTER: bool = false;
override BIAS: bool = false;

struct Params { rows: u32, cols: u32, parts: u32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, cols]
@group(0) @binding(2) var<storage, read> weight: array<f32>;    // [parts, cols]
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [parts, cols], used if BIAS
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, cols]

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.cols;
  let end = start + p.cols;
  var mean = 0.0;
  if (CENTER) {
    var total = 0.0;
    for (var i = start + lane; i < end; i += LANES) { total += x[i]; }
    mean = sum_over_lanes(total, lane) / f32(p.cols);
  }
  var squares = 0.0;
  var shift = 0.0; // the rounding error of the mean, which matters if the mean is large
  for (var i = start + lane; i < end; i += LANES) {
    let d = x[i] - mean;
    squares += d * d;
    shift += d;
  }
  var variance = sum_over_lanes(squares, lane) / f32(p.cols);
  if (CENTER) {
    shift = sum_over_lanes(shift, lane) / f32(p.cols);
    variance = max(variance - shift * shift, 0.0);
  } else {
    shift = 0.0;
  }
  let factor = 1.0 / sqrt(variance + p.epsilon);
  for (var i = start + lane; i < end; i += LANES) {
    let at = row % p.parts * p.cols + i - start;
    var y = (x[i] - mean - shift) * factor * weight[at];
    if (BIAS) { y += bias[at]; }
    out[i] = y;
  }
}
