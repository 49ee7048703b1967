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

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let n = p.n;
  let i = id.y;
  let j = id.x;
  if (i >= n || j >= n) { return; }
  var sum = 0.0lf;
  if (STEP == 0) {
    if (j < i) { return; }
    // The part of G above the diagonal, the diagonal, and the mirror of what lies below.
    var k = i;
    for (; k + 4 <= j; k += 4) {
      sum += f64(U[i * n + k]) * f64(H[k * n + j]);
      sum += f64(U[i * n + k + 1]) * f64(H[(k + 1) * n + j]);
      sum += f64(U[i * n + k + 2]) * f64(H[(k + 2) * n + j]);
      sum += f64(U[i * n + k + 3]) * f64(H[(k + 3) * n + j]);
    }
    for (; k < j; k++) { sum += f64(U[i * n + k]) * f64(H[k * n + j]); }
    let h = H[j * n + j];
    sum += f64(U[i * n + j]) * (f64(select(h, 1.0, h == 0.0)) + f64(p.damping) * f64(mean[0]));
    k++;
    for (; k + 4 <= n; k += 4) {
      sum += f64(U[i * n + k]) * f64(H[j * n + k]);
      sum += f64(U[i * n + k + 1]) * f64(H[j * n + k + 1]);
      sum += f64(U[i * n + k + 2]) * f64(H[j * n + k + 2]);
      sum += f64(U[i * n + k + 3]) * f64(H[j * n + k + 3]);
    }
    for (; k < n; k++) { sum += f64(U[i * n + k]) * f64(H[j * n + k]); }
    Y[i * n + j] = sum;
    return;
  }
  if (j >= i) {
    var k = j;
    for (; k + 4 <= n; k += 4) {
      sum += Y[i * n + k] * f64(U[j * n + k]);
      sum += Y[i * n + k + 1] * f64(U[j * n + k + 1]);
      sum += Y[i * n + k + 2] * f64(U[j * n + k + 2]);
      sum += Y[i * n + k + 3] * f64(U[j * n + k + 3]);
    }
    for (; k < n; k++) { sum += Y[i * n + k] * f64(U[j * n + k]); }
    if (i == j) { sum = (sum - 1.0lf) * 0.5lf; }
  }
  D[i * n + j] = f32(-sum);
}
