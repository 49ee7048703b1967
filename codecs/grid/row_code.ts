import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowCode, RowCodeText } from "../packed_rows/vector_source.ts";
import { type GridLayout, topCode } from "./grid.ts";

/** Columns of a chunk: their codes are whole words, and they share a scale. */
export const GRID_CHUNK = 32;

/** The parameters of a grid's text. */
export type GridForm = Pick<GridLayout, "bits" | "salient"> & {
	/** Whether the grid is "mean" or "sign". */
	centered: boolean;
};

/** How the kernel of a grid divides its work; the products differ by rounding only. */
export interface GridWork {
	/** Rows of a thread. */
	rows: number;
	/** Bands of so many rows in a workgroup, which share the panels of x. */
	bands: number;
	/** The most threads of a workgroup. */
	threads: number;
}

/** 2^23 as the bits of an f32: combined with an integer below, it is the f32 2^23 + that integer. */
const MAGIC = 0x4b000000;

/** The place of a code in the words of a chunk. */
interface Place {
	/** A WGSL expression that has the code at bit `shift`, with other bits around it. */
	word: string;
	shift: number;
}

function placeOf(word: (k: number) => string, i: number, bits: number): Place {
	const [k, first] = [(i * bits) >> 5, (i * bits) & 31];
	if (first + bits > 32) {
		return {
			word: `((${word(k)} >> ${first}u) | (${word(k + 1)} << ${32 - first}u))`,
			shift: 0,
		};
	}
	// The code must stay below the 23 bits of a mantissa.
	if (first < 16) return { word: word(k), shift: first };
	return { word: `(${word(k)} >> 16u)`, shift: first - 16 };
}

/**
 * The codes of grids in rowVectorKernel().
 *
 * As in embeddingMatvecKernel(), codes become numbers without a conversion instruction: a code's bits are
 * combined in place with those of 2^23, so that a subtraction leaves code · 2^shift, and the entries of x
 * are divided by 2^shift once for all rows. The subtraction also removes the middle of the codes, which
 * keeps sums small. So a scale group adds
 *
 *   scale · (Σ (code - middle) x + (middle - zero) Σ x)
 *
 * and the grids "mean" and "sign", with codes 0 and 1, add 2 scale · Σ code x + (center - scale) Σ x.
 *
 * Salient weights have 0 as their ordinary code: what it adds is subtracted from their own values.
 *
 * A thread adds up four sums of a row side by side: a GPU begins an addition some cycles after the one that
 * it depends on, which with a single sum only other subgroups can fill.
 */
export function gridRowCode(form: GridForm, work: GridWork): RowCode {
	const { bits, salient, centered } = form;
	return {
		name: `grid_${bits}${centered ? "_centered" : ""}${salient ? "_salient" : ""}`,
		chunk: GRID_CHUNK,
		...work,
		tensors: {
			codes: wordType(bits),
			fits: "u32", // scale, and zero or center, as f16: [rows, FITS]
			...(salient && { marks: "vec2u", salient_codes: "u32" }),
		},
		bytes: 0,
		text: () => gridText(form, work.rows),
	};
}

function wordType(bits: number): string {
	return bits === 3 ? "u32" : ["u32", "vec2u", "vec4u"][Math.min(Math.log2(bits), 2)];
}

function gridText({ bits, salient, centered }: GridForm, rows: number): RowCodeText {
	const perRead = bits === 3 ? 1 : Math.min(bits, 4); // words
	const reads = bits / perRead;
	const middle = bits === 1 ? 0 : 2 ** (bits - 1);
	const wordOf = (r: number) => (k: number) => {
		const read = `codes${r}_${Math.floor(k / perRead)}`;
		return perRead === 1 ? read : `${read}.${XYZW[k % perRead]}`;
	};

	const places = repeat(rows, (r) => `let at${r} = row${r} * CHUNKS + chunk;`, " ");
	const place = (r: number, k: number) => reads === 1 ? `at${r}` : `${reads}u * at${r} + ${k}u`;
	const loadsOf = (r: number) =>
		`${repeat(reads, (k) => `let codes${r}_${k} = codes[${place(r, k)}];`, " ")} ` +
		`let fit${r} = fits[row${r} * FITS + chunk / FIT_CHUNKS];` +
		`${salient ? ` let marks${r} = marks[at${r}];` : ""}`;
	const salientFits = repeat(
		salient ? rows : 0,
		(r) => `let salient_fit${r} = fits[row${r} * FITS + FITS - 1u];`,
		"\n  ",
	);

	const vector = (type: string, item: (i: number) => string) => {
		const items = Array.from({ length: 4 }, (_, i) => item(i));
		const isOne = items.every((text) => text === items[0]);
		return `${type}(${isOne ? items[0] : items.join(", ")})`;
	};
	const columns = Array.from({ length: GRID_CHUNK / 4 }, (_, q) => q);
	const shift = (q: number, i: number) => placeOf(wordOf(0), 4 * q + i, bits).shift;
	const scaled = columns.map((q) =>
		`let z${q} = x${q} * ${vector("vec4f", (i) => `${1 / 2 ** shift(q, i)}`)};`
	).join("\n      ");
	const decoded = (r: number, q: number) => {
		const words = vector("vec4u", (i) => placeOf(wordOf(r), 4 * q + i, bits).word);
		const masks = vector("vec4u", (i) => `${topCode(bits) * 2 ** shift(q, i)}u`);
		const zeros = vector("vec4f", (i) => `${2 ** 23 + middle * 2 ** shift(q, i)}.0`);
		return `bitcast<vec4f>((${words} & ${masks}) | vec4u(${MAGIC}u)) - ${zeros}`;
	};
	const product = (r: number) =>
		`{ var four = (${decoded(r, 0)}) * z0;
      ${columns.slice(1).map((q) => `four = fma(${decoded(r, q)}, z${q}, four);`).join("\n      ")}
      let dots = (four.x + four.y) + (four.z + four.w);
      let fit = unpack2x16float(fit${r});
      ${
			centered
				? `sum${r} += 2.0 * fit.x * dots + (fit.y - fit.x) * x_sum;`
				: `sum${r} = fma(fit.x, fma(${middle}.0 - fit.y, x_sum, dots), sum${r});`
		}
      ${
			salient
				? `let salient_fit = unpack2x16float(salient_fit${r});
      let ordinary = ${centered ? "fit.y - fit.x" : "-fit.x * fit.y"};
      var marked = marks${r}.x;
      var at = marks${r}.y;
      while (marked != 0u) {
        let i = firstTrailingBit(marked);
        marked &= marked - 1u;
        let code = extractBits(salient_codes[at >> 2u], 8u * (at & 3u), 8u);
        at++;
        let value = salient_fit.x * (f32(code) - salient_fit.y) - ordinary;
        sum${r} += value * xs[x_at + (i >> 2u)][i & 3u];
      }`
				: ""
		} }`;
	return {
		declarations: `override FITS: u32;        // scales of a row
override FIT_CHUNKS: u32;  // chunks of a scale group`,
		setup: salientFits,
		load: `${places}
    ${repeat(rows, loadsOf, "\n    ")}`,
		multiply: `let x_four = ${columns.map((q) => `x${q}`).join(" + ")};
      let x_sum = (x_four.x + x_four.y) + (x_four.z + x_four.w);
      ${scaled}
      ${repeat(rows, product, "\n      ")}`,
	};
}
