// Factors a diagonal block of A in place, A_bb = L Lᵀ, and writes the inverse of L.
//
// One workgroup of SIZE threads; thread i owns row i. L and then its inverse are built column by
// column: in step k everyone needs row k (or column k) as finished in the steps before. A pivot that
// is not positive is reported in status (its column + 1, the first one counts) and replaced by 1.
//
// Reference: tests/reference/billm.ts.

const SIZE = 32u;

struct Params { n: u32, start: u32, size: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> A: array<f32>;           // [n, n]
@group(0) @binding(2) var<storage, read_write> inverse: array<f32>;     // [SIZE, SIZE], 0 above the diagonal
@group(0) @binding(3) var<storage, read_write> status: array<u32>;      // [1]

var<workgroup> L: array<array<f32, SIZE>, SIZE>;
var<workgroup> M: array<array<f32, SIZE>, SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(local_invocation_index) i: u32) {
  // Beyond the end of the matrix the block is continued with the identity.
  for (var j = 0u; j < SIZE; j++) {
    var value = f32(i == j);
    if (i < p.size && j < p.size) { value = A[(p.start + i) * p.n + p.start + j]; }
    L[i][j] = value;
    M[i][j] = f32(i == j);
  }
  workgroupBarrier();
  for (var k = 0u; k < SIZE; k++) {
    let pivot = L[k][k];
    let good = pivot > 0.0 && pivot < 3.0e38;
    if (i == 0 && !good && status[0] == 0) { status[0] = p.start + k + 1; }
    let root = sqrt(select(1.0, pivot, good));
    workgroupBarrier(); // everyone has read the pivot
    if (i == k) { L[k][k] = root; }
    if (i > k) { L[i][k] /= root; }
    workgroupBarrier();
    if (i > k) {
      for (var j = k + 1; j <= i; j++) { L[i][j] -= L[i][k] * L[j][k]; }
    }
    workgroupBarrier();
  }
  // Thread i solves for column i of the inverse, L · M = I; it needs no other thread.
  for (var row = 0u; row < SIZE; row++) {
    var value = M[row][i];
    for (var j = 0u; j < row; j++) { value -= L[row][j] * M[j][i]; }
    M[row][i] = select(value / L[row][row], 0.0, row < i);
  }
  workgroupBarrier();
  for (var j = 0u; j < SIZE; j++) {
    inverse[i * SIZE + j] = M[i][j];
    if (i < p.size && j < p.size) { A[(p.start + i) * p.n + p.start + j] = select(0.0, L[i][j], j <= i); }
  }
}
