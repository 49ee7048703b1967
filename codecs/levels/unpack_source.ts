import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowUnpacking } from "../packed_rows/unpack_source.ts";
import type { LevelKind } from "./levels.ts";
import { kindName, levelsSource, THETA_OF_ROW } from "./levels_source.ts";
import { codeWidth, LEVEL_CHUNK } from "./row_code.ts";

/** Four columns of a chunk. */
const QUADS = LEVEL_CHUNK / 4;

/**
 * The codes of levels in unpackRowsKernel(), in the layout of products: the weights are bit-identical to
 * those of dequantize_levels.wgsl. Four codes of three bits may lie in two words.
 *
 * Reference: dequantizeLevelsHost() in codecs/levels/store.ts.
 */
export function levelUnpacking(kind: LevelKind): RowUnpacking {
	const width = codeWidth(kind);
	const straddles = width === 3;
	const shift = `let shift = ((quad & ${QUADS - 1}u) * ${4 * width}u) & 31u;\n  `;
	const load = (r: number) =>
		`let at${r} = (row${r} * chunks + (quad >> ${Math.log2(QUADS)}u)) * ${width}u + (((quad & ${
			QUADS - 1
		}u) * ${4 * width}u) >> 5u);
  let word${r} = codes[at${r}];
  ${straddles ? `let next${r} = codes[at${r} + u32(shift > 20u)];` : ""}
  let levels${r} = levels_of(theta_of(row${r}));`;
	const decode = (r: number) =>
		`let window${r} = ${
			straddles
				? `select(word${r} >> shift, (word${r} >> shift) | (next${r} << (32u - shift)), shift > 20u)`
				: `word${r} >> shift`
		};
  var weight${r}: vec4f;
  ${
			repeat(
				4,
				(i) =>
					`weight${r}.${XYZW[i]} = level(levels${r}, (window${r} >> ${i * width}u) & ${
						2 ** width - 1
					}u);`,
				"\n  ",
			)
		}`;
	return {
		name: `levels_${kindName(kind)}`,
		tensors: {
			codes: "u32", // [rows, chunks, width]
			theta: "f32", // [rows, PARAMETERS]
		},
		declarations: levelsSource(kind) + THETA_OF_ROW,
		load: (r) => (r === 0 ? shift : "") + load(r),
		decode,
	};
}
