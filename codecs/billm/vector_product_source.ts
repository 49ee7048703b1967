import {
	STACK_BINDINGS,
	STACK_CONSTANTS,
	STACK_STORE,
	stackedRows,
} from "../experts/stack_source.ts";
import type { VectorInput } from "../../gpu/kernels/vector_source.ts";
import { butterflies, transformSource } from "../../gpu/kernels/rotation/rotation_source.ts";
import { repeat, XYZW } from "../../gpu/source_text.ts";
import { type BillmForm, planesOf, scaleSource, scaleWords, UNIT_COLS } from "./tensors.ts";

/** The work distribution of {@link billmVectorKernel}. */
export interface BillmVectorShape {
	/** Threads of a subgroup, a power of two from 8 to 64. */
	lanes: number;
	/** Subgroups of a workgroup, which split the columns. */
	splits: number;
	/**
	 * Rows per workgroup in steps of `lanes`, at most `splits`: at the end each row has its own thread.
	 */
	steps: number;
	/** Whether there are more units of 128 columns than subgroups, which then take several passes. */
	turns: boolean;
	/** Whether subgroup barriers are available. */
	subgroupBarriers: boolean;
}

/** The flag of a salient column in its place. */
export const SALIENT_PLACE = 0x80;
/** The number of leading columns of a unit for which salient sums are always computed. */
const MARKED_COLS = 15;

/** The distribution of the 128 columns of a unit over lookup tables. */
function tablesFor(lanes: number) {
	const step = Math.log2(lanes); // columns per table: one thread per subset
	const tables = Math.ceil(UNIT_COLS / step);
	const low = Math.ceil(step / 2); // columns of the lower half of a table
	const high = step - low;
	const entries = (1 << low) + (1 << high);
	// vec4s with one entry of each table. The odd length avoids bank conflicts.
	const stride = Math.ceil(tables / 4) | 1;
	const positions = 4 * stride * step; // of all tables that the memory holds, at least 128
	return { step, tables, low, high, entries, stride, positions };
}

/** Bytes of workgroup memory that {@link billmVectorKernel} needs. */
export function billmVectorBytes(
	{ lanes, splits, steps }: Pick<BillmVectorShape, "lanes" | "splits" | "steps">,
): number {
	const { entries, stride, positions } = tablesFor(lanes);
	return 4 * splits * (positions + 4 * entries * stride + lanes * steps + 1);
}

/**
 * Generates the kernel that multiplies a packed weight with one vector, for adapters whose subgroups
 * have one size.
 *
 * As in billmMatvecKernel(), a row needs sums of activations over the columns selected by its bits,
 * which come from lookup tables of the sums of all subsets of a few columns. Here a table is distributed
 * over a register of a subgroup: with 32 threads it has five columns, and each thread holds the sum of
 * one subset. A thread looks up the sum for its bits by a shuffle. The tables are built in workgroup
 * memory, in halves: a thread adds the sum of a subset of the first columns and that of one of the
 * others.
 *
 * A subgroup builds the tables of a unit of 128 columns once and applies them to all rows of the
 * workgroup, one row per thread in each step. Then it continues with its next unit, `splits` further on.
 * With S, F and B the sums over the columns with the sign bit, the zone bit and both, A the sum over all
 * columns, m and r the mean and scale of a zone, a unit adds
 *
 *   m0 (A - F) + r0 (2 (S - B) - (A - F)) + m1 F + r1 (2 B - F)
 *
 * to a row. Its salient columns add m A' + Σ r (2 S' - A'), with sums over the salient columns.
 *
 * Rows, columns and all other parameters are pipeline constants: loading them would cost a small product
 * 5 % of its time.
 *
 * @param blockUnits Units per block.
 * @param run Entries of a run of the transform of the input, at most those of a unit; not transformed if
 *   absent. A subgroup transforms the columns of its unit in registers, before it sorts them.
 * @param stacked Whether the weight is a stack of linear layers of experts, see `stack_source.ts`.
 */
