// Alternates ROUNDS times between two steps: assigns every weight the nearest representable value, and
// moves means and scales to the minimum of the squared errors weighted by cost.
//
//   other columns    four values mean[z] ± scale[z], each moves to the mean of its weights
//   salient columns  mean + Σ ± scale[plane]; the mean, then each scale, moves with the rest fixed
//
// The planes' means are merged into the first one. A value that is nearest to no weight does not move.
//
// LANES threads share a row; each holds all of the row's fits. The rows are in workgroup memory, columns
// that are not salient first. Source: the alternating refinement of ARB-LLM, arXiv:2410.03129, in which
// every weight may change its zone. Reference: tests/reference/billm.ts.

override ROWS: u32 = 16;
override LANES: u32 = 8;    // threads of a row
override LOADERS: u32 = 32; // threads that load a row together, a divisor of ROWS · LANES
override STRIDE: u32 = 136; // of the rows in workgroup memory, at least the columns
override TILE: u32 = ROWS * STRIDE;
override THREADS: u32 = ROWS * LANES;
override ROUNDS: u32 = 8;
override ZONES: u32 = 2;
override PLANES: u32 = 2; // 0 without salient columns

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;            // [rows, cols]
@group(0) @binding(2) var<storage, read> salient: array<u32>;           // [cols], 0 or 1
@group(0) @binding(3) var<storage, read> cost: array<f32>;              // [cols]
@group(0) @binding(4) var<storage, read_write> zone_fits: array<f32>;   // [rows, 2 · ZONES]
@group(0) @binding(5) var<storage, read_write> salient_fit: array<f32>; // [rows, 2 · PLANES]

const COLS = 256u;                                   // the greatest number of columns of a block
var<workgroup> marks: array<atomic<u32>, COLS / 32>; // bits of the columns that are not salient
var<workgroup> columns: array<u32, COLS>;
var<workgroup> costs: array<f32, COLS>; // in the order of `columns`
var<workgroup> tile: array<f32, TILE>;  // [row][column in this order]
var<workgroup> shares: array<Sums, THREADS>;

struct Sums { weights: vec4f, totals: vec4f }

