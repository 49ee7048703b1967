import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowUnpacking } from "../packed_rows/unpack_source.ts";
import { topCode } from "./grid.ts";
import { GRID_CHUNK, type GridForm } from "./row_code.ts";

/** Four columns of a chunk. */
const QUADS = GRID_CHUNK / 4;

/**
 * The codes of grids in unpackRowsKernel(), in the layout of products: the weights are bit-identical to those
 * of dequantize_grid.wgsl. Four codes of three bits may lie in two words.
 *
 * Reference: dequantizeGridHost() in codecs/grid/store.ts.
 */
export function gridUnpacking({ bits, salient, centered }: GridForm): RowUnpacking {
	const straddles = bits === 3;
	const load = (r: number) =>
		`let at${r} = (row${r} * chunks + (quad >> ${Math.log2(QUADS)}u)) * ${bits}u + (((quad & ${
			QUADS - 1
		}u) * ${4 * bits}u) >> 5u);
  let word${r} = codes[at${r}];
  ${straddles ? `let next${r} = codes[at${r} + u32(shift > 20u)];` : ""}
  let fit${r} = fits[row${r} * FITS + quad / ${QUADS}u / FIT_CHUNKS];` + (salient
			? `
  let marks${r} = marks[row${r} * chunks + (quad >> ${Math.log2(QUADS)}u)];
  let salient_fit${r} = fits[row${r} * FITS + FITS - 1u];`
			: "");
	const shifts = `vec4u(${repeat(4, (i) => `${i * bits}u`, ", ")})`;
	const decode = (r: number) =>
		`let codes${r} = vec4f((vec4u(${
			straddles
				? `select(word${r} >> shift, (word${r} >> shift) | (next${r} << (32u - shift)), shift > 20u)`
				: bits === 8
				? `word${r}`
				: `word${r} >> shift`
		}) >> ${shifts}) & vec4u(${topCode(bits)}u));
  let scale${r} = unpack2x16float(fit${r});
  ${salient ? "var" : "let"} weight${r} = ${
			centered
				? `vec4f(scale${r}.y) + select(vec4f(-scale${r}.x), vec4f(scale${r}.x), codes${r} == vec4f(1.0))`
				: `scale${r}.x * (codes${r} - vec4f(scale${r}.y))`
		};` + (salient
			? `
  { let first = 4u * (quad & ${QUADS - 1}u);
    let fit = unpack2x16float(salient_fit${r});
    ${
				repeat(4, (i) =>
					`if (((marks${r}.x >> (first + ${i}u)) & 1u) == 1u) {
      let byte = marks${r}.y + countOneBits(marks${r}.x & ((1u << (first + ${i}u)) - 1u));
      weight${r}.${
						XYZW[i]
					} = fit.x * (f32(extractBits(salient_codes[byte >> 2u], 8u * (byte & 3u), 8u)) - fit.y);
    }`, "\n    ")
			} }`
			: "");
	const shift = straddles || bits < 8
		? `let shift = ((quad & ${QUADS - 1}u) * ${4 * bits}u) & 31u;\n  `
		: "";
	return {
		name: `grid_${bits}${centered ? "_centered" : ""}${salient ? "_salient" : ""}`,
		tensors: {
			codes: "u32", // [rows, chunks, bits]
			fits: "u32", // [rows, FITS]: scale, and zero or center, as f16
			...(salient && { marks: "vec2u", salient_codes: "u32" }),
		},
		declarations: `override FITS: u32;        // scales of a row
override FIT_CHUNKS: u32;  // chunks of a scale group`,
		load: (r) => (r === 0 ? shift : "") + load(r),
		decode,
	};
}
