import { repeat, XYZW } from "../../gpu/source_text.ts";
import { type RowUnpacking, UNPACK_THREADS } from "../packed_rows/unpack_source.ts";
import { stepsOf, TILE, type Trellis } from "./trellis.ts";

/** Rows that a thread unpacks: a workgroup fills the table for all of them. */
const ROWS_EACH = 16;

/**
 * The tiles of a trellis in unpackRowsKernel(), in the layout of products: the weights are bit-identical to
 * those of dequantize_trellis.wgsl, which tells what the states are. Those of four adjacent weights overlap:
 * they lie in a window of 32 bits.
 *
 * Reference: dequantizeTrellisHost() in codecs/trellis/store.ts.
 */
export function trellisUnpacking(trellis: Trellis): RowUnpacking {
	const { bits, stateBits } = trellis;
	const { stepBits, stepWeights, words } = stepsOf(trellis);
	const entries = 2 ** stateBits;
	const isSingle = stepWeights === 1;
	const ring = 32 * words; // bits of a tile
	const quads = TILE / 4; // of a row of a tile
	const load = (r: number) =>
		`let step${r} = ((row${r} & ${TILE - 1}u) * ${TILE}u + (quad & ${
			quads - 1
		}u) * 4u) / ${stepWeights}u;
  let start${r} = ((step${r} + 1u) * ${stepBits}u + ${ring - stateBits}u) % ${ring}u;
  let word${r} = word_at(row${r} / ${TILE}u, quad / ${quads}u, start${r} >> 5u);
  let next${r} = word_at(row${r} / ${TILE}u, quad / ${quads}u, ((start${r} >> 5u) + 1u) % ${words}u);
  let scale${r} = scales[row${r}];`;
	const entry = (r: number, step: number) =>
		`entries[(window${r} >> ${32 - stateBits - step * stepBits}u) & ${entries - 1}u]`;
	const decode = (r: number) =>
		`let shift${r} = start${r} & 31u;
  let window${r} = (word${r} << shift${r}) | select(0u, next${r} >> ((32u - shift${r}) & 31u), shift${r} > 0u);
  var weight${r}: vec4f;
  ${
			isSingle
				? repeat(4, (i) => `weight${r}.${XYZW[i]} = bitcast<f32>(${entry(r, i)});`, "\n  ")
				: `weight${r} = vec4f(${repeat(2, (i) => `unpack2x16float(${entry(r, i)})`, ", ")});`
		}
  weight${r} *= scale${r};`;
	return {
		name: `trellis_${stateBits}_${bits}`,
		tensors: {
			stream: "u32", // [tiles below, words / 4, tiles beside, 4]
			scales: "f32", // [rows]
			table: isSingle ? "f32" : "vec2f", // [entries]
		},
		rows: ROWS_EACH,
		declarations: `
// The entries as bits: an f32 number, or two f16 numbers, which they are exactly.
var<workgroup> entries: array<u32, ${entries}>;

fn word_at(tile_row: u32, tile: u32, word: u32) -> u32 {
  let beside = (p.cols + ${TILE - 1}u) / ${TILE}u;
  return stream[((tile_row * ${words / 4}u + word / 4u) * beside + tile) * 4u + word % 4u];
}`,
		setup: `for (var i = index; i < ${entries}u; i += ${UNPACK_THREADS}u) { entries[i] = ${
			isSingle ? "bitcast<u32>(table[i])" : "pack2x16float(table[i])"
		}; }
  workgroupBarrier();`,
		load,
		decode,
	};
}
