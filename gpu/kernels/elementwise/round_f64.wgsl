// result[i] = A[i] in f32
//
// `real` becomes f64. Reference: tests/reference/linear_algebra.ts.

alias real = f32;

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> A: array<real>;           // [size]
@group(0) @binding(2) var<storage, read_write> result: array<f32>; // [size]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64 + id.x;
  if (i < size) { result[i] = f32(A[i]); }
}
