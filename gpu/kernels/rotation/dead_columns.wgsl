// MARK      live[c] = 1 where any x[r, c] is not zero
// otherwise W[r, c] = 0 where live[c] is 0
//
// Reference: tests/gpu/kernels/rotation/rotate_test.ts.

override MARK: bool = true;

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> given: array<u32>;         // x [rows, cols] as bits, or live [cols]
@group(0) @binding(2) var<storage, read_write> changed: array<u32>; // live [cols], or W [rows, cols] as bits

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x;
  if (col >= p.cols) { return; }
  if (MARK) {
    // Nearly all columns are marked by their first rows.
    for (var row = 0u; row < p.rows && changed[col] == 0; row++) {
      if ((given[row * p.cols + col] & 0x7fffffffu) != 0) { changed[col] = 1; }
    }
  } else if (given[col] == 0) {
    for (var row = 0u; row < p.rows; row++) { changed[row * p.cols + col] = 0; }
  }
}
