import { quadButterflies, transformSource } from "../../gpu/kernels/rotation/rotation_source.ts";
import type { VectorInput } from "../../gpu/kernels/vector_source.ts";
import {
	STACK_BINDINGS,
	STACK_CONSTANTS,
	STACK_STORE,
	stackedRows,
} from "../experts/stack_source.ts";
import { repeat, XYZW } from "../../gpu/source_text.ts";

/**
 * How a codec decodes the weights of a linear layer in {@link rowVectorKernel}. A thread takes `chunk`
 * adjacent columns of `rows` adjacent rows at a time.
 */
export interface RowCode {
	/** The part of the kernel's name that tells its text from those of other codecs and forms. */
	name: string;
	/** Columns of a chunk: 8, 16 or 32. */
	chunk: number;
	/** Rows of a thread, a multiple of four. */
	rows: number;
	/** Bands of so many rows in a workgroup, each with threads of its own; 1 if absent. */
	bands?: number;
	/** The most threads of a workgroup on a GPU; the usual number if absent. */
	threads?: number;
	/** The most chunks of a panel that a thread takes, on a GPU; 1 if absent. */
	turns?: number;
	/** The WGSL types of the codec's tensors, read-only, by their names in the text. */
	tensors: Readonly<Record<string, string>>;
	/** Bytes of workgroup memory that `text` declares. */
	bytes: number;
	/**
	 * Whether x is in workgroup memory without gaps, which the sums share; for chunks of 16 columns, whose
	 * text uses no `x_at`.
	 */
	isDense?: boolean;
	/** Generates the parts of the text, for workgroups of so many threads. */
	text(threads: number): RowCodeText;
}

/**
 * The parts of a text. They may use the pipeline constants COLS and CHUNKS, the index of the thread, the
 * first row of the workgroup, `first_row`, and the thread's rows, `row0`, `row1` ..., the first of which is
 * in band `band`.
 */
export interface RowCodeText {
	/** Functions and workgroup variables. */
	declarations?: string;
	/** Statements that begin a thread's work, before a barrier; they may declare variables. */
	setup?: string;
	/**
	 * Statements that fill workgroup memory, before a barrier: after loads were begun, so that they take
	 * place meanwhile.
	 */
	fill?: string;
	/** Variables for what `load` loads; if present, a chunk is loaded while the one before is multiplied. */
	variables?: string;
	/**
	 * Statements that load the codes of chunk `chunk` of the rows `row0`, `row1` ... They declare
	 * variables, or assign to `variables`, and use nothing of workgroup memory, so that loads overlap with
	 * the preparation of x.
	 */
	load: string;
	/** Statements that declare copies of `variables`, which `multiply` uses. */
	take?: string;
	/**
	 * Statements that add the products of the rows with the entries of x, the vec4s `x0`, `x1` ..., to the
	 * variables `sum0`, `sum1` ... The entries are also in workgroup memory, at `xs[x_at]` and after.
	 * Entries beyond the last column are 0.
	 */
	multiply: string;
	/** A factor of the sum of row `row`; none if absent. */
	factor?: string;
}

/** The work distribution of {@link rowVectorKernel}. */
export interface RowVectorShape {
	/** Threads of a workgroup: whole subgroups, or a power of two without them. */
	threads: number;
	/** Threads of a subgroup, or 0 to sum in workgroup memory. */
	lanes: number;
	/** Bands of rows, each with its share of the threads, in which the same holds; 1 if absent. */
	bands?: number;
	/** Chunks of a panel that a thread takes; 1 if absent. */
	turns?: number;
}

/** The form of the input of {@link rowVectorKernel}. */
export interface RowVectorInput {
	input: VectorInput;
	/** Whether the weight's columns have an order of their own. */
	ordered: boolean;
	/** Whether x, its second half and the norm's weight consist of whole vec4s. */
	aligned: boolean;
	/**
	 * Entries of a run of the transform of the input, at most four times the threads of a subgroup; not
	 * transformed if absent. If columns have an order of their own, x must be a single panel.
	 */
	run?: number;
	/**
	 * Whether the weight is a stack of linear layers of experts: a vector passes through that of its expert,
	 * see `stack_source.ts`.
	 */
	stacked?: boolean;
}

/** Bytes of workgroup memory that {@link rowVectorKernel} needs. */
export function rowVectorBytes(
	{ chunk, rows, bytes, isDense }: Pick<RowCode, "chunk" | "rows" | "bytes" | "isDense">,
	{ threads, lanes, bands = 1, turns = 1 }: RowVectorShape,
): number {
	const summed = lanes ? threads / lanes : threads; // threads with sums in workgroup memory
	const columns = threads / bands;
	if (isDense) return bytes + 16 * denseQuads(columns * turns * chunk / 4, summed, rows);
	return bytes + 16 * columns * turns * (chunk / 4 + 1) + 4 * summed * (rows + 1);
}

