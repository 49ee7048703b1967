// diagonal[j] = H_jj + damping · mean, where a dead column (H_jj = 0) counts as 1, also in the mean. One
// workgroup.
//
// Reference: tests/gpu/kernels/hessian/hessian_test.ts.

struct Params { n: u32, damping: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;              // [n, n]
@group(0) @binding(2) var<storage, read_write> diagonal: array<f32>; // [n]

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var total = 0.0;
  for (var i = lane; i < p.n; i += LANES) {
    let h = H[i * p.n + i];
    total += select(h, 1.0, h == 0.0);
  }
  let added = p.damping * sum_over_lanes(total, lane) / f32(p.n);
  for (var i = lane; i < p.n; i += LANES) {
    let h = H[i * p.n + i];
    diagonal[i] = select(h, 1.0, h == 0.0) + added;
  }
}