export function billmVectorKernel(
	form: BillmForm,
	{ lanes, splits, steps, turns, subgroupBarriers }: BillmVectorShape,
	input: VectorInput,
	blockUnits: number,
	run?: number,
	stacked = false,
): string {
	const { zones, planes, coded } = form;
	const planeCount = planesOf(form);
	const firstPlanes = Math.min(planeCount, 2); // other planes are read only for salient columns
	const words = scaleWords(form);
	const { step, tables, low, high, entries, stride, positions } = tablesFor(lanes);
	const filled = Math.ceil(tables / lanes); // tables per thread to fill
	const held = Math.max(1, 32 / lanes); // groups of four columns per thread to load

	const eachPlane = (body: (k: number) => string) => repeat(planes, body);
	const eachTable = (body: (t: number) => string) => repeat(tables, body);
	const eachColumn = (body: (name: string, h: number, i: number) => string) =>
		repeat(held, (h) => repeat(4, (i) => body(`${h}_${i}`, h, i)));
	/** Restricts statements to the first 32 threads. */
	const byColumns = (body: string) => lanes > 32 ? `if (lane < 32u) { ${body} }` : body;
	const transformed = run === undefined ? "" : `{
      ${eachColumn((name, h, i) => `x${name} *= signed_factor(x_col + ${h * lanes + 32 * i}u);`)}
      ${
		butterflies(
			Array.from({ length: 4 * held }, (_, k) => `x${k % held}_${Math.floor(k / held)}`),
			"lane",
			Math.min(lanes, 32),
			run,
		)
	} }`;
	const barrier = subgroupBarriers ? "subgroupBarrier();" : "workgroupBarrier();";

	const bring = (unit: string) =>
		byColumns(`let word = (part * UNITS + min(${unit}, UNITS - 1u)) * 32u + lane;
    let col = ${unit} * ${UNIT_COLS}u + lane;
    ${repeat(held, (h) => `places${h} = places[word + ${h * lanes}u];`)}
    ${
			eachColumn((name, h, i) => {
				const col = `col + ${h * lanes + 32 * i}u`;
				return `x${name} = value(${col});` +
					(input === "rms" ? ` norm${name} = norm[min(${col}, COLS - 1u)];` : "");
			})
		}`);
	const sortColumns = byColumns(
		eachColumn((name, h, i) =>
			`{ let place = extractBits(places${h}, ${8 * i}u, 8u);
    sorted[split][place & ${SALIENT_PLACE - 1}u] = x${name};
    if (place < ${SALIENT_PLACE}u) { all += x${name}; } else { all_marked += x${name}; } }`
		),
	);
	/** WGSL that writes the sums of all subsets of some columns of a thread's table. */
	const fillHalf = (b: number, count: number, first: number, entry: number) =>
		repeat(1 << count, (subset) => {
			const table = b ? `(lane >> 2u) + ${b * lanes / 4}u` : "lane >> 2u";
			const place = `tables[split][${entry + subset}][${table}][lane & 3u]`;
			if (subset === 0) return `${place} = 0.0;`;
			const top = 31 - Math.clz32(subset);
			const rest = subset - (1 << top);
			const sum = rest ? `sum${first}_${rest} + c${first + top}` : `c${first + top}`;
			return `let sum${first}_${subset} = ${sum}; ${place} = sum${first}_${subset};`;
		});
	const fill = (b: number) => {
		const first = `(lane + ${b * lanes}u) * ${step}u`;
		const places = 4 * stride - b * lanes;
		return `${places < lanes ? `if (lane < ${places}u) ` : ""}{
      ${repeat(step, (i) => `let c${i} = sorted[split][${first} + ${i}u];`)}
      ${fillHalf(b, low, 0, 0)}
      ${fillHalf(b, high, low, 1 << low)}
    }`;
	};
	const readTables = repeat(
		Math.ceil(tables / 4),
		(q) =>
			`{ let four = tables[split][lane & ${(1 << low) - 1}u][${q}] +
      tables[split][(lane >> ${low}u) + ${1 << low}u][${q}];
    ${repeat(Math.min(4, tables - 4 * q), (i) => `t${4 * q + i} = four.${XYZW[i]};`)} }`,
	);

	// With 32 threads or more, all rows of a thread are at the same index in their tiles.
	const wholeTiles = lanes >= 32;
	const startAt = (unit: string) =>
		wholeTiles
			? `ahead_at = ((first_row + lane) >> 5u) * UNITS + ${unit};`
			: `ahead_row = first_row + lane; ahead_unit = ${unit};`;
	const fetch = `{
    ${wholeTiles ? "" : "let ahead_at = (ahead_row >> 5u) * UNITS + ahead_unit;"}
    let row_in_tile = ${wholeTiles ? "lane" : "ahead_row"} & 31u;
    ${repeat(firstPlanes, (k) => `plane${k} = bits[ahead_at][${k}][row_in_tile];`)}
    let scales_at = ${
		blockUnits === 1 ? "ahead_at" : `ahead_at / UNITS * BLOCKS + ahead_at % UNITS / ${blockUnits}u`
	};
    ${repeat(words, (w) => `scale${w} = scales[scales_at][${w}][row_in_tile];`)}
    ${planeCount > firstPlanes ? "bits_at = ahead_at;" : ""}
    ${wholeTiles ? `ahead_at += ${lanes / 32}u * UNITS;` : `ahead_row += ${lanes}u;`} }`;

	/** The bits of four words that select an entry of a table. */
	const bitsOf = (name: string, table: number) => {
		const first = table * step;
		const end = Math.min(UNIT_COLS, first + step);
		const [word, shift] = [first >> 5, first & 31];
		let bits = shift ? `(${name}.${XYZW[word]} >> ${shift}u)` : `${name}.${XYZW[word]}`;
		if (end > 32 * (word + 1)) bits = `(${bits} | (${name}.${XYZW[word + 1]} << ${32 - shift}u))`;
		return end & 31 ? `(${bits} & ${(1 << (end - first)) - 1}u)` : bits;
	};
	const sumTable = (t: number) => {
		const sums = zones === 1
			? `plus += subgroupShuffle(t${t}, ${bitsOf("plus_bits", t)});`
			: `let s = ${bitsOf("plus_bits", t)};
      let f = ${bitsOf("high_bits", t)};
      plus += subgroupShuffle(t${t}, s);
      high += subgroupShuffle(t${t}, f);
      both += subgroupShuffle(t${t}, s & f);`;
		const mayBeMarked = planes > 0 && t * step < MARKED_COLS; // then usually all of its columns are
		return mayBeMarked ? `if (marked_count < ${(t + 1) * step}u) { ${sums} }` : `{ ${sums} }`;
	};
	/** Sums salient columns, which come first: usually the first tables contain them all. */
	const sumMarked = (first: number, end: number): string =>
		`${
			repeat(end - first, (i) =>
				eachPlane((k) =>
					`marked${k} += subgroupShuffle(t${first + i}, ${bitsOf(`marked_bits${k}`, first + i)});`
				))
		}
    ${
			end < tables
				? `if (marked_count > ${end * step}u) { ${sumMarked(end, Math.min(tables, 2 * end + 2))} }`
				: ""
		}`;
	const scale = scaleSource(form, "code", false);
	const lowAll = zones === 2 ? "(all - high)" : "all";
	const lowPlus = zones === 2 ? "(plus - both)" : "plus";
	const placed = stacked
		? `let token = workgroup.z;
  ${stackedRows(lanes * steps, "x_start")}`
		: `var part = 0u;
  var first_row = group * RUN;
  var end_row = min(first_row + RUN, PART1);
  if (group >= GROUP1) {
    part = 1u;
    first_row = PART1 + (group - GROUP1) * RUN;
    end_row = min(first_row + RUN, PART2);
  }
  if (group >= GROUP2) {
    part = 2u;
    first_row = PART2 + (group - GROUP2) * RUN;
    end_row = min(first_row + RUN, ROWS);
  }`;
	const finish = stacked
		? `let row = row_of_thread;
  ${STACK_STORE}`
		: "Y[row_of_thread] = y + added;";
	const value = {
		plain: stacked ? "X[x_start + col]" : "X[col]",
		rms: "X[col]",
		activation: "activate(X[col])",
		gated: "activate(X[col]) * X[UP + col]",
	}[input];

	return `
const RUN = ${lanes * steps}u; // rows of a workgroup
override ROWS: u32;
override COLS: u32;
override UNITS: u32;
override BLOCKS: u32;
${
		stacked ? STACK_CONSTANTS : `override PART1: u32;  // the row where the second part begins
override PART2: u32;
override GROUP1: u32; // the workgroup where the second part begins
override GROUP2: u32;
override HAS_RESIDUAL: bool;`
	}
override HAS_BIAS: bool;
${input === "gated" ? "override UP: u32;     // where the second half of the input begins" : ""}
${input === "rms" ? "override EPSILON: f32;" : ""}

@group(0) @binding(0) var<storage, read> X: array<f32>;          // [COLS], or both halves
@group(0) @binding(1) var<storage, read> bits: array<array<array<vec4u, 32>, ${planeCount}>>; // [tiles * UNITS]
@group(0) @binding(2) var<storage, read> scales: array<array<array<u32, 32>, ${words}>>;  // [tiles * BLOCKS]
@group(0) @binding(3) var<storage, read> factors: array<vec2f>;  // [tiles * 32]
@group(0) @binding(4) var<storage, read> places: array<u32>;     // [parts, UNITS, 32]
@group(0) @binding(5) var<storage, read> bias: array<f32>;       // [ROWS]
${
		stacked
			? STACK_BINDINGS.map(({ name, type, comment }, i) =>
				`@group(0) @binding(${6 + i}) var<storage, read> ${name}: array<${type}>; // ${comment}`
			).join("\n")
			: "@group(0) @binding(6) var<storage, read> residual: array<f32>;   // [ROWS]"
	}
