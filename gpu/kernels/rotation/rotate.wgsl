// out = factor · Had(signs · f(x)), or UNDO: out = signs · (factor · Had(x)). Had is the Hadamard
// transform of each run of 2^steps neighbouring entries in Sylvester order, without its factor.
//
// f is the identity (SOURCE 0 reads `out` itself, 1 reads x), or of a single row: 2 the RMS norm, 3 an
// activation function, 4 one of x times the part of x that begins at `up`.
//
// A workgroup takes 512 entries of the flattened rows, which are whole runs. The butterflies at distance
// 1, 2, 4 ... come first, then one product, then the sign as a bit: nothing that a compiler may fuse, so
// that the host gets the same bits.
//
// Reference: tests/gpu/kernels/rotation/rotate_test.ts.

override SOURCE: u32 = 0;
override UNDO: bool = false;

const CHUNK = 512u;

struct Params { size: u32, cols: u32, steps: u32, start: u32, up: u32, factor: f32, epsilon: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;         // [rows, cols], [up + cols] if SOURCE 4
@group(0) @binding(2) var<storage, read> weight: array<f32>;    // [cols], used if SOURCE 2
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [rows, cols]

var<workgroup> values: array<f32, CHUNK>;

// v with the random sign of column col; without runs there are no signs.
fn signed(v: f32, col: u32) -> f32 {
  if (p.steps == 0) { return v; }
  var h = p.start + col;
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
  return bitcast<f32>(bitcast<u32>(v) ^ (h & 0x80000000u));
}

fn source(i: u32, norm: f32) -> f32 {
  if (SOURCE == 0) { return out[i]; }
  if (SOURCE == 2) { return x[i] * norm * weight[i]; }
  if (SOURCE == 3) { return activate(x[i]); }
  if (SOURCE == 4) { return activate(x[i]) * x[p.up + i]; }
  return x[i];
}

// The column of the thread's next entry; divisions are expensive.
fn advanced(col: u32) -> u32 {
  var next = col + LANES;
  while (next >= p.cols) { next -= p.cols; }
  return next;
}

// The butterflies at distance d, 2 d and 4 d of eight entries, in registers.
fn three_steps(i: u32, d: u32) {
  let a = vec4f(values[i], values[i + 2 * d], values[i + 4 * d], values[i + 6 * d]);
  let b = vec4f(values[i + d], values[i + 3 * d], values[i + 5 * d], values[i + 7 * d]);
  let sums = a + b; // entries 0 2 4 6
  let differences = a - b; // entries 1 3 5 7
  let even = vec4f(sums.xz, differences.xz); // entries 0 4 1 5
  let odd = vec4f(sums.yw, differences.yw); // entries 2 6 3 7
  let upper = even + odd; // entries 0 4 1 5
  let lower = even - odd; // entries 2 6 3 7
  let front = vec4f(upper.xz, lower.xz); // entries 0 1 2 3
  let back = vec4f(upper.yw, lower.yw); // entries 4 5 6 7
  let low = front + back;
  let high = front - back;
  values[i] = low.x;
  values[i + d] = low.y;
  values[i + 2 * d] = low.z;
  values[i + 3 * d] = low.w;
  values[i + 4 * d] = high.x;
  values[i + 5 * d] = high.y;
  values[i + 6 * d] = high.z;
  values[i + 7 * d] = high.w;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (group.y * groups.x + group.x) * CHUNK;
  if (first >= p.size) { return; }
  var norm = 1.0;
  if (SOURCE == 2) {
    var squares = 0.0;
    for (var i = lane; i < p.size; i += LANES) { squares += x[i] * x[i]; }
    norm = 1.0 / sqrt(sum_over_lanes(squares, lane) / f32(p.size) + p.epsilon);
  }
  var col = (first + lane) % p.cols;
  for (var i = lane; i < CHUNK; i += LANES) {
    let at = first + i;
    var v = 0.0;
    if (at < p.size) { v = source(at, norm); }
    if (!UNDO) { v = signed(v, col); }
    values[i] = v;
    col = advanced(col);
  }
  workgroupBarrier();
  var step = 0u;
  for (; step + 3 <= p.steps; step += 3) {
    for (var eight = lane; eight < CHUNK / 8; eight += LANES) {
      let low = eight & ((1u << step) - 1);
      three_steps(((eight - low) << 3) + low, 1u << step);
    }
    workgroupBarrier();
  }
  for (; step < p.steps; step++) {
    for (var pair = lane; pair < CHUNK / 2; pair += LANES) {
      let low = pair & ((1u << step) - 1);
      let i = ((pair - low) << 1) + low;
      let j = i + (1u << step);
      let a = values[i];
      let b = values[j];
      values[i] = a + b;
      values[j] = a - b;
    }
    workgroupBarrier();
  }
  col = (first + lane) % p.cols;
  for (var i = lane; i < CHUNK; i += LANES) {
    let at = first + i;
    if (at >= p.size) { break; }
    var v = values[i] * p.factor;
    if (UNDO) { v = signed(v, col); }
    out[at] = v;
    col = advanced(col);
  }
}
