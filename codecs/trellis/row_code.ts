import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowCode, RowCodeText } from "../packed_rows/vector_source.ts";
import { stepsOf, TILE, type Trellis } from "./trellis.ts";

/**
 * Where the table is read: where it is stored ("stored"), or in workgroup memory, either entry by entry, f32
 * numbers or pairs of f16 numbers of one step ("entries"), or in words with the f16 numbers of two successive
 * steps of one weight ("pairs").
 */
export type TableForm = "stored" | "entries" | "pairs";

/** How the threads of a workgroup share tiles in the product with a vector. */
export interface TrellisVectorForm {
	/** Threads that share a tile, with adjacent rows of it each: their words are whole vec4s. */
	parts: 1 | 2 | 4;
	/** Rows of tiles of a workgroup, which share the table and the panels of x. */
	bands: number;
	/** The most threads of a workgroup. */
	threads: number;
	/** The most tiles, or parts of them, that a thread takes of a panel. */
	turns: number;
	table: TableForm;
}

/** The form that suits any adapter. */
export const WHOLE_TILES: TrellisVectorForm = {
	parts: 1,
	bands: 1,
	threads: 256,
	turns: 1,
	table: "entries",
};

/** The most parts into which the tiles of a trellis can be split. */
export function partsOf(trellis: Trellis): 1 | 2 | 4 {
	const quads = stepsOf(trellis).words / 4;
	return quads % 4 === 0 ? 4 : quads % 2 === 0 ? 2 : 1;
}

/** The forms of the table in workgroup memory that a trellis can have. */
export function tableFormsOf(trellis: Trellis): TableForm[] {
	const { stepBits, stepWeights } = stepsOf(trellis);
	return stepWeights === 1 && stepBits <= 2 ? ["entries", "pairs"] : ["entries"];
}

/** Bytes of workgroup memory of a table in a form. */
export function tableFormBytes({ stateBits }: Trellis, form: TableForm): number {
	return { stored: 0, entries: 4, pairs: 8 }[form] * 2 ** stateBits;
}

/**
 * The words of a table in the form "pairs".
 *
 * @param table The entries, exact f16 values.
 * @returns With steps of 1 bit, both states of each window of two steps in a word. With steps of 2 bits, the
 *   first and the last bit of the window are not part of the index: a word with the two possible first
 *   states, and one with the two second states.
 */
export function pairWords(trellis: Trellis, table: Float32Array): Uint32Array<ArrayBuffer> {
	const entries = 2 ** trellis.stateBits;
	const half = entries / 2;
	const states = stepsOf(trellis).stepBits === 1
		? Array.from({ length: 2 * entries }, (_, i) => [i >> 1, i % entries]).flat()
		: Array.from({ length: entries }, (_, i) => {
			const [first, second] = [i >> 1, 2 * (i % half)];
			return [first, first + half, second, second + 1];
		}).flat();
	const values = Float16Array.from(states, (state) => table[state]);
	return new Uint32Array(values.buffer);
}

/** The most statements that a thread copies the table with; more of them are a loop. */
const MOST_COPIES = 16;

/**
 * The tiles of a trellis in rowVectorKernel(): a thread decodes whole tiles, or some rows of them. It holds
 * the words in registers, so that the window of each state is one or two of them, shifted by constants.
 *
 * A warp of 32 threads reads the table in workgroup memory at 32 random places, which takes 3.5 times as
 * long as reading different banks and is what bounds the product. Copies of the table in banks of their own
 * for each part of the warp would hardly help, as the slowest bank counts: 3.3 times with four copies. A
 * read of two words, which the two halves of a warp take in turns, is 6.1 times as long, and in the form
 * "pairs" gives two weights: 3.1 times for each. So all else has to take place meanwhile: the table arrives
 * at once and not in a loop, several rows of tiles share it and x, and threads that decode a part of a tile
 * need few registers, so that a multiprocessor has room for many.
 */
export function trellisRowCode(trellis: Trellis, form: TrellisVectorForm): RowCode {
	const { stateBits, bits } = trellis;
	const { parts, bands, threads, turns, table } = form;
	return {
		name: `trellis_${stateBits}_${bits}_${table}`,
		chunk: TILE,
		rows: TILE / parts,
		...{ bands: parts * bands, threads, turns },
		tensors: {
			stream: "vec4u", // [tiles below, words / 4, CHUNKS]
			scales: "f32", // [rows]
			table: tableType(trellis, table),
		},
		bytes: tableFormBytes(trellis, table),
		isDense: true,
		text: (threads) => trellisText(trellis, form, threads),
	};
}

/** The WGSL type of an entry of a table where it is stored. */
function tableType(trellis: Trellis, table: TableForm): "f32" | "vec2f" | "u32" | "vec2u" {
	const { stepBits, stepWeights } = stepsOf(trellis);
	if (table === "pairs") return stepBits === 1 ? "u32" : "vec2u";
	return stepWeights === 1 ? "f32" : "vec2f";
}

