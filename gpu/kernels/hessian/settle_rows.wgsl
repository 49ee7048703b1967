// Moves the rows of a block into the matrix and clears the columns above it:
//
//   Q[r, start + c] = block[r, c]
//   A[start + r, j] = Q[r, j]  for j >= start        A[i, start + c] = 0  for i < start
//
// for r, c < size. `real` is f32 or f64. Reference: tests/reference/linear_algebra.ts.

alias real = f32;

struct Params { n: u32, start: u32, size: u32, stride: u32, block_stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> block: array<real>;   // [size, block_stride]
@group(0) @binding(2) var<storage, read_write> Q: array<real>; // [size, stride]
@group(0) @binding(3) var<storage, read_write> A: array<real>; // [n, n]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64 + id.x;
  let width = p.n - p.start;
  let moved = p.size * width;
  if (index >= moved) {
    let above = index - moved;
    if (above < p.start * p.size) { A[above / p.size * p.n + p.start + above % p.size] = real(0.0); }
    return;
  }
  let r = index / width;
  let c = index % width;
  let at = r * p.stride + p.start + c;
  if (c < p.size) { Q[at] = block[r * p.block_stride + c]; }
  A[(p.start + r) * p.n + p.start + c] = Q[at];
}
