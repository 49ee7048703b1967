import { repeat, XYZW } from "../../gpu/source_text.ts";

/** How a codec decodes four adjacent weights of a row in {@link unpackRowsKernel}. */
export interface RowUnpacking {
	/** The part of the kernel's name that tells its text from those of other codecs and forms. */
	name: string;
	/** The WGSL types of the codec's tensors, read-only, by their names in the text. */
	tensors: Readonly<Record<string, string>>;
	/** Rows that a thread unpacks; {@link ROWS_EACH} if absent. */
	rows?: number;
	/** Pipeline constants, functions and workgroup variables. */
	declarations?: string;
	/** Statements that begin the work of a workgroup, by all of its threads, of which `index` is one. */
	setup?: string;
	/**
	 * Statements that load what the weights of row `row0`, `row1` ... need; they declare variables of the
	 * number of the row. They may use `quad`, the index of the four columns, and `chunks`, the number of
	 * chunks of 32 columns in a row.
	 */
	load(r: number): string;
	/** Statements that declare the four weights, `weight0`, `weight1` ..., of what was loaded. */
	decode(r: number): string;
}

/** How unpacked rows are stored: four columns at a time, one by one, or one by one in another order. */
export type UnpackStore = "aligned" | "any" | "ordered";

/** Threads of a workgroup: along the columns, four of which each takes, and along the rows. */
const THREADS = [64, 4];
export const UNPACK_THREADS = THREADS[0] * THREADS[1];
/** Rows that a thread usually unpacks. */
const ROWS_EACH = 4;

/** The numbers of workgroups that {@link unpackRowsKernel} needs, along the columns and the rows. */
export function unpackWorkgroups(
	{ rows: each = ROWS_EACH }: RowUnpacking,
	rows: number,
	cols: number,
): { across: number; down: number } {
	return {
		across: Math.ceil(cols / 4 / THREADS[0]),
		down: Math.ceil(rows / (THREADS[1] * each)),
	};
}

/**
 * Generates the kernel that dequantizes some rows to f32 `[rows, cols]`.
 *
 * A thread takes four adjacent columns of some rows: it begins the loads of all of them before it decodes
 * any, and neighbouring threads store to neighbouring places, 16 bytes each.
 */
export function unpackRowsKernel(code: RowUnpacking, store: UnpackStore): string {
	const { tensors, rows = ROWS_EACH } = code;
	let binding = 1;
	const bindings = Object.entries(tensors).map(([name, type]) =>
		`@group(0) @binding(${binding++}) var<storage, read> ${name}: array<${type}>;`
	);
	if (store === "ordered") {
		bindings.push(
			`@group(0) @binding(${binding++}) var<storage, read> order: array<vec4u>; // the column of each place`,
		);
	}
	const element = store === "aligned" ? "vec4f" : "f32";
	const put = (r: number) =>
		store === "aligned"
			? `weight[local${r} * (p.cols >> 2u) + quad] = weight${r};`
			: repeat(4, (i) =>
				`if (4u * quad + ${i}u < p.cols) { weight[local${r} * p.cols + ${
					store === "ordered" ? `columns.${XYZW[i]}` : `4u * quad + ${i}u`
				}] = weight${r}.${XYZW[i]}; }`);
	return `
struct Params { first: u32, rows: u32, cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
${bindings.join("\n")}
@group(0) @binding(${binding}) var<storage, read_write> weight: array<${element}>; // [rows, cols], from row \`first\` on
${code.declarations ?? ""}

@compute @workgroup_size(${THREADS.join(", ")})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) thread: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  ${code.setup ?? ""}
  let quad = group.x * ${THREADS[0]}u + thread.x;
  let local0 = (group.z * groups.y + group.y) * ${THREADS[1] * rows}u + thread.y;
  if (4u * quad >= p.cols || local0 >= p.rows) { return; }
  let chunks = (p.cols + 31u) >> 5u;
  ${store === "ordered" ? "let columns = order[quad];" : ""}
  ${repeat(rows - 1, (r) => `let local${r + 1} = local0 + ${THREADS[1] * (r + 1)}u;`, "\n  ")}
  ${repeat(rows, (r) => `let row${r} = p.first + min(local${r}, p.rows - 1u);`, "\n  ")}
  ${repeat(rows, (r) => code.load(r), "\n  ")}
  ${
		repeat(
			rows,
			(r) =>
				`${code.decode(r)}
  ${r === 0 ? put(r) : `if (local${r} < p.rows) { ${put(r)} }`}`,
			"\n  ",
		)
	}
}
`;
}
