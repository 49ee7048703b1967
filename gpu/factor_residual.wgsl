// How far U is from the upper Cholesky factor of G⁻¹, where U·G·Uᵀ = I would hold, in f64:
//
//   STEP 0   Y[i, j] = Σ_k U[i, k] · G[k, j]                       for j >= i, G = H + damping · mean · I
//   STEP 1   D[i, j] = -E[i, j] above the diagonal, -E[i, i] / 2 on it, 0 below,  E = Y·Uᵀ - I
//
// so that (I + D)·U is the factor to first order. Of H the upper triangle is read, and H_jj = 0 counts
// as 1. One thread per entry. Needs shaders with f64.
//
// Reference: tests/gpu/inverse_factor_test.ts.

override STEP: u32 = 0;

struct Params { n: u32, damping: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;                 // [n, n]
@group(0) @binding(2) var<storage, read> mean: array<f32>;              // [1]
@group(0) @binding(3) var<storage, read> U: array<f32>;                 // [n, n], upper triangle
@group(0) @binding(4) var<storage, read_write> Y: array<f64>;           // [n, n]
@group(0) @binding(5) var<storage, read_write> D: array<f32>;           // [n, n]

fn damped(row: u32, col: u32) -> f64 {
  let h = H[min(row, col) * p.n + max(row, col)];
  if (row != col) { return f64(h); }
  return f64(select(h, 1.0, h == 0.0)) + f64(p.damping) * f64(mean[0]);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y;
  let j = id.x;
  if (i >= p.n || j >= p.n) { return; }
  var sum = 0.0lf;
  if (STEP == 0) {
    if (j < i) { return; }
    for (var k = i; k < p.n; k++) { sum += f64(U[i * p.n + k]) * damped(k, j); }
    Y[i * p.n + j] = sum;
    return;
  }
  if (j >= i) {
    for (var k = j; k < p.n; k++) { sum += Y[i * p.n + k] * f64(U[j * p.n + k]); }
    if (i == j) { sum = (sum - 1.0lf) * 0.5lf; }
  }
  D[i * p.n + j] = f32(-sum);
}