${
		input === "rms"
			? "@group(0) @binding(7) var<storage, read> norm: array<f32>;       // [COLS]"
			: ""
	}
@group(0) @binding(8) var<storage, read_write> Y: array<f32>;    // [ROWS]

// Per subgroup: the columns of its unit, salient ones first; the sums of the subsets of either half of
// each table's columns; and the sums of rows over its units.
var<workgroup> sorted: array<array<f32, ${positions}>, ${splits}>;
var<workgroup> tables: array<array<array<vec4f, ${stride}>, ${entries}>, ${splits}>;
var<workgroup> partials: array<array<f32, ${lanes * steps}>, ${splits}>;
${input === "rms" ? `var<workgroup> squares: array<f32, ${splits}>;` : ""}

${run === undefined ? "" : transformSource(run)}
${stacked ? "var<private> x_start: u32;" : ""}
fn value(col: u32) -> f32 {
  if (col >= COLS) { return 0.0; }
  return ${value};
}

// Four words with the first \`count\` bits set.
fn first_bits(count: u32) -> vec4u {
  let left = vec4u(count) - min(vec4u(count), vec4u(0u, 32u, 64u, 96u));
  return select((vec4u(1u) << (left & vec4u(31u))) - 1u, vec4u(0xffffffffu), left >= vec4u(32u));
}

