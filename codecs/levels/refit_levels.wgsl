// Refits the parameters of each row to its codes in the loss (w - q) H (w - q)ᵀ, and computes the residual
// R = (w - q) H with the new ones, rounded to f16.
//
// With B the factors of the parameters in the levels of a row's weights, q = θ B:
//
//   θ = (B H Bᵀ)⁻¹ B (w H)ᵀ        R = w H - θ B H
//
// A ridge keeps a parameter that no weight uses near the old one. `product` is B H, and in the end its
// first part is R. One workgroup per row; reduce.wgsl provides LANES and sum_over_lanes, levels_source.ts
// the patterns, round_f16.wgsl rounded().
//
// Reference: tests/reference/levels.ts.

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> target_product: array<f32>; // W H: [rows, cols]
@group(0) @binding(3) var<storage, read_write> product: array<f32>;  // B H: [PARAMETERS, rows, cols]
@group(0) @binding(4) var<storage, read_write> theta: array<f32>;    // [rows, PARAMETERS]

// The solution of (matrix + ridge) x = side + ridge · old; the matrix is ((a, b), (b, c)), with a, b, c
// relative to their mean, as is the side.
fn solved(a: f32, b: f32, c: f32, side: vec2f, old: vec2f) -> vec2f {
  let ridge = 1e-5 * vec2f(a, c) + 1e-12;
  let right = side + ridge * old;
  let d = vec2f(a, c) + ridge;
  if (PARAMETERS == 1) { return vec2f(right.x / d.x, 0.0); }
  return vec2f(right.x * d.y - right.y * b, right.y * d.x - right.x * b) / (d.x * d.y - b * b);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; } // the whole workgroup
  let second = p.rows * p.cols;
  var a = 0.0;
  var b = 0.0;
  var c = 0.0;
  var side = vec2f(0.0);
  for (var col = lane; col < p.cols; col += LANES) {
    let at = row * p.cols + col;
    let factors = pattern(codes[at]);
    side += factors * target_product[at];
    a += factors.x * product[at];
    if (PARAMETERS == 2) {
      b += factors.y * product[at];
      c += factors.y * product[second + at];
    }
  }
  a = sum_over_lanes(a, lane);
  side.x = sum_over_lanes(side.x, lane);
  if (PARAMETERS == 2) {
    b = sum_over_lanes(b, lane);
    c = sum_over_lanes(c, lane);
    side.y = sum_over_lanes(side.y, lane);
  }
  let scale = f32(PARAMETERS) / (a + c);
  let old = theta_of(row);
  var own = old;
  if (a + c > 0.0) { own = solved(a * scale, b * scale, c * scale, side * scale, old); }
  own = vec2f(rounded(own.x), rounded(own.y));
  for (var col = lane; col < p.cols; col += LANES) {
    let at = row * p.cols + col;
    var r = target_product[at] - own.x * product[at];
    if (PARAMETERS == 2) { r -= own.y * product[second + at]; }
    product[at] = r;
  }
  workgroupBarrier(); // all threads have read the old parameters
  if (lane == 0) { store_theta(row, own); }
}