/** The vec4s that hold a panel of x and later the sums, and those of squares. */
function denseQuads(panelQuads: number, summed: number, rows: number): number {
	return Math.max(panelQuads, summed * (rows / 4 + 1));
}

/**
 * Generates the kernel that multiplies packed weights with one vector, or with each of a few tokens.
 *
 * A workgroup handles some adjacent rows of one linear layer. Its threads share the columns: each takes
 * every so many chunks of all rows, so that it has a load for each row in flight and uses an entry of x
 * for all of them. A panel of x, one chunk per thread, is prepared in workgroup memory while the codes
 * arrive; the chunks there are apart by an odd number of vec4s, or their vec4s take turns, which avoids bank
 * conflicts.
 *
 * With bands, the rows of a workgroup are divided among its threads, too: more rows share what is
 * prepared in workgroup memory. With turns, a panel has several chunks per thread.
 *
 * Rows, columns and all other parameters are pipeline constants, as in billmVectorKernel().
 */
export function rowVectorKernel(
	code: RowCode,
	{ threads, lanes, bands = 1, turns = 1 }: RowVectorShape,
	{ input, ordered, aligned, run, stacked = false }: RowVectorInput,
): string {
	const { rows, tensors, isDense } = code;
	const columns = threads / bands; // threads that share the columns
	const panelQuads = columns * turns * code.chunk / 4;
	const quads = code.chunk / 4; // vec4s of a chunk
	const chunkQuads = isDense ? quads : quads + 1; // with a gap
	const text = code.text(threads);
	const gathered = ordered && run !== undefined; // first all of x is transformed, then ordered
	const whole = aligned && (!ordered || gathered); // x is read in vec4s
	const summed = lanes ? threads / lanes : threads;

	let binding = 0;
	const bind = (name: string, type: string, comment: string) =>
		`@group(0) @binding(${binding++}) var<storage, read> ${name}: array<${type}>; // ${comment}`;
	const bindings = [
		bind("X", whole ? "vec4f" : "f32", "[tokens, COLS], or both halves"),
		...Object.entries(tensors).map(([name, type]) => bind(name, type, "of the codec")),
		...(ordered ? [bind("order", "vec4u", "[parts, ORDER_QUADS]")] : []),
		bind("bias", "f32", "[ROWS]"),
		...(stacked
			? STACK_BINDINGS.map(({ name, type, comment }) => bind(name, type, comment))
			: [bind("residual", "f32", "[tokens, ROWS]")]),
		...(input === "rms" ? [bind("norm", whole ? "vec4f" : "f32", "[COLS]")] : []),
	].join("\n");

	const four = (item: (i: number) => string) => `vec4f(${repeat(4, item, ", ")})`;
	const activated = whole ? four((i) => `activate(v.${XYZW[i]})`) : "activate(v)";
	const value = {
		plain: "v",
		rms: "v",
		activation: activated,
		gated: `${activated} * X[UP${whole ? " / 4u" : ""} + at]`,
	}[input];
	const columnsOfQuad = `fn columns(part: u32, quad: u32) -> vec4u {
  ${
		ordered
			? "return order[part * ORDER_QUADS + min(quad, ORDER_QUADS - 1u)] | vec4u(select(0u, 0x80000000u, quad >= ORDER_QUADS));"
			: "return 4u * quad + vec4u(0u, 1u, 2u, 3u);"
	}
}`;
	const gather = `fn transformed(col: u32) -> f32 {
  if (col >= COLS) { return 0.0; }
  return xs[col >> 2u][col & 3u];
}`;
	const functions = whole
		? `fn value(start: u32, quad: u32) -> vec4f {
  let at = min(quad, COLS / 4u - 1u); // without a branch, so that a thread begins all of its loads at once
  let v = X[start / 4u + at];
  return select(vec4f(0.0), ${value}, quad < COLS / 4u);
}`
		: `fn entry(start: u32, at: u32) -> f32 {
  if (at >= COLS) { return 0.0; }
  let v = X[start + at];
  return ${value};
}
${gathered ? "" : columnsOfQuad}`;

	// The threads of a subgroup have neighbouring quads, all of them or none.
	const transformed = run === undefined
		? ""
		: `v *= ${four((i) => `signed_factor(4u * quad + ${i}u)`)};
      ${quadButterflies("v", "thread", lanes, run)}`;
	const fills = Math.ceil(panelQuads / threads); // of a panel by all threads
	const guard = (i: number) =>
		(i + 1) * threads > panelQuads ? `if (thread < ${panelQuads - i * threads}u) ` : "";
	const placeOf = (local: string) =>
		isDense
			? `xs[${local} ^ ((${local} >> 3u) & 3u)]`
			: `xs[${local} / ${quads}u * ${quads + 1}u + ${local} % ${quads}u]`;
	const prepare = (i: number) =>
		`${guard(i)}{
      let local = ${i * threads}u + thread;
      let quad = panel * ${panelQuads}u + local;
      ${
			whole
				? "var v = value(x_start, quad);"
				: `let cols = ${gathered ? "4u * quad + vec4u(0u, 1u, 2u, 3u)" : "columns(part, quad)"};
      var v = ${four((i) => `entry(x_start, cols.${XYZW[i]})`)};`
		}
      ${
			input !== "rms" ? "" : `square += dot(v, v);
      v *= ${
				whole
					? "norm[min(quad, COLS / 4u - 1u)]"
					: four((i) => `norm[min(cols.${XYZW[i]}, COLS - 1u)]`)
			};`
		}
      ${transformed}
      ${gathered ? "xs[local]" : placeOf("local")} = v; }`;
	/** Puts all of x, which was transformed, in the order of the weight's columns. */
	const arrange = gathered
		? `workgroupBarrier();
    ${
			repeat(
				fills,
				(i) =>
					`var in_order${i}: vec4f;
    ${guard(i)}{
      let cols = columns(part, ${i * threads}u + thread);
      in_order${i} = ${four((k) => `transformed(cols.${XYZW[k]})`)};
    }`,
				"\n    ",
			)
		}
    workgroupBarrier();
    ${
			repeat(
				fills,
				(i) => `${guard(i)}{ ${placeOf(`(${i * threads}u + thread)`)} = in_order${i}; }`,
				"\n    ",
			)
		}`
		: "";

	const sumPlace = (at: string, q: string) =>
		isDense ? `xs[(${at}) * ${rows / 4}u + ${q}]` : `sums[${at}][${q}]`;
	const squarePlace = (at: string) =>
		isDense ? `xs[${summed * rows / 4}u + ${at}].x` : `squares[${at}]`;
	const sumsOf = (q: number) => four((i) => `sum${4 * q + i}`);
	const tree = Array.from({ length: Math.log2(columns) }, (_, i) => columns >> (i + 1));
	const treeThread = bands === 1 ? "thread" : "column";
	const shared = isDense ? "workgroupBarrier(); // everyone is done with the last panel\n  " : "";
	const addUp = lanes
		? `${shared}${repeat(rows / 4, (q) => `let total${q} = subgroupAdd(${sumsOf(q)});`, "\n  ")}
  ${input === "rms" ? "let squared = subgroupAdd(square);" : ""}
  if (thread % ${lanes}u == 0u) {
    ${repeat(rows / 4, (q) => `${sumPlace(`thread / ${lanes}u`, `${q}u`)} = total${q};`, "\n    ")}
    ${input === "rms" ? `${squarePlace(`thread / ${lanes}u`)} = squared;` : ""}
  }
  workgroupBarrier();`
		: `${shared}${repeat(rows / 4, (q) => `${sumPlace("thread", `${q}u`)} = ${sumsOf(q)};`, "\n  ")}
  ${input === "rms" ? `${squarePlace("thread")} = square;` : ""}
  workgroupBarrier();
  ${
			tree.map((stride) =>
				`if (${treeThread} < ${stride}u) {
    ${
					repeat(
						rows / 4,
						(q) => `${sumPlace("thread", `${q}u`)} += ${sumPlace(`thread + ${stride}u`, `${q}u`)};`,
						"\n    ",
					)
				}
    ${input === "rms" ? `${squarePlace("thread")} += ${squarePlace(`thread + ${stride}u`)};` : ""}
  }
  workgroupBarrier();`
			).join("\n  ")
		}`;
	const parts = lanes ? summed / bands : 1; // sums of a row that are left
	const apart = summed / bands; // places of the sums of a band
	const total = (count: number, of: (s: number) => string) => repeat(count, of, " + ");
	const sumAt = bands === 1
		? (s: number) => `${sumPlace(`${s}u`, "(r >> 2u)")}[r & 3u]`
		: (s: number) =>
			`${sumPlace(`r / ${rows}u * ${apart}u + ${s}u`, `((r % ${rows}u) >> 2u)`)}[r & 3u]`;
	const squareAt = (s: number) => squarePlace(`${s % parts + Math.floor(s / parts) * apart}u`);
	const multiply = (next: string) =>
		`${isDense ? "let swizzle = (x_at >> 3u) & 3u;\n      " : ""}${
			repeat(
				quads,
				(q) => `let x${q} = xs[x_at + ${isDense ? `(${q}u ^ swizzle)` : `${q}u`}];`,
				"\n      ",
			)
		}
      ${next}
      ${text.multiply}`;
	const loadOwn = `{ let chunk = min(own, CHUNKS - 1u); ${text.load} }`;
	const loadNext = text.variables === undefined ? "" : `${text.take}
      own += ${columns}u;
      if (own < CHUNKS) ${loadOwn}`;
	const placed = stacked ? stackedRows(bands * rows) : `let x_start = token * COLS;
  var part = 0u;
  var first_row = group * ${bands * rows}u;
  var end_row = PART1;
  if (group >= GROUP1) {
    part = 1u;
    first_row = PART1 + (group - GROUP1) * ${bands * rows}u;
    end_row = PART2;
  }
  if (group >= GROUP2) {
    part = 2u;
    first_row = PART2 + (group - GROUP2) * ${bands * rows}u;
    end_row = ROWS;
  }`;
	const finish = stacked ? STACK_STORE : `if (HAS_BIAS) { y += bias[row]; }
    if (HAS_RESIDUAL) { y += residual[token * ROWS + row]; }
    Y[token * ROWS + row] = y;`;
	return `
override ROWS: u32;
override COLS: u32;
override CHUNKS: u32; // of a row
override PANELS: u32; // of ${columns * turns} chunks
${
		stacked ? STACK_CONSTANTS : `override PART1: u32; // the row where the second part begins
override PART2: u32;
override GROUP1: u32; // the workgroup where the second part begins
override GROUP2: u32;
override HAS_RESIDUAL: bool;`
	}
override HAS_BIAS: bool;
${ordered ? "override ORDER_QUADS: u32;" : ""}
${input === "gated" ? "override UP: u32; // where the second half of the input begins" : ""}
${input === "rms" ? "override EPSILON: f32;" : ""}

${bindings}
@group(0) @binding(${binding}) var<storage, read_write> Y: array<f32>; // [tokens, ROWS]

${
		isDense
			? `var<workgroup> xs: array<vec4f, ${
				denseQuads(panelQuads, summed, rows)
			}>; // and sums later`
			: `var<workgroup> xs: array<vec4f, ${columns * turns * chunkQuads}>;
var<workgroup> sums: array<array<vec4f, ${rows / 4}>, ${summed}>;
${input === "rms" ? `var<workgroup> squares: array<f32, ${summed}>;` : ""}`
	}
