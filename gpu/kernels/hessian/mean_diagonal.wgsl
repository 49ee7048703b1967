// mean = Σ H_jj / n, where a dead column (H_jj = 0) counts as 1. One workgroup.
//
// Reference: tests/reference/billm.ts.

@group(0) @binding(0) var<uniform> n: u32;
@group(0) @binding(1) var<storage, read> H: array<f32>;          // [n, n]
@group(0) @binding(2) var<storage, read_write> mean: array<f32>; // [1]

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var total = 0.0;
  for (var i = lane; i < n; i += LANES) {
    let h = H[i * n + i];
    total += select(h, 1.0, h == 0.0);
  }
  total = sum_over_lanes(total, lane);
  if (lane == 0) { mean[0] = total / f32(n); }
}
