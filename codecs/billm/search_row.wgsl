// Tabu search for the bits of a whole row, with fixed means and scales: `moves` times the best change of one
// weight is made, even one that increases the loss tr(e H eᵀ), and the best bits seen are kept. A change by
// d changes the loss by d (H_jj d - 2 R_j) with the residual R = (w - q) H. A weight that has changed is
// locked for TENURE to 1.5 TENURE moves, unless its change leads to a new best.
//
// One workgroup per row. Each thread holds every LANES-th column: R, H_jj and the state in registers; a
// move reads one row of H. PER is prepended: the columns of a thread. So is the choice of the best move:
//
//   choose(own, turn, lane)   the thread's own best move -> the best of all threads, for all of them
//
// Reference: tests/reference/row_search.ts.

override TENURE: u32 = 10;
override STAGED: bool = true;  // whether workgroup memory holds the levels
override LEVELS: u32 = 10;    // 2 · blocks, or 1 if they are not staged
override WORDS: u32 = 18;     // of a row's bits
override HAS_SALIENT: bool = true;
override SCALES: u32 = 7;     // per row and block: zones' (mean, scale), salient mean, salient scales

struct Params { first: u32, rows: u32, cols: u32, words: u32, block_size: u32, blocks: u32, moves: u32, seed: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;                 // [cols, cols], damped
@group(0) @binding(2) var<storage, read> residual: array<f32>;          // [rows, cols]
@group(0) @binding(3) var<storage, read> salient: array<u32>;           // [cols], 0 or 1
@group(0) @binding(4) var<storage, read> scales: array<f32>;            // [rows, blocks, SCALES]
@group(0) @binding(5) var<storage, read_write> bits: array<u32>;        // [2, rows, words]
@group(0) @binding(6) var<storage, read_write> quantized: array<f32>;   // [rows, cols]

var<workgroup> levels: array<vec4f, LEVELS>;
var<workgroup> plane0: array<atomic<u32>, WORDS>;
var<workgroup> plane1: array<atomic<u32>, WORDS>;

// State of a column: code in bits 0 and 1, code of the best row in bits 2 and 3, salient in bit 4, the
// first move at which it may change again from bit 5 on.
const CODE = 3u;
const BEST = 12u;
const SALIENT = 16u;

// The values of the codes of ordinary columns (table 2 b) and of salient ones (2 b + 1) of block b.
fn levels_of(row: u32, table: u32) -> vec4f {
  if (STAGED) { return levels[table]; }
  return computed_levels(row, table);
}

fn computed_levels(row: u32, table: u32) -> vec4f {
  let at = (row * p.blocks + table / 2) * SCALES;
  if (table % 2 == 1) {
    let minus = scales[at + 4] - scales[at + 5];
    let plus = scales[at + 4] + scales[at + 5];
    let second = scales[at + 6];
    return vec4f(minus - second, plus - second, minus + second, plus + second);
  }
  let low = vec2f(scales[at], scales[at + 1]);
  let high = vec2f(scales[at + 2], scales[at + 3]);
  return vec4f(low.x - low.y, low.x + low.y, high.x - high.y, high.x + high.y);
}

fn hash(value: u32) -> u32 {
  var h = value;
  h = (h ^ (h >> 16u)) * 0x7feb352du;
  h = (h ^ (h >> 15u)) * 0x846ca68bu;
  return h ^ (h >> 16u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.first + group.x;
  if (STAGED) {
    for (var table = lane; table < 2 * p.blocks; table += LANES) {
      if (HAS_SALIENT || table % 2 == 0) { levels[table] = computed_levels(row, table); }
    }
  }
  for (var word = lane; word < p.words; word += LANES) {
    atomicStore(&plane0[word], 0u);
    atomicStore(&plane1[word], 0u);
  }
  prepare(lane);
  workgroupBarrier();

  var r: array<f32, PER>;
  var diagonal: array<f32, PER>;
  var state: array<u32, PER>;
  for (var e = 0u; e < PER; e++) {
    let col = e * LANES + lane;
    if (col < p.cols) {
      r[e] = residual[row * p.cols + col];
      diagonal[e] = H[col * (p.cols + 1)];
      let at = row * p.words + col / 32;
      let code = ((bits[at] >> (col % 32)) & 1u) | (((bits[p.rows * p.words + at] >> (col % 32)) & 1u) << 1u);
      state[e] = (code * 5u) | select(0u, SALIENT, HAS_SALIENT && salient[col] == 1);
    }
  }

  var change = 0.0; // of the loss since the start
  var best = 0.0;
  var last = Move(0.0, 0.0, 0u, 0u);
  var improved = false;
  for (var turn = 1u; turn <= p.moves + 1; turn++) {
    var least = Move(1e30, 0.0, 0u, 0u);
    for (var e = 0u; e < PER; e++) {
      let col = e * LANES + lane;
      if (col >= p.cols) { break; }
      // The move before, which no thread but the column's own has seen so far.
      var own = state[e];
      if (last.step != 0.0) {
        r[e] -= last.step * H[last.col * p.cols + col];
        if (col == last.col) {
          let until = turn - 1 + TENURE + hash(last.col * 0x9e3779b9u + turn + p.seed) % (TENURE / 2 + 1);
          own = (own & (BEST | SALIENT)) | last.code | (until << 5u);
        }
        if (improved) { own = (own & ~BEST) | ((own & CODE) << 2u); }
        state[e] = own;
      }
      let four = levels_of(row, 2 * (col / p.block_size) + ((own >> 4u) & 1u));
      let d = four - four[own & CODE];
      let gains = select(d * (diagonal[e] * d - 2.0 * r[e]), vec4f(1e30), d == vec4f(0.0));
      var code = 0u;
      if (gains.y < gains[code]) { code = 1; }
      if (gains.z < gains[code]) { code = 2; }
      if (gains.w < gains[code]) { code = 3; }
      let gain = gains[code];
      let free = (own >> 5u) <= turn || change + gain < best - 1e-6 * abs(best);
      if (free && gain < least.gain) { least = Move(gain, d[code], col, code); }
    }
    if (turn > p.moves) { break; } // the last turn only completes the last move
    last = choose(least, turn, lane);
    if (last.step != 0.0) { change += last.gain; } // otherwise all columns are locked
    improved = change < best - 1e-6 * abs(best);
    if (improved) { best = change; }
  }

  for (var e = 0u; e < PER; e++) {
    let col = e * LANES + lane;
    if (col >= p.cols) { break; }
    let code = (state[e] >> 2u) & 3u;
    let four = levels_of(row, 2 * (col / p.block_size) + ((state[e] >> 4u) & 1u));
    quantized[row * p.cols + col] = four[code];
    if ((code & 1u) == 1u) { atomicOr(&plane0[col / 32], 1u << (col % 32)); }
    if ((code & 2u) == 2u) { atomicOr(&plane1[col / 32], 1u << (col % 32)); }
  }
  workgroupBarrier();
  for (var word = lane; word < p.words; word += LANES) {
    bits[row * p.words + word] = atomicLoad(&plane0[word]);
    bits[(p.rows + row) * p.words + word] = atomicLoad(&plane1[word]);
  }
}