${text.declarations ?? ""}
${run === undefined ? "" : transformSource(run)}
${gathered ? `${columnsOfQuad}\n${gather}` : ""}
${functions}

@compute @workgroup_size(${threads})
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = workgroup.y * workgroups.x + workgroup.x;
  let token = workgroup.z;
  ${placed}
  if (first_row >= end_row) { return; } // the whole workgroup
  ${
		bands === 1 ? "let column = thread;" : `let column = thread % ${columns}u;
  let band = thread / ${columns}u;
  let band_row = first_row + band * ${rows}u;`
	}
  ${
		repeat(
			rows,
			(r) => `let row${r} = min(${bands === 1 ? "first_row" : "band_row"} + ${r}u, end_row - 1u);`,
			"\n  ",
		)
	}
  ${repeat(rows, (r) => `var sum${r} = 0.0;`, " ")}
  ${input === "rms" ? "var square = 0.0;" : ""}
  ${text.setup ?? ""}
  var own = column;
  ${text.variables === undefined ? "" : `${text.variables}\n  ${loadOwn}`}
  ${text.fill ?? ""}
  for (var panel = 0u; panel < PANELS; panel++) {
    ${
		text.variables !== undefined ? "" : `own = panel * ${columns}u + column;
    let chunk = min(own, CHUNKS - 1u);
    ${text.load}`
	}
    if (panel > 0u) { workgroupBarrier(); } // everyone is done with the panel before
    ${repeat(fills, prepare, "\n    ")}
    ${arrange}
    workgroupBarrier();
    ${
		turns === 1
			? `let x_at = column * ${chunkQuads}u;
    if (own < CHUNKS) {
      ${multiply(loadNext)}
    }`
			: `var x_at = column * ${chunkQuads}u;
    for (var turn = 0u; turn < ${turns}u; turn++) {
      if (own >= CHUNKS) { break; }
      ${multiply(loadNext)}
      x_at += ${columns * chunkQuads}u;
    }`
	}
  }
  ${addUp}
  for (var r = thread; r < ${bands * rows}u; r += ${threads}u) {
    let row = first_row + r;
    if (row >= end_row) { break; }
    var y = ${total(parts, sumAt)};
    ${text.factor ? `y *= ${text.factor};` : ""}
    ${
		input === "rms" ? `y /= sqrt((${total(parts * bands, squareAt)}) / f32(COLS) + EPSILON);` : ""
	}
    ${finish}
  }
}
`;
}
