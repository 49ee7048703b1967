// KL divergence KL(p || q) of rows of logits a (of p) and b (of q) that arrive in parts of the
// vocabulary, and the most likely id of each.
//
//   state[t][0] = (top, sum, weighted, id) of a:   top = max logit so far, sum = Σ exp(logit - top),
//   state[t][1] = (top, sum, divergence, id) of b: id = the least index of top
//
//   weighted = Σ exp(a - top a) ((a - top a) - (b - top b))
//   divergence = weighted / sum a - log(sum a) + log(sum b)
//
// Differences from the tops keep the precision of logits that are far from 0. Ids are f32, exact below
// 2^24. One workgroup per row.
// Reference: tests/gpu/kernels/reduce/kl_divergence_test.ts.

struct Params { rows: u32, cols: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;                      // [rows, cols] of ids first ..
@group(0) @binding(2) var<storage, read> b: array<f32>;                      // [rows, cols]
@group(0) @binding(3) var<storage, read_write> state: array<array<vec4f, 2>>; // [rows]

// The least index at which some thread found the greatest value, of each thread's first such index.
fn least_at(top: f32, greatest: f32, index: u32, lane: u32) -> f32 {
  return -max_over_lanes(select(-3.0e38, -f32(index), top == greatest), lane);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.cols;
  var own = vec2f(-3.0e38);
  var place = vec2u(0);
  for (var i = lane; i < p.cols; i += LANES) {
    let x = vec2f(a[start + i], b[start + i]);
    let greater = x > own;
    own = select(own, x, greater);
    place = select(place, vec2u(i), greater);
  }
  let top = vec2f(max_over_lanes(own.x, lane), max_over_lanes(own.y, lane));
  let index = vec2f(
    least_at(own.x, top.x, place.x, lane),
    least_at(own.y, top.y, place.y, lane),
  );
  var parts = vec3f(0.0); // Σ exp of a, Σ exp of b, weighted
  for (var i = lane; i < p.cols; i += LANES) {
    let x = vec2f(a[start + i], b[start + i]) - top;
    let e = exp(x);
    parts += vec3f(e, e.x * (x.x - x.y));
  }
  let sum = vec2f(sum_over_lanes(parts.x, lane), sum_over_lanes(parts.y, lane));
  let weighted = sum_over_lanes(parts.z, lane);
  if (lane != 0) { return; }
  var before = state[row];
  if (p.first == 0) { before = array(vec4f(top.x, 0.0, 0.0, index.x), vec4f(top.y, 0.0, 0.0, index.y)); }
  let old_top = vec2f(before[0].x, before[1].x);
  let old_sum = vec2f(before[0].y, before[1].y);
  let new_top = max(old_top, top);
  let old_step = old_top - new_top;
  let new_step = top - new_top;
  let total = old_sum * exp(old_step) + sum * exp(new_step);
  // The weighted sums with the new tops in place of those that they were made with.
  let all_weighted = exp(old_step.x) * (before[0].z + old_sum.x * (old_step.x - old_step.y)) +
    exp(new_step.x) * (weighted + sum.x * (new_step.x - new_step.y));
  let id = select(vec2f(before[0].w, before[1].w), f32(p.first) + index, top > old_top);
  let divergence = all_weighted / total.x - log(total.x) + log(total.y);
  state[row] = array(
    vec4f(new_top.x, total.x, all_weighted, id.x),
    vec4f(new_top.y, total.y, divergence, id.y),
  );
}