// The sums over the threads of a row, for each of them.
fn over_row(own: Sums, lane: u32) -> Sums {
  if (LANES == 1) { return own; }
  shares[lane] = own;
  workgroupBarrier();
  var sums = Sums();
  let first = lane / LANES * LANES;
  for (var i = first; i < first + LANES; i++) {
    sums.weights += shares[i].weights;
    sums.totals += shares[i].totals;
  }
  workgroupBarrier(); // the next call overwrites the shares
  return sums;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  for (var col = lane; col < p.cols; col += THREADS) {
    if (salient[col] == 0) { atomicOr(&marks[col / 32], 1u << (col % 32)); }
  }
  workgroupBarrier();
  var others = 0u; // columns that are not salient
  for (var i = 0u; i < COLS / 32; i++) { others += countOneBits(atomicLoad(&marks[i])); }
  for (var col = lane; col < p.cols; col += THREADS) {
    let word = atomicLoad(&marks[col / 32]);
    var k = countOneBits(word & ((1u << (col % 32)) - 1));
    for (var i = 0u; i < col / 32; i++) { k += countOneBits(atomicLoad(&marks[i])); }
    if (((word >> (col % 32)) & 1u) == 0u) { k = others + col - k; }
    columns[k] = col;
    costs[k] = cost[col];
  }
  workgroupBarrier();
  for (var r = lane / LOADERS; r < ROWS; r += THREADS / LOADERS) {
    let start = min(group.x * ROWS + r, p.rows - 1) * p.cols;
    for (var first = lane % LOADERS; first < p.cols; first += 4 * LOADERS) {
      let k = first + LOADERS * vec4u(0, 1, 2, 3);
      let near = min(k, vec4u(p.cols - 1));
      let x = vec4f( // four loads in flight
        weight[start + columns[near.x]],
        weight[start + columns[near.y]],
        weight[start + columns[near.z]],
        weight[start + columns[near.w]],
      );
      tile[r * STRIDE + k.x] = x.x;
      if (k.y < p.cols) { tile[r * STRIDE + k.y] = x.y; }
      if (k.z < p.cols) { tile[r * STRIDE + k.z] = x.z; }
      if (k.w < p.cols) { tile[r * STRIDE + k.w] = x.w; }
    }
  }
  workgroupBarrier();

  let own_row = group.x * ROWS + lane / LANES;
  let row = min(own_row, p.rows - 1);
  let writes = own_row < p.rows && lane % LANES == 0;
  let at = lane / LANES * STRIDE;
  var mean = vec2f(0.0);
  var scale = vec2f(0.0);
  for (var z = 0u; z < ZONES; z++) {
    mean[z] = zone_fits[(row * ZONES + z) * 2];
    scale[z] = zone_fits[(row * ZONES + z) * 2 + 1];
  }
  for (var round = 0u; round < ROUNDS; round++) {
    var sums = Sums(); // low -, low +, high -, high +
    for (var k = lane % LANES; k < others; k += LANES) {
      let w = tile[at + k];
      let off = abs(abs(vec2f(w) - mean) - scale);
      let high = ZONES == 2 && off.y < off.x;
      let plus = w >= select(mean.x, mean.y, high);
      let here = vec4u(0, 1, 2, 3) == vec4u(u32(high) * 2 + u32(plus));
      let c = select(vec4f(0.0), vec4f(costs[k]), here);
      sums.weights += c;
      sums.totals += c * w;
    }
    sums = over_row(sums, lane);
    let before = vec4f(mean.x - scale.x, mean.x + scale.x, mean.y - scale.y, mean.y + scale.y);
    let values = select(
      before,
      sums.totals / max(sums.weights, vec4f(1e-37)),
      sums.weights > vec4f(0.0),
    );
    mean = (values.xz + values.yw) * 0.5;
    scale = abs(values.yw - values.xz) * 0.5;
  }
  if (writes) {
    for (var z = 0u; z < ZONES; z++) {
      zone_fits[(row * ZONES + z) * 2] = mean[z];
      zone_fits[(row * ZONES + z) * 2 + 1] = scale[z];
    }
  }

  if (PLANES == 0) { return; }
  var center = 0.0;
  var steps = vec4f(0.0);
  for (var plane = 0u; plane < PLANES; plane++) {
    center += salient_fit[(row * PLANES + plane) * 2];
    steps[plane] = salient_fit[(row * PLANES + plane) * 2 + 1];
  }
  // Alternately moves the mean (turn 0) and each scale (turn 1 ..), with new signs each time.
  for (var turn = 0u; turn < ROUNDS * (PLANES + 1); turn++) {
    let moving = turn % (PLANES + 1);
    var weights = 0.0;
    var total = 0.0;
    for (var k = others + lane % LANES; k < p.cols; k += LANES) {
      var r = tile[at + k] - center;
      var sign = 1.0;
      for (var plane = 0u; plane < PLANES; plane++) {
        let s = select(-1.0, 1.0, r >= 0.0);
        if (plane + 1 == moving) { sign = s; }
        r -= s * steps[plane];
      }
      let c = costs[k];
      weights += c;
      total += c * r * sign;
    }
    let sums = over_row(Sums(vec4f(weights), vec4f(total)), lane);
    let move_by = sums.totals.x / max(sums.weights.x, 1e-37);
    if (moving == 0) { center += move_by; } else { steps[moving - 1] = max(steps[moving - 1] + move_by, 0.0); }
  }
  if (!writes) { return; }
  for (var plane = 0u; plane < PLANES; plane++) {
    salient_fit[(row * PLANES + plane) * 2] = select(0.0, center, plane == 0);
    salient_fit[(row * PLANES + plane) * 2 + 1] = steps[plane];
  }
}
