// A = H + damping · mean · I, with H_jj = 1 for a dead column.
//
// Reference: tests/gpu/kernels/hessian/hessian_test.ts.

struct Params { n: u32, damping: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;                 // [n, n]
@group(0) @binding(2) var<storage, read> mean: array<f32>;              // [1]
@group(0) @binding(3) var<storage, read_write> A: array<f32>;           // [n, n]

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.n || id.y >= p.n) { return; }
  let at = id.y * p.n + id.x;
  var value = H[at];
  if (id.x == id.y) { value = select(value, 1.0, value == 0.0) + p.damping * mean[0]; }
  A[at] = value;
}
