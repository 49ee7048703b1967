/** How the threads of a workgroup agree on a move. */
export type Choice = "one subgroup" | "subgroups" | "workgroup";

/**
 * Generates the kernel of the tabu search for the bits of whole rows, with fixed means and scales: `moves`
 * times the best change of one weight is made, even one that increases the loss tr(e H eᵀ), and the best
 * bits seen are kept. A change by d changes the loss by d (H_jj d - 2 R_j), with the residual
 * R = (w - q) H. A weight that has changed is locked for TENURE to 1.5 TENURE moves, unless its change
 * leads to a new best.
 *
 * One workgroup per row. Each thread holds every LANES-th column: R, H_jj and the state; a move reads one
 * row of H.
 *
 * Reference: tests/reference/row_search.ts.
 *
 * @param perThread Columns of a thread.
 * @param isUnrolled Whether they are in registers, for GPUs, instead of arrays, which compile faster.
 */
export function rowSearchSource(perThread: number, isUnrolled: boolean, choice: Choice): string {
  const columns = Array.from({ length: perThread }, (_, e) => e);
  const place = (e: number | string) =>
    isUnrolled
      ? { r: `r${e}`, diagonal: `diagonal${e}`, state: `state${e}` }
      : { r: `r[${e}]`, diagonal: `diagonal[${e}]`, state: `state[${e}]` };
  const declare = isUnrolled
    ? columns.map((e) => `var r${e} = 0.0; var diagonal${e} = 0.0; var state${e} = LOCKED;`)
    : [
      `var r: array<f32, ${perThread}>; var diagonal: array<f32, ${perThread}>;`,
      `var state: array<u32, ${perThread}>;`,
    ];
  const forEach = (body: (column: ReturnType<typeof place>) => string) =>
    isUnrolled
      ? columns.map((e) => `{ let col = ${e}u * LANES + lane; ${body(place(e))} }`).join("\n")
      : `for (var e = 0u; e < ${perThread}u; e++) { let col = e * LANES + lane; ${
        body(place("e"))
      } }`;
  return `${chooseSource(choice)}
override TENURE: u32 = 10;
override BLOCK: u32 = 128;    // columns
override STAGED: bool = true; // whether workgroup memory holds the levels
override LEVELS: u32 = 10;    // 2 · blocks, or 1 if they are not staged
override WORDS: u32 = 18;     // of a row's bits
override HAS_SALIENT: bool = true;
override SCALES: u32 = 7;     // per row and block: zones' (mean, scale), salient mean, salient scales

struct Params { first: u32, rows: u32, cols: u32, words: u32, blocks: u32, moves: u32, seed: u32 }
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
const LOCKED = 0xffffffe0u;   // for ever: no column

fn hash(value: u32) -> u32 {
  var h = value;
  h = (h ^ (h >> 16u)) * 0x7feb352du;
  h = (h ^ (h >> 15u)) * 0x846ca68bu;
  return h ^ (h >> 16u);
}

// The values of the codes of ordinary columns (table 2 b) and of salient ones (2 b + 1) of block b.
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

fn four_values(row: u32, col: u32, state: u32) -> vec4f {
  let table = 2 * (min(col, p.cols - 1) / BLOCK) + ((state >> 4u) & 1u);
  if (STAGED) { return levels[table]; }
  return computed_levels(row, table);
}

fn value_of(four: vec4f, code: u32) -> f32 {
  let pair = select(four.xy, four.zw, (code & 2u) == 2u);
  return select(pair.x, pair.y, (code & 1u) == 1u);
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

  ${declare.join("\n  ")}
  ${
    forEach(({ r, diagonal, state }) => `
    ${state} = LOCKED;
    if (col < p.cols) {
      ${r} = residual[row * p.cols + col];
      ${diagonal} = H[col * (p.cols + 1)];
      let at = row * p.words + col / 32;
      let code = ((bits[at] >> (col % 32)) & 1u) |
        (((bits[p.rows * p.words + at] >> (col % 32)) & 1u) << 1u);
      ${state} = (code * 5u) | select(0u, SALIENT, HAS_SALIENT && salient[col] == 1);
    }`)
  }

  var change = 0.0; // of the loss since the start
  var best = 0.0;
  var last = Move(0.0, 0.0, 0u, 0u);
  var improved = false;
  for (var turn = 1u; turn <= p.moves + 1; turn++) {
    let until = turn - 1 + TENURE + hash(last.col * 0x9e3779b9u + turn + p.seed) % (TENURE / 2 + 1);
    let locked = last.code | (until << 5u);
    let enough = best - 1e-6 * abs(best); // for a new best
    let h_at = last.col * p.cols;
    var least = Move(1e30, 0.0, 0u, 0u);
    ${
    forEach(({ r, diagonal, state }) => `
      // The move before, which no thread but the column's own has seen so far.
      if (last.step != 0.0) {
        ${r} -= last.step * H[h_at + min(col, p.cols - 1)];
        if (col == last.col) { ${state} = (${state} & (BEST | SALIENT)) | locked; }
        if (improved) { ${state} = (${state} & ~BEST) | ((${state} & CODE) << 2u); }
      }
      let own = ${state};
      let four = four_values(row, col, own);
      let d = four - value_of(four, own);
      let gains = select(d * (${diagonal} * d - 2.0 * ${r}), vec4f(1e30), d == vec4f(0.0));
      var better = Move(gains.x, d.x, col, 0u);
      if (gains.y < better.gain) { better = Move(gains.y, d.y, col, 1u); }
      if (gains.z < better.gain) { better = Move(gains.z, d.z, col, 2u); }
      if (gains.w < better.gain) { better = Move(gains.w, d.w, col, 3u); }
      let free = (own >> 5u) <= turn || own < LOCKED && change + better.gain < enough;
      if (free && better.gain < least.gain) { least = better; }`)
  }
    if (turn > p.moves) { break; } // the last turn only completes the last move
    last = choose(least, turn, lane);
    if (last.step != 0.0) { change += last.gain; } // otherwise all columns are locked
    improved = change < best - 1e-6 * abs(best);
    if (improved) { best = change; }
  }

  ${
    forEach(({ state }) => `
    if (col < p.cols) {
      let code = (${state} >> 2u) & 3u;
      quantized[row * p.cols + col] = value_of(four_values(row, col, ${state}), code);
      if ((code & 1u) == 1u) { atomicOr(&plane0[col / 32], 1u << (col % 32)); }
      if ((code & 2u) == 2u) { atomicOr(&plane1[col / 32], 1u << (col % 32)); }
    }`)
  }
  workgroupBarrier();
  for (var word = lane; word < p.words; word += LANES) {
    bits[row * p.words + word] = atomicLoad(&plane0[word]);
    bits[(p.rows + row) * p.words + word] = atomicLoad(&plane1[word]);
  }
}
`;
}

