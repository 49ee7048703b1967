// C[i, j] = alpha · Σ_k A[i, k] B[k, j] (+ C[i, j])  for i < m, j < n
//
// A plain product for `real` = f64, as the kernels of gemm() are f32 only. Operands have a stride along
// either dimension, so each may be transposed. A workgroup computes 16 x 16 entries from tiles in
// workgroup memory; with `upper`, tiles that are fully below the diagonal are skipped.
//
// Reference: tests/reference/linear_algebra.ts.

alias real = f32;

const TILE = 16u;

struct Params {
  m: u32, n: u32, k: u32, accumulate: u32, upper: u32,
  a_start: u32, a_i: u32, a_k: u32,
  b_start: u32, b_k: u32, b_j: u32,
  c_start: u32, c_stride: u32,
  alpha: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> A: array<real>;
@group(0) @binding(2) var<storage, read> B: array<real>;
@group(0) @binding(3) var<storage, read_write> C: array<real>;

var<workgroup> a: array<array<real, TILE>, TILE>; // [k][i]
var<workgroup> b: array<array<real, TILE>, TILE>; // [k][j]

@compute @workgroup_size(TILE, TILE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) thread: vec3u) {
  let i0 = group.y * TILE;
  let j0 = group.x * TILE;
  if (p.upper != 0 && j0 + TILE <= i0) { return; }
  // Adjacent threads read adjacent memory.
  let a_turned = p.a_i == 1;
  let ai = select(thread.y, thread.x, a_turned);
  let ak = select(thread.x, thread.y, a_turned);
  let b_turned = p.b_k == 1;
  let bj = select(thread.x, thread.y, b_turned);
  let bk = select(thread.y, thread.x, b_turned);
  var sum = real(0.0);
  for (var k0 = 0u; k0 < p.k; k0 += TILE) {
    var value = real(0.0);
    if (i0 + ai < p.m && k0 + ak < p.k) { value = A[p.a_start + (i0 + ai) * p.a_i + (k0 + ak) * p.a_k]; }
    a[ak][ai] = value;
    value = real(0.0);
    if (j0 + bj < p.n && k0 + bk < p.k) { value = B[p.b_start + (k0 + bk) * p.b_k + (j0 + bj) * p.b_j]; }
    b[bk][bj] = value;
    workgroupBarrier();
    for (var k = 0u; k < TILE; k++) { sum += a[k][thread.y] * b[k][thread.x]; }
    workgroupBarrier(); // everyone is done with the tiles
  }
  let i = i0 + thread.y;
  let j = j0 + thread.x;
  if (i >= p.m || j >= p.n) { return; }
  let at = p.c_start + i * p.c_stride + j;
  var value = real(p.alpha) * sum;
  if (p.accumulate != 0) { value += C[at]; }
  C[at] = value;
}
