// Alternates between two steps, ROUNDS times: give every weight the nearest value that its bits can
// stand for, and move means and scales to where the squared errors, weighted by cost, are least.
//
//   other columns    four values mean[z] ± scale[z], each moves to the mean of its weights
//   salient columns  mean + Σ ± scale[plane]; the mean, then each scale, moves with the rest fixed
//
// The planes' means are folded into the first one. A value that no weight is nearest to stays.
// One thread per row. Source: the alternating refinement of ARB-LLM, arXiv:2410.03129, with the
// zones open to every weight. Reference: tests/reference/billm.ts.

override ROUNDS: u32 = 8;
override ZONES: u32 = 2;
override PLANES: u32 = 2; // 0 without salient columns

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;              // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;             // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;                // [cols]
@group(0) @binding(4) var<storage, read_write> zone_fits: array<f32>;     // [rows, 2 · ZONES]
@group(0) @binding(5) var<storage, read_write> salient_fit: array<f32>;   // [rows, 2 · PLANES]

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= p.rows) { return; }
  var mean = vec2f(0.0);
  var scale = vec2f(0.0);
  for (var z = 0u; z < ZONES; z++) {
    mean[z] = zone_fits[(row * ZONES + z) * 2];
    scale[z] = zone_fits[(row * ZONES + z) * 2 + 1];
  }
  for (var round = 0u; round < ROUNDS; round++) {
    var weights = vec4f(0.0); // low -, low +, high -, high +
    var totals = vec4f(0.0);
    for (var col = 0u; col < p.cols; col++) {
      if (salient[col] == 1) { continue; }
      let w = weight[row * p.cols + col];
      let off = abs(abs(vec2f(w) - mean) - scale);
      let high = ZONES == 2 && off.y < off.x;
      let plus = w >= select(mean.x, mean.y, high);
      let c = cost[col];
      let here = select(vec4f(0.0), vec4f(1.0), vec4u(0, 1, 2, 3) == vec4u(u32(high) * 2 + u32(plus)));
      weights += c * here;
      totals += c * w * here;
    }
    let before = vec4f(mean.x - scale.x, mean.x + scale.x, mean.y - scale.y, mean.y + scale.y);
    let values = select(before, totals / max(weights, vec4f(1e-37)), weights > vec4f(0.0));
    mean = (values.xz + values.yw) * 0.5;
    scale = abs(values.yw - values.xz) * 0.5;
  }
  for (var z = 0u; z < ZONES; z++) {
    zone_fits[(row * ZONES + z) * 2] = mean[z];
    zone_fits[(row * ZONES + z) * 2 + 1] = scale[z];
  }

  if (PLANES == 0) { return; }
  var center = 0.0;
  var steps = vec4f(0.0);
  for (var plane = 0u; plane < PLANES; plane++) {
    center += salient_fit[(row * PLANES + plane) * 2];
    steps[plane] = salient_fit[(row * PLANES + plane) * 2 + 1];
  }
  // Moves the mean (turn 0) and the scales (turn 1 ..) in turn, each with fresh signs.
  for (var turn = 0u; turn < ROUNDS * (PLANES + 1); turn++) {
    let moving = turn % (PLANES + 1);
    var weights = 0.0;
    var total = 0.0;
    for (var col = 0u; col < p.cols; col++) {
      if (salient[col] == 0) { continue; }
      var r = weight[row * p.cols + col] - center;
      var sign = 1.0;
      for (var plane = 0u; plane < PLANES; plane++) {
        let s = select(-1.0, 1.0, r >= 0.0);
        if (plane + 1 == moving) { sign = s; }
        r -= s * steps[plane];
      }
      let c = cost[col];
      weights += c;
      total += c * r * sign;
    }
    let move_by = total / max(weights, 1e-37);
    if (moving == 0) { center += move_by; } else { steps[moving - 1] = max(steps[moving - 1] + move_by, 0.0); }
  }
  for (var plane = 0u; plane < PLANES; plane++) {
    salient_fit[(row * PLANES + plane) * 2] = select(0.0, center, plane == 0);
    salient_fit[(row * PLANES + plane) * 2 + 1] = steps[plane];
  }
}
