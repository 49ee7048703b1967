// A[i, j] = G[n-1-i, n-1-j]  where  G = H + damping · mean · I, and H_jj = 1 for a dead column.
//
// Of H only the upper triangle is read. Reference: tests/reference/billm.ts.

struct Params { n: u32, damping: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;                 // [n, n]
@group(0) @binding(2) var<storage, read> mean: array<f32>;              // [1]
@group(0) @binding(3) var<storage, read_write> A: array<f32>;           // [n, n]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.n || id.y >= p.n) { return; }
  let row = p.n - 1 - id.y;
  let col = p.n - 1 - id.x;
  var h = H[min(row, col) * p.n + max(row, col)];
  if (row == col) {
    if (h == 0.0) { h = 1.0; }
    h += p.damping * mean[0];
  }
  A[id.y * p.n + id.x] = h;
}