@compute @workgroup_size(${lanes * splits})
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let lane = thread & ${lanes - 1}u;
  let split = thread / ${lanes}u;
  let group = workgroup.y * workgroups.x + workgroup.x;
  ${placed}
  if (first_row >= end_row) { return; }

  var unit = split;
  ${repeat(held, (h) => `var places${h} = 0u;`, " ")}
  ${eachColumn((name) => `var x${name} = 0.0; ${input === "rms" ? `var norm${name} = 0.0;` : ""}`)}
  { ${bring("unit")} }
  ${repeat(firstPlanes, (k) => `var plane${k}: vec4u;`, " ")}
  ${repeat(words, (w) => `var scale${w}: u32;`, " ")}
  ${planeCount > firstPlanes ? "var bits_at: u32;" : ""}
  ${wholeTiles ? "var ahead_at: u32;" : "var ahead_row: u32; var ahead_unit: u32;"}
  ${startAt("min(unit, UNITS - 1u)")}
  ${fetch}
  let row_of_thread = first_row + thread;
  var added = 0.0;
  ${
		stacked ? "" : `if (HAS_BIAS) { added = bias[min(row_of_thread, ROWS - 1u)]; }
  if (HAS_RESIDUAL) { added += residual[min(row_of_thread, ROWS - 1u)]; }`
	}
  ${input === "rms" ? "var square = 0.0;" : ""}
  ${eachTable((t) => `var t${t}: f32;`)}
  for (var turn = 0u; turn < ${turns ? `(UNITS + ${splits - 1}u) / ${splits}u` : "1u"}; turn++) {
    ${
		input === "rms"
			? eachColumn((name) => `square += x${name} * x${name}; x${name} *= norm${name};`)
			: ""
	}
    ${transformed && `let x_col = unit * ${UNIT_COLS}u + lane;`}
    ${transformed}
    var all = 0.0;
    var all_marked = 0.0;
    ${sortColumns}
    let marked_count = subgroupAdd(${
		repeat(held, (h) => `countOneBits(places${h} & 0x80808080u)`, " + ")
	});
    let marks = first_bits(marked_count);
    all_marked = subgroupAdd(all_marked);
    all = subgroupAdd(all);
    ${barrier} // the columns are sorted and the old tables have been read
    ${repeat(filled, fill)}
    ${barrier} // the tables are filled
    ${readTables}
    ${turns ? `unit += ${splits}u; { ${bring("unit")} }` : ""}
    var at = lane;
    for (var first = first_row; first < end_row; first += ${lanes}u) {
      let plus_bits = plane0 & ~marks;
      var plus = 0.0;
      ${zones === 2 ? "let high_bits = plane1 & ~marks; var high = 0.0; var both = 0.0;" : ""}
      ${
		eachPlane((k) =>
			`var marked${k} = 0.0;
      ${
				k < firstPlanes
					? `let marked_bits${k} = plane${k} & marks;`
					: `var marked_bits${k} = vec4u(0u);
      if (marked_count > 0u) { marked_bits${k} = marks & bits[bits_at][${k}][(first + lane) & 31u]; }`
			}`
		)
	}
      ${repeat(words, (w) => `let code${w} = scale${w};`)}
      ${coded ? "let factor = factors[first + lane];" : ""}
      ${
		turns || steps > 1
			? `if (first + ${lanes}u >= end_row) { ${startAt("min(unit, UNITS - 1u)")} }
      ${fetch}`
			: ""
	}
      ${planes > 0 ? sumMarked(0, Math.ceil(MARKED_COLS / step)) : ""}
      ${eachTable(sumTable)}
      var means = ${scale.zoneMean(0)} * ${lowAll};
      var spreads = ${scale.zoneScale(0)} * (2.0 * ${lowPlus} - ${lowAll});
      ${
		zones === 2
			? `means += ${scale.zoneMean(1)} * high;
      spreads += ${scale.zoneScale(1)} * (2.0 * both - high);`
			: ""
	}
      ${planes > 0 ? `means += ${scale.salientMean} * all_marked;` : ""}
      ${eachPlane((k) => `spreads += ${scale.salientScale(k)} * (2.0 * marked${k} - all_marked);`)}
      // Workgroup memory is initialized to zeros.
      partials[split][at] += ${coded ? "factor.x * means + factor.y * spreads" : "means + spreads"};
      at += ${lanes}u;
    }
  }
  ${
		input === "rms"
			? `let squares_of_lanes = subgroupAdd(square);
  if (lane == 0u) { squares[split] = squares_of_lanes; }`
			: ""
	}
  workgroupBarrier();
  if (row_of_thread >= end_row) { return; }
  var y = ${repeat(splits, (s) => `partials[${s}][thread]`, " + ")};
  ${
		input === "rms"
			? `let mean_square = (${repeat(splits, (s) => `squares[${s}]`, " + ")}) / f32(COLS);
  y /= sqrt(mean_square + EPSILON);`
			: ""
	}
  ${finish}
}
`;
}
