import type { TrellisHost } from "~/codecs/trellis/store.ts";
import { tableOf } from "~/codecs/trellis/tables.ts";
import { stepsOf, tilesOf, type TrellisLayout } from "~/codecs/trellis/trellis.ts";
import { seededRandom } from "../../reference/random.ts";

/**
 * Random bits, and the weights that they stand for, bit by bit.
 *
 * @param isOrdered Whether columns are in an order of their own.
 */
export function randomTrellis(
	layout: TrellisLayout,
	isOrdered = false,
	seed = 0,
): { host: TrellisHost; weight: Float32Array } {
	const { rows, cols, stateBits } = layout;
	const random = seededRandom(rows + 3 * cols + stateBits + seed);
	const { stepBits, stepWeights, words } = stepsOf(layout);
	const [below, beside] = tilesOf(layout);
	const stream = Uint32Array.from(
		{ length: below * beside * words },
		() => Math.floor(2 ** 32 * random()),
	);
	const scales = Float32Array.from({ length: rows }, () => Math.f16round(0.3 * random() - 0.1));
	const order = Uint32Array.from(
		Array.from({ length: cols }, (_, col) => [random(), col]).sort(([a], [b]) => a - b),
		([, col]) => col,
	);
	const table = tableOf(layout);
	const weight = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let place = 0; place < cols; place++) {
			const tile = Math.floor(row / 16) * beside + Math.floor(place / 16);
			const ring = [...stream.subarray(tile * words, (tile + 1) * words)]
				.map((word) => word.toString(2).padStart(32, "0")).join("");
			const inTile = (row % 16) * 16 + place % 16;
			const end = (Math.floor(inTile / stepWeights) + 1) * stepBits;
			const state = parseInt(
				(ring + ring).slice(ring.length + end - stateBits).slice(0, stateBits),
				2,
			);
			const value = table[state * stepWeights + inTile % stepWeights] * scales[row];
			weight[row * cols + (isOrdered ? order[place] : place)] = value;
		}
	}
	return { host: { ...layout, stream, scales, ...(isOrdered && { order }) }, weight };
}
