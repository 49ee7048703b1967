// A[i, j] = G[i, j] for j >= i, with FULL for all i and j, else 0, where G = H + damping · mean · I and
// H_jj = 1 for a dead column.
//
// `real` is f32 or f64. Reference: tests/reference/linear_algebra.ts.

alias real = f32;

override FULL: bool = false;

struct Params { n: u32, damping: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;        // [n, n]
@group(0) @binding(2) var<storage, read> mean: array<f32>;     // [1]
@group(0) @binding(3) var<storage, read_write> A: array<real>; // [n, n]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.n || id.y >= p.n) { return; }
  let at = id.y * p.n + id.x;
  var value = real(0.0);
  if (FULL || id.x >= id.y) {
    let h = H[at];
    value = real(h);
    if (id.x == id.y) {
      value = real(select(h, 1.0, h == 0.0)) + real(p.damping) * real(mean[0]);
    }
  }
  A[at] = value;
}
