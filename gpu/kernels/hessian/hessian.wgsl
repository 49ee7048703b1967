// MIRROR    H[i, j] = H[j, i] below the diagonal
// otherwise W[r, c] = 0 for the dead columns of H (H_cc = 0): their inputs are always zero
//
// Reference: tests/gpu/kernels/hessian/hessian_test.ts.

override MIRROR: bool = true;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> diagonal_of: array<f32>;  // [cols, cols]; not used by MIRROR
@group(0) @binding(2) var<storage, read_write> matrix: array<f32>; // H [cols, cols] or W [rows, cols]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.cols || id.y >= p.rows) { return; }
  let at = id.y * p.cols + id.x;
  if (MIRROR) {
    if (id.x < id.y) { matrix[at] = matrix[id.x * p.cols + id.y]; }
  } else {
    if (diagonal_of[id.x * p.cols + id.x] == 0.0) { matrix[at] = 0.0; }
  }
}