function trellisText(
	trellis: Trellis,
	{ parts, table }: TrellisVectorForm,
	threads: number,
): RowCodeText {
	const { stateBits } = trellis;
	const { stepBits, stepWeights, ...tile } = stepsOf(trellis);
	const [steps, words] = [tile.steps / parts, tile.words / parts];
	const quads = words / 4;
	const entries = 2 ** stateBits;
	/** Word k of those of the thread, the one before them with k = -1. */
	const word = (k: number) => {
		if (k >= 0) return `own${k >> 2}.${XYZW[k & 3]}`;
		return parts === 1 ? `own${quads - 1}.w` : "own_before"; // the words of a tile are a ring
	};
	/** The last bits before the end of a step, so many of them below any others. */
	const window = (step: number, bits: number = stateBits) => {
		const start = (step + 1) * stepBits - bits;
		const [k, first] = [start >> 5, start & 31];
		const beyond = first + bits - 32; // bits in the next word
		if (beyond > 0) return `((${word(k)} << ${beyond}u) | (${word(k + 1)} >> ${32 - beyond}u))`;
		return beyond < 0 ? `(${word(k)} >> ${-beyond}u)` : word(k);
	};
	const state = (step: number) => `${window(step)} & ${entries - 1}u`;
	const term = (place: number, value: string) => {
		const [row, col] = [Math.floor(place / TILE), place % TILE];
		return `sum${row} = fma(x${col >> 2}.${XYZW[col & 3]}, ${value}, sum${row});`;
	};
	/** One of the f16 numbers of a word: the second one if the bit of a window is 1. */
	const choice = (word: string, window: string, bit: number) => {
		const shift = bit > 4
			? `${window} >> ${bit - 4}u`
			: bit < 4
			? `${window} << ${4 - bit}u`
			: window;
		return `unpack2x16float(${word} >> ((${shift}) & 16u)).x`;
	};
	const both = (place: number, pair: string) =>
		`{ let pair = ${pair}; ${term(place, "pair.x")} ${term(place + 1, "pair.y")} }`;
	const product = (step: number) => {
		const entry = `${table === "stored" ? "table" : "entries"}[${state(step)}]`;
		if (stepWeights === 1) return term(step, entry);
		return both(2 * step, table === "stored" ? entry : `unpack2x16float(${entry})`);
	};
	const productOfTwo = (step: number) => {
		const bits = stateBits + stepBits;
		const states = window(step + 1, bits);
		if (stepBits === 1) {
			return both(step, `unpack2x16float(entries[${states} & ${2 * entries - 1}u])`);
		}
		return `{ let window = ${states}; let words = entries[(window >> 1u) & ${entries - 1}u]; ${
			term(step, choice("words.x", "window", bits - 1))
		} ${term(step + 1, choice("words.y", "window", 0))} }`;
	};
	const eachQuad = (line: (q: number) => string) => repeat(quads, line, "\n    ");
	const quadsOfTile = quads * parts;
	const stored = tableType(trellis, table);
	const type = stored === "vec2f" ? "u32" : stored;
	const count = tableFormBytes(trellis, table) / (type === "vec2u" ? 8 : 4);
	return {
		...(table !== "stored" && {
			declarations: `var<workgroup> entries: array<${type}, ${count}>;`,
			fill: fillTable(count, stored === "vec2f", threads),
		}),
		setup: `let tile_at = row0 / ${TILE}u * ${quadsOfTile}u;
  ${
			parts === 1 ? "" : `let first_quad = band % ${parts}u * ${quads}u;
  let quad_before = (first_quad + ${quadsOfTile - 1}u) % ${quadsOfTile}u;`
		}`,
		variables: `${repeat(quads, (q) => `var words${q}: vec4u;`, " ")}${
			parts === 1 ? "" : " var before: u32;"
		}`,
		load: `${
			eachQuad((q) =>
				`words${q} = stream[(tile_at + ${
					parts === 1 ? "" : "first_quad + "
				}${q}u) * CHUNKS + chunk];`
			)
		}${
			parts === 1 ? "" : `
    before = stream[(tile_at + quad_before) * CHUNKS + chunk].w;`
		}`,
		take: `${eachQuad((q) => `let own${q} = words${q};`)}${
			parts === 1 ? "" : " let own_before = before;"
		}`,
		multiply: table === "pairs"
			? repeat(steps / 2, (i) => productOfTwo(2 * i), "\n      ")
			: repeat(steps, product, "\n      "),
		factor: "scales[row]",
	};
}

/**
 * Statements that copy the table to workgroup memory, with all loads at once if they are not too many.
 *
 * @param count Entries of the table.
 * @param isPacked Whether its pairs of f32 numbers become pairs of f16 numbers, which is exact.
 */
function fillTable(count: number, isPacked: boolean, threads: number): string {
	const stored = (at: string, entry: string) =>
		`entries[${at}] = ${isPacked ? `pack2x16float(${entry})` : entry};`;
	const copies = Math.ceil(count / threads);
	if (copies > MOST_COPIES) {
		return `for (var i = thread; i < ${count}u; i += ${threads}u) { ${stored("i", "table[i]")} }`;
	}
	const at = (i: number) => `thread + ${i * threads}u`;
	const last = count % threads; // threads that the last copy takes, or 0 for all
	const load = (i: number) =>
		`let entry${i} = table[${i === copies - 1 && last ? `min(${at(i)}, ${count - 1}u)` : at(i)}];`;
	const store = (i: number) =>
		`${i === copies - 1 && last ? `if (thread < ${last}u) ` : ""}{ ${stored(at(i), `entry${i}`)} }`;
	return `${repeat(copies, load, " ")}
  ${repeat(copies, store, " ")}`;
}
