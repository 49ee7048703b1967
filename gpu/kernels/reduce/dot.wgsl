// part[g] = Σ a[i] · b[i] over the entries of workgroup g, in a grid-stride loop.
//
// Reference: tests/gpu/kernels/reduce/output_error_test.ts.

@group(0) @binding(0) var<uniform> size: u32;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>; // [workgroups]

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  var total = 0.0;
  for (var i = group.x * LANES + lane; i < size; i += groups.x * LANES) { total += a[i] * b[i]; }
  total = sum_over_lanes(total, lane);
  if (lane == 0) { part[group.x] = total; }
}
