import { repeat, XYZW } from "../../source_text.ts";
import {
	ALL_F32,
	GEMM_FLAGS,
	type GemmLayout,
	prelude,
	type Storages,
	widened,
} from "./gemm_source.ts";

/** The tile sizes of {@link tileKernel}. */
export interface TileShape {
	/** Rows and columns of C per workgroup. */
	rows: number;
	cols: number;
	/** Steps along the inner dimension between two barriers. */
	depth: number;
	/** Rows and columns of C per thread, multiples of four. */
	threadRows: number;
	threadCols: number;
}

/** The version of {@link tileKernel}; incremented whenever its text changes for the same arguments. */
export const TILE_KERNEL_VERSION = 1;

/**
 * The preconditions of a kernel, each including the one before. Aligned: every row starts at a multiple
 * of four elements and the columns are a multiple of four. Whole: C consists of whole tiles, and k of
 * whole steps. Paired: the number of steps is even, and tiles are double-buffered in workgroup memory,
 * so that one barrier per step is enough.
 */
export type GemmFit = "any" | "aligned" | "whole" | "paired";

/** The name of a tile, then its share per thread: `128x128x16_8x8`. */
export function tileName({ rows, cols, depth, threadRows, threadCols }: TileShape): string {
	return `${rows}x${cols}x${depth}_${threadRows}x${threadCols}`;
}

/** Threads of a workgroup. */
export function tileThreads({ rows, cols, threadRows, threadCols }: TileShape): number {
	return (rows / threadRows) * (cols / threadCols);
}

/** Bytes of workgroup memory that {@link tileKernel} needs. */
export function tileKernelBytes(layout: GemmLayout, tile: TileShape, fit: GemmFit): number {
	const { a, b } = tileWidths(layout, tile);
	return 16 * tile.depth * (a + b) * (fit === "paired" ? 2 : 1);
}

/**
 * vec4s per row of the tiles; padded by one where storing transposed blocks would cause bank
 * conflicts.
 */
function tileWidths(layout: GemmLayout, { rows, cols }: TileShape): { a: number; b: number } {
	return { a: rows / 4 + Number(layout[0] === "N"), b: cols / 4 + Number(layout[1] === "T") };
}

/** The distribution of loading one operand over the threads. */
interface Operand {
	name: "a" | "b";
	array: "A" | "B";
	storage: Storages["a"];
	/** Its rows or columns of C in a tile, and the first of them. */
	length: number;
	first: string;
	/** Whether k is its fast dimension: blocks of 4 x 4 are transposed on the way. */
	across: boolean;
	/** Its pieces (vectors or blocks), and the greatest number of pieces per thread. */
	pieces: number;
	turns: number;
}

/**
 * Generates the tiled matrix product for GPUs.
 *
 * Both operands are staged in workgroup memory as `[k][rows / 4]`. Each thread holds its entries of C in
 * registers, in interleaved groups of four rows by four columns, so that it reads workgroup memory as
 * vec4s without bank conflicts. The next tile is prefetched into registers while this one is multiplied.
 *
 * Workgroup arrays are nested, `[constant k][index that does not depend on k]`, so that their bounds
 * checks are hoisted. Each entry of C is one sum with k ascending, so results are bit-identical for all
 * tiles.
 *
 * @param storages The storage formats, if not all are f32; C may be f16 only if rows are aligned.
 * @param grouped Whether each tile of rows belongs to one of several matrices B, in layout NT: its rows of A
 *   and C are found by a table, see `grouped_gemm.ts`. Its rows need not be whole tiles for any fit.
 */
