/** How the threads of a row agree on a move: they are exactly one subgroup, or at most 1024 threads. */
export type Choice = "subgroup" | "workgroup";

/**
 * The part of a tabu search that depends on how weights are stored: WGSL with its bindings, from number 4
 * on, and these functions, of which `row` and `lane` are the row and the thread, and `state` holds the
 * weight's code in CODE and its mark in MARK:
 *
 *     fn stage(row: u32, lane: u32)               first of all; a barrier follows
 *     fn code_of(row: u32, col: u32) -> u32       the code of a weight, 0 .. 7, plus MARK if it has a mark
 *     fn least_gain(row: u32, col: u32, state: u32, r: f32, h: f32) -> f32
 *                                                 the least of d (h d - 2 r) over the steps d != 0 to the
 *                                                 values of other codes; 1e30 or more if there are none
 *     fn best_change(row: u32, col: u32, state: u32, r: f32, h: f32) -> Move
 *                                                 the same with the step and the code; the step is 0 if
 *                                                 there are none
 *     fn value_of(row: u32, col: u32, state: u32) -> f32
 *     fn put(row: u32, col: u32, code: u32)       stores the code of a weight
 *     fn finish(row: u32, lane: u32)              after all of them and a barrier
 */
export type Candidates = string;

/**
 * Generates the kernel of a tabu search for the codes of whole rows: `moves` times the best change of one
 * weight is made, even one that increases the loss tr(e H eᵀ), and the best codes seen are kept. A change
 * by d changes the loss by d (H_jj d - 2 R_j), with the residual R = (w - q) H. A weight that has changed
 * is locked for TENURE to 1.5 TENURE moves, unless its change leads to a new best.
 *
 * One workgroup per row. Each thread holds every LANES-th column: R, H_jj and the state; a move reads one
 * row of H.
 *
 * Reference: tests/reference/row_search.ts.
 *
 * @param perThread Columns of a thread.
 * @param isUnrolled Whether they are in registers, for GPUs, instead of arrays, which compile faster.
 */
