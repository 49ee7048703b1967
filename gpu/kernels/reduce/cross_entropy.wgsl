// Cross-entropy of rows of logits that arrive in parts of the vocabulary.
//
//   state[t] = (top, sum, target):  top = max logit so far, sum = Σ exp(logit - top),
//                                   target = the logit of the target id
//
// and the final loss of a row is log(sum) + top - target. One workgroup per row.
// Reference: tests/gpu/kernels/reduce/cross_entropy_test.ts.

struct Params { rows: u32, cols: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [rows, cols] of ids first ..
@group(0) @binding(2) var<storage, read> targets: array<u32>;       // [rows]
@group(0) @binding(3) var<storage, read_write> state: array<vec4f>; // [rows]

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.cols;
  let end = start + p.cols;
  var top = -3.0e38;
  for (var i = start + lane; i < end; i += LANES) { top = max(top, logits[i]); }
  top = max_over_lanes(top, lane);
  var sum = 0.0;
  for (var i = start + lane; i < end; i += LANES) { sum += exp(logits[i] - top); }
  sum = sum_over_lanes(sum, lane);
  if (lane != 0) { return; }
  var before = state[row];
  if (p.first == 0) { before = vec4f(-3.0e38, 0.0, 0.0, 0.0); }
  let new_top = max(before.x, top);
  let new_sum = before.y * exp(before.x - new_top) + sum * exp(top - new_top);
  let target_col = targets[row] - p.first;
  let target_logit = select(before.z, logits[start + min(target_col, p.cols - 1)], target_col < p.cols);
  state[row] = vec4f(new_top, new_sum, target_logit, log(new_sum) + new_top - target_logit);
}
