import { repeat, XYZW } from "../../gpu/source_text.ts";
import { stepsOf, TILE, type Trellis } from "./trellis.ts";

/** The form of the kernel of {@link searchTiles}. */
export interface ViterbiForm {
	/** Threads of a workgroup, a power of two: 2^stepBits .. 2^(stateBits - stepBits). */
	threads: number;
	/** Buffers of least costs: two need one barrier per step, one needs two barriers and half the memory. */
	buffers: 1 | 2;
	/**
	 * Rows of back pointers in workgroup memory, a power of two. All of them, or as many as are copied
	 * there at a time from a storage buffer.
	 */
	staged: number;
}

/** What follows from a trellis and the form of its kernel. */
export interface ViterbiShape {
	/** Overlaps of two states, 2^(stateBits - stepBits). */
	overlaps: number;
	/** Overlaps that a thread owns. */
	owned: number;
	/** Steps whose back pointers share a u32 of each thread. */
	packed: number;
	/** Rows of back pointers, one u32 per thread each. */
	rows: number;
	/** Words between the buffers' rows of threads that keep accesses apart in the banks. */
	apart: number;
}

export function viterbiShape(trellis: Trellis, { threads }: Pick<ViterbiForm, "threads">) {
	const { stepBits, steps } = stepsOf(trellis);
	const overlaps = 2 ** (trellis.stateBits - stepBits);
	const owned = overlaps / threads;
	const packed = Math.min(16, 2 ** Math.floor(Math.log2(32 / (owned * stepBits))));
	const apart = Math.floor(32 / (owned * 2 ** stepBits));
	return { overlaps, owned, packed, rows: steps / packed, apart } satisfies ViterbiShape;
}

/** Bytes of workgroup memory that the kernel takes. */
export function viterbiBytes(trellis: Trellis, form: ViterbiForm): number {
	const { overlaps, owned, apart } = viterbiShape(trellis, form);
	const best = form.buffers * (overlaps + owned * 2 ** stepsOf(trellis).stepBits * apart);
	const { steps } = stepsOf(trellis);
	return 4 * (best + form.staged * form.threads + TILE * TILE + steps + 2 * form.threads + 1);
}

/**
 * Generates the kernel of {@link searchTiles}.
 *
 * Between two steps only the overlap q of their states matters, the stateBits - stepBits bits that both
 * have: with P overlaps,
 *
 *     cost[s] = best[s >> stepBits] + |x_t - table[s]|²       best'[q] = min over h of cost[q + h P]
 *
 * A workgroup searches one tile. Each thread owns some neighbouring overlaps q; the table entries of their
 * states q + h P stay in its registers. Only `best` goes through workgroup memory, from where the
 * 2^stepBits states with the same s >> stepBits take a single value. It is stored as
 * [q % owned][h][q / owned of h], so that neighbouring threads access neighbouring words.
 *
 * The h of the minima, the back pointers, are packed into words of each thread. They stay in workgroup
 * memory if it holds them all; else they go to a storage buffer, and the thread that walks back through
 * them finds them copied to workgroup memory, some rows at a time.
 *
 * Tail-biting takes two passes: the first, on the tile turned by half of its steps, finds the overlap of
 * the last and the first state; the second one is forced to it.
 */