export function tileKernel(
	layout: GemmLayout,
	tile: TileShape,
	fit: GemmFit,
	storages: Storages = ALL_F32,
	grouped = false,
): string {
	const aligned = fit !== "any";
	const walks = fit === "whole" || fit === "paired";
	const { rows, cols, depth, threadRows, threadCols } = tile;
	const rowGroups = threadRows / 4;
	const colGroups = threadCols / 4;
	const threadsX = cols / threadCols;
	const threads = tileThreads(tile);
	const loaders = threads / 2; // half of the threads load A, half load B
	const operand = (
		name: "a" | "b",
		length: number,
		first: string,
		across: boolean,
	): Operand => {
		const pieces = length / 4 * depth / (across ? 4 : 1);
		const turns = Math.ceil(pieces / loaders);
		const array = name === "a" ? "A" : "B";
		return { name, array, storage: storages[name], length, first, across, pieces, turns };
	};
	const a = operand("a", rows, "m0", layout[0] === "N");
	const b = operand("b", cols, "n0", layout[1] === "T");
	const registers = Math.max(...[a, b].map(({ across, turns }) => turns * (across ? 4 : 1)));
	// Prefetched f16 and bf16 stay packed in registers: widening them would wait for the loads.
	const keepsWords = walks && [a, b].some(({ storage }) => storage !== "f32");
	const kept = ({ storage }: Operand, value: string) => {
		if (!keepsWords) return value;
		return storage === "f32" ? `bitcast<vec4u>(${value})` : `vec4u(${value}, 0u, 0u)`;
	};
	const register = ({ storage }: Operand, i: number) => {
		if (!keepsWords) return `r${i}`;
		return storage === "f32" ? `bitcast<vec4f>(r${i})` : widened(storage, `r${i}.xy`);
	};
	/** WGSL per piece of a thread, guarded where not all threads have one. */
	const eachPiece = ({ pieces, turns }: Operand, line: (turn: number) => string) =>
		repeat(turns, (turn) => {
			const isCertain = (turn + 1) * loaders <= pieces;
			const body = `let piece = u + ${turn * loaders}u; ${line(turn)}`;
			return isCertain ? `{ ${body} }` : `if (u < ${pieces - turn * loaders}u) { ${body} }`;
		});
	const isInside = (k: string) => `${k} < p.k`;
	const inside4 = (value: string, k: string) =>
		aligned
			? `select(vec4f(0.0), ${value}, ${isInside(k)})`
			: `select(vec4f(0.0), ${value}, vec4<bool>(${
				[0, 1, 2, 3].map((i) => isInside(`${k} + ${i}u`)).join(", ")
			}))`;

	/** Whether rows of an operand are found by a table; each piece then has four places. */
	const isGathered = ({ name }: Operand) => grouped && name === "a";
	/** WGSL of the first element of an operand. */
	const startOf = ({ name }: Operand) => grouped ? "b_first" : `p.${name}_start`;
	// Loads rows or columns from `first` on of an operand into registers.
	const fetch = (operand: Operand) => {
		const { name, length, first, across } = operand;
		return eachPiece(
			operand,
			(turn) =>
				isGathered(operand)
					? `let k = k0 + (piece % ${depth / 4}u) * 4u;
        ${
						repeat(
							4,
							(i) =>
								`r${turn * 4 + i} = ${inside4(`load_a(row${turn}_${i} * p.a_stride + k)`, "k")};`,
						)
					}`
					: across
					? `let k = k0 + (piece % ${depth / 4}u) * 4u;
        let at = ${startOf(operand)} + (${first} + piece / ${
						depth / 4
					}u * 4u) * p.${name}_stride + k;
        ${
						repeat(
							4,
							(i) =>
								`r${turn * 4 + i} = ${
									inside4(`load_${name}(at + ${i}u * p.${name}_stride)`, "k")
								};`,
						)
					}`
					: `let k = k0 + piece / ${length / 4}u;
        r${turn} = select(vec4f(0.0), load_${name}(${
						startOf(operand)
					} + k * p.${name}_stride + ${first} + piece % ${length / 4}u * 4u), ${isInside("k")});`,
		);
	};
	// With whole tiles, each thread advances its own offsets, without bounds checks or multiplications.
	const place = (operand: Operand) => {
		const { name, length, first, across } = operand;
		return `row_stride = p.${name}_stride >> 2u;
    step = ${across ? `${depth / 4}u` : `${depth}u * row_stride`};
    ${
			repeat(operand.turns, (turn) =>
				isGathered(operand)
					? `at${turn} = (u + ${turn * loaders}u) % ${depth / 4}u; ${
						repeat(4, (i) =>
							`row${turn}_${i} *= row_stride;`)
					}`
					: `{ let piece = u + ${turn * loaders}u; at${turn} = (${startOf(operand)} >> 2u) + ${
						across
							? `(${first} + piece / ${depth / 4}u * 4u) * row_stride + piece % ${depth / 4}u`
							: `piece / ${length / 4}u * row_stride + (${first} >> 2u) + piece % ${length / 4}u`
					}; }`)
		}`;
	};
	const walk = (operand: Operand) =>
		eachPiece(
			operand,
			(turn) =>
				(operand.across
					? repeat(4, (i) =>
						`r${turn * 4 + i} = ${
							kept(
								operand,
								isGathered(operand)
									? `A[at${turn} + row${turn}_${i}]`
									: `${operand.array}[at${turn} + ${i}u * row_stride]`,
							)
						};`)
					: `r${turn} = ${kept(operand, `${operand.array}[at${turn}]`)};`) +
				` at${turn} += step;`,
		);
	const forBoth = (text: (operand: Operand) => string) =>
		`if (fetches_a) { ${text(a)} } else { ${text(b)} }`;
	const fetchBoth = forBoth(walks ? walk : fetch);
	const stash = (operand: Operand, tileName: string) =>
		eachPiece(operand, (turn) =>
			operand.across
				? `let k = (piece % ${depth / 4}u) * 4u;
        let at = piece / ${depth / 4}u;
        ${repeat(4, (i) => `let v${i} = ${register(operand, turn * 4 + i)};`)}
        ${
					repeat(4, (i) =>
						`${tileName}[k + ${i}u][at] = vec4f(${
							[0, 1, 2, 3].map((j) => `v${j}.${XYZW[i]}`).join(", ")
						});`)
				}`
				: `${tileName}[piece / ${operand.length / 4}u][piece % ${operand.length / 4}u] = ${
					register(operand, turn)
				};`);
	const stashBoth = (pair: number) =>
		forBoth((operand) => stash(operand, `tile_${operand.name}${pair}`));
	const multiply = (pair: number) =>
		repeat(
			depth,
			(k) =>
				`{ ${
					repeat(
						rowGroups,
						(g) => `let a${g} = tile_a${pair}[${k}][ty + ${g * rows / threadRows}u];`,
					)
				} ${
					repeat(
						colGroups,
						(g) => `let b${g} = tile_b${pair}[${k}][tx + ${g * cols / threadCols}u];`,
					)
				}
    ${
					repeat(threadRows, (i) =>
						repeat(colGroups, (j) =>
							`c${i}_${j} = fma(vec4f(a${i >> 2}.${XYZW[i & 3]}), b${j}, c${i}_${j});`))
				} }`,
		);
	const widths = tileWidths(layout, tile);
	const registerType = keepsWords ? "vec4u" : "vec4f";
	const begin = grouped
		? `if (group.y >= tiles[0]) { return; }
  let expert = tiles[3u * group.y + 1u];
  let m0 = tiles[3u * group.y + 2u];
  let end = tiles[3u * group.y + 3u];
  let matrix = places[expert];
  if (matrix == 0xffffffffu) { return; }
  let b_first = matrix * p.b_step;
  let n0 = group.x * ${cols}u;`
		: `let m0 = group.y * ${rows}u;
  let n0 = group.x * ${cols}u;
  if ((p.flags & ${GEMM_FLAGS.upper}u) != 0u && n0 + ${cols}u <= m0) { return; }`;
	// The rows of A of a thread's pieces; those behind the end of the tile are its last one.
	const gather = !grouped
		? ""
		: repeat(a.turns, (turn) =>
			repeat(4, (i) =>
				`var row${turn}_${i} = order[min(m0 + (u + ${turn * loaders}u) / ${
					depth / 4
				}u * 4u + ${i}u, end - 1u)] / p.per_row;`));
	return `${prelude({ storages, aligned, whole: walks, grouped })}
${
		repeat(fit === "paired" ? 2 : 1, (pair) =>
			`var<workgroup> tile_a${pair}: array<array<vec4f, ${widths.a}>, ${depth}>;
var<workgroup> tile_b${pair}: array<array<vec4f, ${widths.b}>, ${depth}>;`)
	}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  ${begin}
  let tx = thread % ${threadsX}u;
  let ty = thread / ${threadsX}u;
  let fetches_a = thread < ${loaders}u;
  let u = select(thread - ${loaders}u, thread, fetches_a);
  ${gather}
  ${repeat(registers, (q) => `var r${q}: ${registerType};`)}
  ${repeat(threadRows, (i) => repeat(colGroups, (j) => `var c${i}_${j} = vec4f(0.0);`))}
  var k0 = 0u;
  ${
		!walks ? "" : `
  var row_stride: u32;
  var step: u32;
  ${repeat(Math.max(a.turns, b.turns), (q) => `var at${q}: u32;`)}
  ${forBoth(place)}`
	}
  ${fetchBoth}
  ${stashBoth(0)}
  workgroupBarrier();
  loop {
    k0 += ${depth}u;
    ${
		fit === "paired"
			? `${fetchBoth}
    ${multiply(0)}
    ${stashBoth(1)}
    workgroupBarrier();
    k0 += ${depth}u;
    let more = k0 < p.k;
    if (more) { ${fetchBoth} }
    ${multiply(1)}
    if (!more) { break; }`
			: `let more = k0 < p.k;
    if (more) { ${fetchBoth} }
    ${multiply(0)}
    if (!more) { break; }
    workgroupBarrier(); // everyone is done with the tiles`
	}
    ${stashBoth(0)}
    workgroupBarrier();
  }
  ${
		repeat(threadRows, (i) =>
			repeat(colGroups, (j) =>
				`put(${grouped ? "expert, end, " : ""}m0 + ${
					(i >> 2) * rows / rowGroups + (i & 3)
				}u + ty * 4u, n0 + ${j * cols / colGroups}u + tx * 4u, c${i}_${j});`))
	}
}
`;
}
