import { repeat } from "../../gpu/source_text.ts";
import type { EmbeddingLayout } from "./dequantize_embedding.ts";

/** Rows of the table per workgroup. */
export const TABLE_ROWS = 8;

/** Columns per read of a thread without zeros: 16 bytes of 8-bit codes, 8 bytes of 4-bit codes. */
const TABLE_STEP = 16;

/** Columns per read of a thread with zeros: codes of so many begin and end with a word. */
const FIELDS_STEP = 32;

type Form = Pick<EmbeddingLayout, "bits" | "group" | "zeros">;

/** Columns per read of a thread. */
export function tableStep({ zeros }: Pick<EmbeddingLayout, "zeros">): number {
	return zeros ? FIELDS_STEP : TABLE_STEP;
}

/** What kernels for different layouts do differently. */
interface Reads {
	/** The type of an element of the codes. */
	codes: string;
	/** The codes of a row, in elements. */
	rowSize: string;
	/** Functions that the loop calls. */
	functions: string;
	/** Adds a thread's part of the product of each row. */
	loop: string;
}

const rows = (line: (r: number) => string) => repeat(TABLE_ROWS, line, "\n    ");
const list = (count: number, item: (i: number) => string) => repeat(count, item, ", ");

/**
 * Generates the kernel of {@link embeddingMatvec}.
 *
 * A workgroup handles {@link TABLE_ROWS} rows, so that a thread has as many loads in flight and reuses
 * each entry of the vector as often. Its threads stride over the columns.
 *
 * @param lanes Threads of a workgroup, a power of two; at least {@link TABLE_ROWS} unless they are a
 *   subgroup.
 * @param useSubgroup Whether they are exactly one subgroup.
 * @param aligned Whether rows consist of whole steps of columns with one scale each; else a thread reads
 *   code by code.
 */
export function embeddingMatvecKernel(
	form: Form,
	lanes: number,
	useSubgroup: boolean,
	aligned: boolean,
): string {
	const { zeros } = form;
	const readsFor = !aligned ? singleReads : zeros ? fieldReads : byteReads;
	const { codes, rowSize, functions, loop } = readsFor(form, lanes);
	const parts = lanes / TABLE_ROWS; // threads that sum a row
	const finish = useSubgroup
		? repeat(
			TABLE_ROWS,
			(r) => `{ let sum = subgroupAdd(sum${r}); if (lane == 0u) { finish(first + ${r}u, sum); } }`,
			"\n  ",
		)
		: `${repeat(TABLE_ROWS, (r) => `partials[${r}][lane] = sum${r};`, "\n  ")}
  workgroupBarrier();
  let r = lane / ${parts}u;
  let part = lane % ${parts}u;
  // A thread overwrites a value that only it has read.
  partials[r][part] = ${repeat(TABLE_ROWS, (i) => `partials[r][part + ${i * parts}u]`, " + ")};
  workgroupBarrier();
  if (lane < ${TABLE_ROWS}u) {
    var sum = 0.0;
    for (var i = 0u; i < ${parts}u; i++) { sum += partials[lane][i]; }
    finish(first + lane, sum);
  }`;
	return `
struct Params { rows: u32, cols: u32, row_bytes: u32, groups: u32, start: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<${aligned ? "vec4f" : "f32"}>;  // [cols]
@group(0) @binding(2) var<storage, read> codes: array<${codes}>; // [rows, row_bytes], bytes
@group(0) @binding(3) var<storage, read> scales: array<u32>;      // [rows, groups], f16
@group(0) @binding(4) var<storage, read_write> out: array<f32>;   // [rows] from start on
${zeros ? "@group(0) @binding(5) var<storage, read> zeros: array<u32>; // [rows, groups], f16" : ""}

${
		useSubgroup
			? ""
			: `var<workgroup> partials: array<array<f32, ${
				lanes + 16
			}>, ${TABLE_ROWS}>; // apart in the banks`
	}

fn scale_of(index: u32) -> f32 {
  let pair = unpack2x16float(scales[index >> 1u]);
  return select(pair.x, pair.y, (index & 1u) == 1u);
}
${
		zeros
			? `
fn zero_of(index: u32) -> f32 {
  let pair = unpack2x16float(zeros[index >> 1u]);
  return select(pair.x, pair.y, (index & 1u) == 1u);
}
`
			: ""
	}
${functions}

fn finish(row: u32, sum: f32) {
  if (row < p.rows) { out[p.start + row] = sum; }
}