export function viterbiKernel(trellis: Trellis, form: ViterbiForm): string {
	const { stepBits, stepWeights, steps, words } = stepsOf(trellis);
	const { stateBits } = trellis;
	const { threads, buffers, staged } = form;
	const { overlaps, owned, packed, rows, apart } = viterbiShape(trellis, form);
	const branches = 2 ** stepBits;
	const isResident = staged >= rows;
	const kept = Math.min(staged, rows);
	const unrolled = Math.max(packed, 4 / stepWeights, 2);
	const each = Math.max(1, owned / branches); // values of s >> stepBits of a thread's states
	const sharing = owned / each; // overlaps whose states read the same
	const columns = threads / branches; // threads with the same h

	const entry = (b: number, h: number) => `entry_${b}_${h}`;
	const loads = repeat(
		owned,
		(b) =>
			repeat(branches, (h) => {
				const at = `(first + ${b + h * overlaps}u)`;
				return stepWeights === 1
					? `let ${entry(b, h)} = table[${at}];`
					: `let ${entry(b, h)} = vec2f(table[2u * ${at}], table[2u * ${at} + 1u]);`;
			}, "\n  "),
		"\n  ",
	);

	const costName = (h: number, count: number) => count === 1 ? `c${h}` : `c${h}_${count}`;
	const wayName = (h: number, count: number) => count === 1 ? `${h}u` : `way${h}_${count}`;
	/** The least of the costs h .. h + count - 1, the first of equal ones, and which it is: as a tree. */
	const least = (h: number, count: number): string => {
		const half = count / 2;
		if (count === 1) return "";
		const [a, b] = [costName(h, half), costName(h + half, half)];
		const [first, second] = [wayName(h, half), wayName(h + half, half)];
		return `${least(h, half)} ${least(h + half, half)}
        let ${costName(h, count)} = min(${a}, ${b});
        let ${wayName(h, count)} = select(${first}, ${second}, ${b} < ${a});`;
	};

	/** The part of a step i that takes the minima of group g. */
	const minima = (i: number, g: number) => {
		const source = buffers === 2 ? i % 2 : 0;
		const reads = repeat(
			branches,
			(h) => `let r${h} = best[${source}][slot${g}][${h}][column${g}];`,
			"\n      ",
		);
		const distance = (b: number, h: number) => {
			if (stepWeights === 1) {
				return `let d${h} = x${i} - ${entry(b, h)}; let c${h} = fma(d${h}, d${h}, r${h});`;
			}
			return `let d${h} = x${i} - ${entry(b, h)}; ` +
				`let c${h} = fma(d${h}.y, d${h}.y, fma(d${h}.x, d${h}.x, r${h}));`;
		};
		const owners = repeat(sharing, (j) => {
			const b = g * sharing + j;
			const shift = (i % packed) * owned * stepBits + b * stepBits;
			return `{
        ${repeat(branches, (h) => distance(b, h), "\n        ")}
        ${least(0, branches)}
        new${b} = ${costName(0, branches)};
        word |= ${wayName(0, branches)} << ${shift}u;
      }`;
		}, "\n      ");
		return `{
      ${reads}
      ${owners}
    }`;
	};

	const savedAt = (row: string) => `saved[own + ${row} * ${threads}u]`;

	const step = (i: number) => {
		const to = buffers === 2 ? (i + 1) % 2 : 0;
		const at = Math.floor(i / packed);
		const isFirst = i % packed === 0;
		const isLast = i % packed === packed - 1;
		const element = (v: number) => {
			const e = i * stepWeights + v;
			return `v${e >> 2}.${XYZW[e & 3]}`;
		};
		const row = `turn / ${packed}u + ${at}u`;
		const keep = isResident
			? `back[${row}][thread] = word;`
			: `if (pass_number == 1u || turn >= ${steps / 2}u) { ${savedAt(`(${row})`)} = word; }`;
		return `// step ${i}
    ${isFirst ? "word = 0u;" : ""}
    let x${i} = ${stepWeights === 1 ? element(0) : `vec2f(${element(0)}, ${element(1)})`};
    ${repeat(each, (g) => minima(i, g), "\n    ")}
    ${buffers === 1 ? "workgroupBarrier();" : ""}
    ${repeat(owned, (b) => `best[${to}][${b}][branch][column] = new${b};`, "\n    ")}
    ${isLast ? keep : ""}
    workgroupBarrier();`;
	};

	const walk = repeat(packed, (j) => {
		const i = packed - 1 - j;
		const shift = `${i * owned * stepBits}u + q % ${owned}u * ${stepBits}u`;
		return `{
          let way = (back[${
			isResident ? "row" : `row % ${kept}u`
		}][q / ${owned}u] >> (${shift})) & ${branches - 1}u;
          let state = q + way * ${overlaps}u;
          states[${packed}u * row + ${i}u] = state;
          q = state >> ${stepBits}u;
        }`;
	}, "\n        ");
	const walkRows = (first: string, end: string) =>
		`for (var row = ${end}; row > ${first};) {
        row--;
        ${walk}
      }`;
	const trace = isResident
		? `if (thread == 0u) {
      var q = overlap;
      ${walkRows("first_row", `${rows}u`)}
      overlap = q;
    }
    workgroupBarrier();`
		: `${repeat(kept, (r) => `back[${r}][thread] = ${savedAt(`${rows - kept + r}u`)};`, "\n    ")}
    for (var end = ${rows}u; end > first_row; end -= ${kept}u) {
      workgroupBarrier();
      // The next rows arrive while one thread walks.
      let next = max(end, ${2 * kept}u) - ${2 * kept}u;
      ${repeat(kept, (r) => `let row${r} = ${savedAt(`(next + ${r}u)`)};`, "\n      ")}
      if (thread == 0u) {
        var q = overlap;
        ${walkRows(`end - ${kept}u`, "end")}
        overlap = q;
      }
      workgroupBarrier();
      ${repeat(kept, (r) => `back[${r}][thread] = row${r};`, "\n      ")}
    }`;

	return `
struct Params { rows: u32, cols: u32, first_col: u32, beside: u32, first_tile: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [rows, cols]
@group(0) @binding(2) var<storage, read> spread: array<f32>; // [rows]
@group(0) @binding(3) var<storage, read> table: array<f32>;  // [${2 ** stateBits}, ${stepWeights}]
@group(0) @binding(4) var<storage, read_write> values: array<f32>; // [rows, cols]
@group(0) @binding(5) var<storage, read_write> stream: array<u32>; // [tiles below, beside, ${words}]
${
		isResident
			? ""
			: `@group(0) @binding(6) var<storage, read_write> saved: array<u32>; // [workgroups, ${rows}, ${threads}]`
	}

