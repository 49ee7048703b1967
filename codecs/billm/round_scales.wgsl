// Rounds the means and scales of each row to 8-bit or 4-bit codes with two factors.
//
//   factor[mean] = max |mean| / TOP_MEAN     factor[scale] = max |scale| / TOP_SCALE    up to f16
//   code = round(value / factor)             value ← code · factor                      ties to even
//
// 8 bits: both -127 .. 127. 4 bits: means -7 .. 7, scales 0 .. 15 (negative scales become 0).
//
// The maxima are over all blocks of the row. If all values are zero, so are the factor and the codes.
// One workgroup per row; reduce.wgsl provides LANES and max_over_lanes.
//
// Reference: tests/codecs/billm/round_scales_test.ts.

override TOP_MEAN: f32 = 127;
override TOP_SCALE: f32 = 127;
override LEAST_SCALE: f32 = -127;
override ZONES: u32 = 2;
override SCALES: u32 = 7; // per row and block: zones' (mean, scale), salient mean, salient scales

struct Params { rows: u32, per_row: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;  // [rows, blocks, SCALES]
@group(0) @binding(2) var<storage, read_write> codes: array<i32>;   // the same
@group(0) @binding(3) var<storage, read_write> factors: array<f32>; // [rows, 2]: of means, of scales

fn is_mean(index: u32) -> bool {
  let place = index % SCALES;
  return place == 2 * ZONES || (place < 2 * ZONES && place % 2 == 0);
}

// The least f16 that is not less; by integer arithmetic, as drivers may optimize conversions away.
fn rounded_up(value: f32) -> f32 {
  if (value < 6.1035156e-5) { return ceil(value * 16777216.0) / 16777216.0; } // steps of 2^-24
  return bitcast<f32>((bitcast<u32>(value) + 0x1fffu) & 0xffffe000u);
}

// The least f16 of which `top` times is not less than `most`, f16 itself. Drivers may round a quotient up.
fn least_factor(most: f32, top: f32) -> f32 {
  let up = rounded_up(most / top);
  let below = select(bitcast<f32>(bitcast<u32>(up) - 0x2000u), up - 1.0 / 16777216.0, up <= 6.1035156e-5);
  return select(up, below, (most > 0.0) && (below * top >= most));
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let start = row * p.per_row;
  var top_mean = 0.0;
  var top_scale = 0.0;
  for (var i = lane; i < p.per_row; i += LANES) {
    let size = abs(scales[start + i]);
    if (is_mean(i)) { top_mean = max(top_mean, size); } else { top_scale = max(top_scale, size); }
  }
  let mean_factor = least_factor(max_over_lanes(top_mean, lane), TOP_MEAN);
  let scale_factor = least_factor(max_over_lanes(top_scale, lane), TOP_SCALE);
  for (var i = lane; i < p.per_row; i += LANES) {
    let mean = is_mean(i);
    let factor = select(scale_factor, mean_factor, mean);
    let least = select(LEAST_SCALE, -TOP_MEAN, mean);
    let nearest = clamp(round(scales[start + i] / factor), least, select(TOP_SCALE, TOP_MEAN, mean));
    let code = select(0, i32(nearest), factor > 0.0);
    codes[start + i] = code;
    // Zero has one code, so -0 becomes 0; drivers may replace f32(code) with `nearest`.
    scales[start + i] = select(0.0, f32(code) * factor, code != 0);
  }
  if (lane == 0) {
    factors[2 * row] = mean_factor;
    factors[2 * row + 1] = scale_factor;
  }
}