@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (group.y * groups.x + group.x) * ${TABLE_ROWS}u;
  if (first >= p.rows) { return; }
  ${
		repeat(TABLE_ROWS, (r) =>
			`let row${r} = min(first + ${r}u, p.rows - 1u) * ${rowSize};
  let row${r}_scales = min(first + ${r}u, p.rows - 1u) * p.groups;
  var sum${r} = 0.0;`, "\n  ")
	}
  ${loop}
  ${finish}
}
`;
}

/**
 * Whole reads of codes without zeros.
 *
 * Codes are converted without a conversion instruction, which costs GPUs as much as several additions:
 * a code's bits are combined in place with those of 2^23, so that a subtraction leaves code · 2^shift.
 * The entries of the vector are divided by 2^shift beforehand; all of this is exact.
 */
function byteReads({ bits, group }: Form, lanes: number): Reads {
	const perHalf = 16 / bits; // codes per half word
	const zero = 2 ** (bits - 1); // the offset that makes stored codes nonnegative
	const vector = (type: string, item: (shift: number) => string) =>
		`${type}(${list(4, (i) => item(bits * (i % perHalf)))})`;
	const masks = vector("vec4u", (shift) => `${(2 ** bits - 1) * 2 ** shift}u`);
	const exponents = vector(
		"vec4u",
		(shift) => `${0x4b000000 + (bits === 8 ? zero * 2 ** shift : 0)}u`, // also converts two's complement
	);
	const zeros = vector("vec4f", (shift) => `${2 ** 23 + zero * 2 ** shift}.0`);
	const factors = vector("vec4f", (shift) => `${1 / 2 ** shift}`);
	/** The four codes of each of the four vectors of x. */
	const four = (r: number, i: number) =>
		bits === 8
			? `codes_of(vec2u(word${r}[${i}], word${r}[${i}] >> 16u).xxyy)`
			: `codes_of(vec4u(word${r}[${i >> 1}]${i % 2 ? " >> 16u" : ""}))`;
	return {
		codes: bits === 8 ? "vec4u" : "vec2u",
		rowSize: `(p.cols / ${TABLE_STEP}u)`,
		functions: `fn codes_of(words: vec4u) -> vec4f {
  return bitcast<vec4f>((words & ${masks}) ^ ${exponents}) - ${zeros};
}`,
		loop: `for (var i = lane; i < p.cols / ${TABLE_STEP}u; i += ${lanes}u) {
    ${repeat(4, (v) => `let x${v} = x[4u * i + ${v}u] * ${factors};`, "\n    ")}
    ${rows((r) => `let word${r} = codes[row${r} + i];`)}
    ${
			rows((r) =>
				`sum${r} += scale_of(row${r}_scales + i / ${group / TABLE_STEP}u) * (${
					repeat(4, (v) => `dot(x${v}, ${four(r, v)})`, " + ")
				});`
			)
		}
  }`,
	};
}

/**
 * Whole reads of codes with zeros: Σ (code - zero) x = Σ code x - zero Σ x, whose second sum is that of all
 * rows.
 */
function fieldReads({ bits, group }: Form, lanes: number): Reads {
	const vectors = FIELDS_STEP / 4;
	const field = (i: number) => {
		const [k, shift] = [i * bits >> 5, i * bits & 31];
		const rest = shift + bits > 32 ? ` | (word${k + 1} << ${32 - shift}u)` : "";
		return `((word${k} >> ${shift}u)${rest})`;
	};
	const four = (v: number) =>
		`vec4f(vec4u(${list(4, (i) => field(4 * v + i))}) & vec4u(${2 ** bits - 1}u))`;
	return {
		codes: "u32",
		rowSize: "(p.row_bytes / 4u)",
		functions: "",
		loop: `for (var i = lane; i < p.cols / ${FIELDS_STEP}u; i += ${lanes}u) {
    ${repeat(vectors, (v) => `let x${v} = x[${vectors}u * i + ${v}u];`, "\n    ")}
    let sum_x = dot(${repeat(vectors, (v) => `x${v}`, " + ")}, vec4f(1.0));
    ${
			rows((r) =>
				`{
      ${repeat(bits, (k) => `let word${k} = codes[row${r} + ${bits}u * i + ${k}u];`, "\n      ")}
      let scale_at = row${r}_scales + i / ${group / FIELDS_STEP}u;
      let products = ${repeat(vectors, (v) => `dot(x${v}, ${four(v)})`, " +\n        ")};
      sum${r} += scale_of(scale_at) * (products - zero_of(scale_at) * sum_x);
    }`
			)
		}
  }`,
	};
}

/** Reads of single codes. */
function singleReads({ bits, group, zeros }: Form, lanes: number): Reads {
	const codeAt = zeros
		? `fn code_at(row: u32, col: u32) -> f32 {
  let bit = col * ${bits}u;
  let word = row + bit / 32u;
  let shift = bit % 32u;
  var code = codes[word] >> shift;
  if (shift + ${bits}u > 32u) { code |= codes[word + 1u] << (32u - shift); }
  return f32(code & ${2 ** bits - 1}u);
}`
		: `fn code_at(row_bytes: u32, col: u32) -> f32 {
  let at = row_bytes + col * ${bits}u / 8u;
  let byte = codes[at >> 2u] >> (8u * (at & 3u));
  ${
			bits === 8
				? "return f32(i32(byte << 24u) >> 24u);"
				: "return f32((byte >> (4u * (col & 1u))) & 15u) - 8.0;"
		}
}`;
	const term = (r: number) => {
		const scaleAt = `row${r}_scales + col / ${group}u`;
		const code = `code_at(row${r}, col)`;
		const factor = zeros ? `(${code} - zero_of(${scaleAt}))` : code;
		return `sum${r} += entry * ${factor} * scale_of(${scaleAt});`;
	};
	return {
		codes: "u32",
		rowSize: zeros ? "(p.row_bytes / 4u)" : "p.row_bytes",
		functions: codeAt,
		loop: `for (var col = lane; col < p.cols; col += ${lanes}u) {
    let entry = x[col];
    ${rows(term)}
  }`,
	};
}