export function rowSearchSource(
	candidates: Candidates,
	perThread: number,
	isUnrolled: boolean,
	choice: Choice,
): string {
	const columns = Array.from({ length: perThread }, (_, e) => e);
	const place = (e: number | string) =>
		isUnrolled
			? { r: `r${e}`, h: `h${e}`, state: `state${e}` }
			: { r: `r[${e}]`, h: `h[${e}]`, state: `state[${e}]` };
	const declare = isUnrolled
		? columns.map((e) => `var r${e} = 0.0; var h${e} = 0.0; var state${e} = LOCKED;`)
		: [
			`var r: array<f32, ${perThread}>; var h: array<f32, ${perThread}>;`,
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

struct Params { first: u32, rows: u32, cols: u32, moves: u32, seed: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> H: array<f32>;               // [cols, cols], damped
@group(0) @binding(2) var<storage, read> residual: array<f32>;        // [rows, cols]
@group(0) @binding(3) var<storage, read_write> quantized: array<f32>; // [rows, cols]

// State of a column: code in bits 0 to 2, code of the best row in bits 3 to 5, a mark, and from bit 7 on
// the first move at which it may change again.
const CODE = 7u;
const BEST = 56u;
const MARK = 64u;
const LOCKED = 0xffffff80u; // for ever: no column
${candidates}
fn hash(value: u32) -> u32 {
  var h = value;
  h = (h ^ (h >> 16u)) * 0x7feb352du;
  h = (h ^ (h >> 15u)) * 0x846ca68bu;
  return h ^ (h >> 16u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = p.first + group.x;
  stage(row, lane);
  prepare(lane);
  workgroupBarrier();

  ${declare.join("\n  ")}
  ${
		forEach(({ r, h, state }) => `
    ${state} = LOCKED;
    if (col < p.cols) {
      ${r} = residual[row * p.cols + col];
      ${h} = H[col * (p.cols + 1)];
      let start = code_of(row, col);
      ${state} = start | ((start & CODE) << 3u);
    }`)
	}

  var change = 0.0; // of the loss since the start
  var best = 0.0;
  var last = Move(0.0, 0.0, 0u, 0u);
  var improved = false;
  for (var turn = 1u; turn <= p.moves + 1; turn++) {
    let until = turn - 1 + TENURE + hash(last.col * 0x9e3779b9u + turn + p.seed) % (TENURE / 2 + 1);
    let locked = last.code | (until << 7u);
    let needed = best - 1e-6 * abs(best) - change; // the gain for a new best
    let h_at = last.col * p.cols;
    var gain = 1e30;
    var place = 0u;
    ${
		forEach(({ r, h, state }) => `
      // The move before, which no thread but the column's own has seen so far.
      if (last.step != 0.0) {
        ${r} -= last.step * H[h_at + min(col, p.cols - 1)];
        if (col == last.col) { ${state} = (${state} & (BEST | MARK)) | locked; }
        if (improved) { ${state} = (${state} & ~BEST) | ((${state} & CODE) << 3u); }
      }
      if (${state} < LOCKED) {
        let own = least_gain(row, col, ${state}, ${r}, ${h});
        if ((own < gain) && (((${state} >> 7u) <= turn) || (own < needed))) {
          gain = own;
          place = col;
        }
      }`)
	}
    if (turn > p.moves) { break; } // the last turn only completes the last move
    let wins = is_least(gain, place, turn, lane);
    var own = Move(gain, 0.0, place, 0u);
    if (wins && (gain < 1e30)) {
      ${
		isUnrolled
			? `var r = 0.0; var h = 0.0; var state = 0u;
      ${forEach(({ r, h, state }) => `if (col == place) { r = ${r}; h = ${h}; state = ${state}; }`)}
      own = best_change(row, place, state, r, h);`
			: `let e = place / LANES;
      own = best_change(row, place, state[e], r[e], h[e]);`
	}
    }
    last = shared_move(own, wins, turn);
    if (last.step != 0.0) { change += last.gain; } // otherwise all columns are locked
    improved = change < best - 1e-6 * abs(best);
    if (improved) { best = change; }
  }

  ${
		forEach(({ state }) => `
    if (col < p.cols) {
      let code = (${state} >> 3u) & CODE;
      quantized[row * p.cols + col] = value_of(row, col, (${state} & MARK) | code);
      put(row, col, code);
    }`)
	}
  workgroupBarrier();
  finish(row, lane);
}
`;
}

/**
 * The WGSL of the choice of a move: `is_least` says whether a thread has the best one, `shared_move` makes
 * it known to all. Among the threads of a workgroup, gains are compared in 22 bits, with the thread in the
 * other ten.
 */
function chooseSource(choice: Choice): string {
	const start = `
override LANES: u32 = 256;

struct Move { gain: f32, step: f32, col: u32, code: u32 }
`;
	if (choice === "subgroup") {
		return `${start}
fn prepare(lane: u32) {}

fn is_least(gain: f32, col: u32, turn: u32, lane: u32) -> bool {
  let least = subgroupMin(gain);
  let first = subgroupMin(select(0xffffffffu, col, gain == least));
  let lanes = subgroupMin(select(0xffffffffu, lane, (gain == least) && (col == first)));
  return lanes == lane;
}

fn shared_move(own: Move, wins: bool, turn: u32) -> Move {
  return Move(
    subgroupAdd(select(0.0, own.gain, wins)),
    subgroupAdd(select(0.0, own.step, wins)),
    subgroupAdd(select(0u, own.col, wins)),
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

fn is_least(gain: f32, col: u32, turn: u32, lane: u32) -> bool {
  let word = bitcast<u32>(gain);
  let ascending = select(word | 0x80000000u, ~word, (word >> 31u) == 1u);
  atomicMin(&keys[turn & 1], (ascending & 0xfffffc00u) | lane);
  workgroupBarrier();
  return (atomicLoad(&keys[turn & 1]) & 0x3ffu) == lane;
}

fn shared_move(own: Move, wins: bool, turn: u32) -> Move {
  if (wins) {
    chosen = own;
    atomicStore(&keys[(turn + 1) & 1], 0xffffffffu);
  }
  workgroupBarrier();
  return chosen;
}
`;
}
