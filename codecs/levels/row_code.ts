import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowCode, RowCodeText } from "../packed_rows/vector_source.ts";
import { type LevelKind, levelParts, parametersOf } from "./levels.ts";

/** Columns of a chunk: their codes are whole words. */
export const LEVEL_CHUNK = 32;

/** Bits of a code in the layout of products. */
export function codeWidth({ count }: LevelKind): 2 | 3 {
	return count <= 4 ? 2 : 3;
}

/**
 * The codes of levels in rowVectorKernel(): a code selects its factors of the row's parameters in a table
 * in workgroup memory, whose entries lie in banks of their own, and the products are summed for each
 * parameter.
 *
 * @param rows Rows of a workgroup.
 */
export function levelRowCode(kind: LevelKind, rows: number): RowCode {
	return {
		name: `levels_${kind.count}_${kind.pattern}`,
		chunk: LEVEL_CHUNK,
		rows,
		tensors: {
			codes: codeWidth(kind) === 2 ? "vec2u" : "u32",
			theta: parametersOf(kind) === 2 ? "vec2f" : "f32",
		},
		bytes: 8 * 8,
		text: () => levelText(kind, rows),
	};
}

function levelText(kind: LevelKind, rows: number): RowCodeText {
	const width = codeWidth(kind);
	const parameters = parametersOf(kind);
	const type = parameters === 2 ? "vec2f" : "f32";
	const parts = levelParts(kind);
	const entries = parts.map(({ parameter, factor }) => {
		const own = Array.from({ length: parameters }, (_, i) => i === parameter ? factor : 0);
		return `${type}(${own.map((value) => `${value}`).join(", ")})`;
	});
	const word = (r: number, k: number) => width === 2 ? `codes${r}.${XYZW[k]}` : `codes${r}_${k}`;
	const code = (r: number, i: number) => {
		const [k, first] = [(i * width) >> 5, (i * width) & 31];
		const low = first === 0 ? word(r, k) : `(${word(r, k)} >> ${first}u)`;
		const all = first + width > 32 ? `(${low} | (${word(r, k + 1)} << ${32 - first}u))` : low;
		return `(${all} & ${2 ** width - 1}u)`;
	};
	const product = (r: number) =>
		`{ var dots = ${type}();
      ${
			repeat(
				LEVEL_CHUNK,
				(i) => `dots = fma(${type}(x${i >> 2}.${XYZW[i & 3]}), factors[${code(r, i)}], dots);`,
				"\n      ",
			)
		}
      sum${r} += ${parameters === 2 ? `dot(theta${r}, dots)` : `theta${r} * dots`}; }`;
	return {
		// Codes are below 2^WIDTH in any file, so that no index is out of bounds.
		declarations: `var<workgroup> factors: array<${type}, ${2 ** width}>;`,
		setup: `if (thread == 0u) { ${
			entries.map((entry, i) => `factors[${i}] = ${entry};`).join(" ")
		} }
  ${repeat(rows, (r) => `let theta${r} = theta[row${r}];`, "\n  ")}`,
		load: repeat(
			rows,
			(r) =>
				width === 2
					? `let codes${r} = codes[row${r} * CHUNKS + chunk];`
					: `let at${r} = 3u * (row${r} * CHUNKS + chunk);
    ${repeat(3, (k) => `let codes${r}_${k} = codes[at${r} + ${k}u];`, " ")}`,
			"\n    ",
		),
		multiply: repeat(rows, product, "\n      "),
	};
}
