// Fits the levels of each row to its weights by Lloyd's method: STEPS times, each weight takes the nearest
// level, and each parameter becomes the one of least Σ cost_j · (w_j - level_j)².
//
// A level depends on one parameter, so that the equations are separate. The ridge keeps a parameter that
// no weight uses. It begins with the levels for normal numbers of the deviation of the row.
//
// One workgroup per row; reduce.wgsl provides LANES and sum_over_lanes, levels_source.ts the levels,
// round_f16.wgsl rounded().
//
// Source: Lloyd, "Least squares quantization in PCM", 1982. Reference: tests/reference/levels.ts.

struct Params { rows: u32, cols: u32, steps: u32, is_first: u32, is_last: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> costs: array<f32>;       // [cols]
@group(0) @binding(3) var<storage, read_write> theta: array<f32>; // [rows, PARAMETERS]

fn sum2(part: vec2f, lane: u32) -> vec2f {
  if (PARAMETERS == 1) { return vec2f(sum_over_lanes(part.x, lane), 0.0); }
  return vec2f(sum_over_lanes(part.x, lane), sum_over_lanes(part.y, lane));
}

// The parameters for normal numbers that deviate as the weights of a row do.
fn first_theta(start_at: u32, lane: u32) -> vec2f {
  var total = 0.0;
  var mean = 0.0;
  for (var col = lane; col < p.cols; col += LANES) {
    total += costs[col];
    mean += costs[col] * weight[start_at + col];
  }
  total = sum_over_lanes(total, lane);
  mean = sum_over_lanes(mean, lane) / total;
  var square = 0.0;
  for (var col = lane; col < p.cols; col += LANES) {
    let off = weight[start_at + col] - mean;
    square += costs[col] * (off * off);
  }
  return start(sqrt(sum_over_lanes(square, lane) / total));
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let start_at = row * p.cols;
  var own = vec2f(0.0);
  if (p.is_first == 1) { own = first_theta(start_at, lane); } else { own = theta_of(row); }
  for (var step = 0u; step < p.steps; step++) {
    let levels = levels_of(own);
    var matrix = vec2f(0.0);
    var side = vec2f(0.0);
    for (var col = lane; col < p.cols; col += LANES) {
      let w = weight[start_at + col];
      let factors = pattern(nearest(levels, w).code);
      matrix += costs[col] * (factors * factors);
      side += costs[col] * w * factors;
    }
    matrix = sum2(matrix, lane);
    side = sum2(side, lane);
    let ridge = 1e-6 * (matrix.x + matrix.y) / f32(PARAMETERS) + 1e-30;
    own = (side + ridge * own) / (matrix + ridge);
  }
  if (p.is_last == 1) { own = vec2f(rounded(own.x), rounded(own.y)); }
  if (lane == 0) { store_theta(row, own); }
}
