// out[row] = max |value| of the row. One workgroup per row; reduce.wgsl provides LANES and max_over_lanes.
//
// Reference: tests/gpu/kernels/reduce/row_magnitudes_test.ts.

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;    // [rows, cols]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [rows]

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; } // the whole workgroup
  var found = 0.0;
  for (var i = lane; i < p.cols; i += LANES) { found = max(found, abs(values[row * p.cols + i])); }
  let top = max_over_lanes(found, lane);
  if (lane == 0) { out[row] = top; }
}