/**
 * The WGSL of `choose`: the best of the threads' moves, for all of them. The workgroup is exactly one
 * subgroup, or it has at most 1024 threads; then gains are compared in 22 bits, with the thread in the
 * other ten.
 */
function chooseSource(choice: Choice): string {
  const start = `
override LANES: u32 = 256;

struct Move { gain: f32, step: f32, col: u32, code: u32 }
`;
  if (choice === "one subgroup") {
    return `${start}
fn prepare(lane: u32) {}

fn choose(own: Move, turn: u32, lane: u32) -> Move {
  let gain = subgroupMin(own.gain);
  let col = subgroupMin(select(0xffffffffu, own.col, own.gain == gain));
  let wins = own.gain == gain && own.col == col && own.step != 0.0;
  return Move(
    gain,
    subgroupAdd(select(0.0, own.step, wins)),
    col,
    subgroupAdd(select(0u, own.code, wins)),
  );
}
`;
  }
  return `${start}
// The least key of the even and of the odd turns.
var<workgroup> keys: array<atomic<u32>, 2>;
var<workgroup> chosen: Move;

fn prepare(lane: u32) {
  if (lane < 2) { atomicStore(&keys[lane], 0xffffffffu); }
}

fn choose(own: Move, turn: u32, lane: u32) -> Move {
  let word = bitcast<u32>(own.gain);
  let ascending = select(word | 0x80000000u, ~word, (word >> 31u) == 1u);
  let key = (ascending & 0xfffffc00u) | lane;
  ${
    choice === "subgroups"
      ? "if (subgroupMin(key) == key) "
      : ""
  }{ atomicMin(&keys[turn & 1], key); }
  workgroupBarrier();
  if ((atomicLoad(&keys[turn & 1]) & 0x3ffu) == lane) {
    chosen = own;
    atomicStore(&keys[(turn + 1) & 1], 0xffffffffu);
  }
  workgroupBarrier();
  return chosen;
}
`;
}