// The least cost of each overlap, by q % ${owned}, its highest bits and the rest.
var<workgroup> best: array<array<array<array<f32, ${
		columns + apart
	}>, ${branches}>, ${owned}>, ${buffers}>;
var<workgroup> back: array<array<u32, ${threads}>, ${kept}>;
var<workgroup> x: array<vec4f, ${TILE * TILE / 4}>;
var<workgroup> states: array<u32, ${steps}>;
var<workgroup> least_cost: array<f32, ${threads}>;
var<workgroup> least_at: array<u32, ${threads}>;
var<workgroup> overlap: u32;

@compute @workgroup_size(${threads})
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tile = p.first_tile + workgroup.x;
  let first = thread * ${owned}u; // the thread's first overlap
  let branch = thread / ${columns}u;
  let column = thread % ${columns}u;
  ${
		repeat(
			each,
			(g) =>
				`let shared${g} = (first + ${g * sharing}u) >> ${stepBits}u;
  let slot${g} = shared${g} % ${owned}u;
  let column${g} = shared${g} / ${owned}u;`,
			"\n  ",
		)
	}
  ${isResident ? "" : `let own = workgroup.x * ${rows * threads}u + thread;`}
  for (var i = thread; i < ${TILE * TILE / 4}u; i += ${threads}u) {
    let row = tile * ${TILE}u + i / 4u;
    let col = p.first_col + i % 4u * 4u;
    var four = vec4f();
    if (row < p.rows) {
      let at = row * p.cols + col;
      let s = spread[row];
      if (col < p.cols) { four.x = weight[at] / s; }
      if (col + 1u < p.cols) { four.y = weight[at + 1u] / s; }
      if (col + 2u < p.cols) { four.z = weight[at + 2u] / s; }
      if (col + 3u < p.cols) { four.w = weight[at + 3u] / s; }
    }
    x[i] = four;
  }
  ${loads}

  for (var pass_number = 0u; pass_number < 2u; pass_number++) {
    // Before the first step of the second pass, all overlaps but the forced one are out of the question.
    ${
		repeat(
			owned,
			(b) =>
				`best[0][${b}][branch][column] = select(0.0, 1e30, pass_number == 1u && first + ${b}u != overlap);`,
			"\n    ",
		)
	}
    let turned = select(${TILE * TILE / 2}u, 0u, pass_number == 1u);
    workgroupBarrier();
    var word = 0u;
    ${repeat(owned, (b) => `var new${b} = 0.0;`, " ")}
    for (var turn = 0u; turn < ${steps}u; turn += ${unrolled}u) {
    let at = (turn * ${stepWeights}u + turned) % ${TILE * TILE}u / 4u;
    ${repeat(unrolled * stepWeights / 4, (i) => `let v${i} = x[at + ${i}u];`, "\n    ")}
    ${repeat(unrolled, step, "\n    ")}
    }

    // The first pass may end with any overlap; a thread still has the costs of its own.
    if (pass_number == 0u) {
      var cost = new0;
      var place = 0u;
      ${
		repeat(
			owned - 1,
			(b) => `place = select(place, ${b + 1}u, new${b + 1} < cost); cost = min(cost, new${b + 1});`,
			"\n      ",
		)
	}
      least_cost[thread] = cost;
      least_at[thread] = first + place;
      workgroupBarrier();
      for (var stride = ${threads / 2}u; stride > 0u; stride /= 2u) {
        if (thread < stride && least_cost[thread + stride] < least_cost[thread]) {
          least_cost[thread] = least_cost[thread + stride];
          least_at[thread] = least_at[thread + stride];
        }
        workgroupBarrier();
      }
      if (thread == 0u) { overlap = least_at[0]; }
      workgroupBarrier();
    }

    // Back from the end; from half of the turned tile on, only its first overlap is of interest.
    let first_row = select(${rows / 2}u, 0u, pass_number == 1u);
    ${trace}
  }

  for (var e = thread; e < ${TILE * TILE}u; e += ${threads}u) {
    let row = tile * ${TILE}u + e / ${TILE}u;
    let col = p.first_col + e % ${TILE}u;
    if (row < p.rows && col < p.cols) {
      values[row * p.cols + col] = table[states[e / ${stepWeights}u] * ${stepWeights}u + e % ${stepWeights}u];
    }
  }
  for (var i = thread; i < ${words}u; i += ${threads}u) {
    var word = 0u;
    let end = 32u * i + 32u;
    for (var t = 32u * i / ${stepBits}u; t * ${stepBits}u < end; t++) {
      let bits = states[t] & ${branches - 1}u;
      let after = (t + 1u) * ${stepBits}u; // the bit after those of the step
      if (after <= end) { word |= bits << (end - after); } else { word |= bits >> (after - end); }
    }
    stream[(tile * p.beside + p.first_col / ${TILE}u) * ${words}u + i] = word;
  }
}
`;
}
