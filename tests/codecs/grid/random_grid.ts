import { bitWords } from "~/base/bits.ts";
import { codeWords, type GridLayout, groupsOf, zerosOf } from "~/codecs/grid/grid.ts";
import type { GridHost } from "~/codecs/grid/store.ts";
import { seededRandom } from "../../reference/random.ts";

/**
 * Random codes, one number each, and the weights that they stand for.
 *
 * @param isOrdered Whether columns are in an order of their own.
 */
export function randomGrid(
	layout: GridLayout,
	share: number,
	isOrdered = false,
	seed = 0,
): { host: GridHost; weight: Float32Array } {
	const { rows, cols, groupSize, grid, bits, salient } = layout;
	const random = seededRandom(rows + cols + bits + seed);
	const upTo = (n: number) => Math.floor(random() * n);
	const half = () => Math.f16round((0.1 + random()) * 2 ** (upTo(8) - 8));
	const [words, groups, stride] = [bitWords(layout.cols), groupsOf(layout), codeWords(layout)];
	const order = Uint32Array.from(
		Array.from({ length: cols }, (_, col) => [random(), col]).sort(([a], [b]) => a - b),
		([, col]) => col,
	);
	const zero = () => {
		if (layout.zeros === "free") return Math.f16round(2 ** bits * (2 * random() - 0.5));
		if (layout.zeros === undefined || layout.zeros === "any") return upTo(2 ** bits);
		const choice = zerosOf(layout.zeros, bits);
		return choice[upTo(choice.length)];
	};
	const zeros = (n: number) => Array.from({ length: n }, zero);
	const offsets = grid === "range"
		? zeros(rows * groups)
		: Array.from({ length: rows * groups }, () => grid === "mean" ? half() - 0.1 : 0)
			.map(Math.f16round);
	const fits = Float32Array.from(offsets.flatMap((offset) => [half(), offset]));
	const salientFits = Float32Array.from({ length: 2 * rows }, (_, i) => i % 2 ? upTo(256) : half());
	const codes = new Uint32Array(rows * words * stride);
	const mask = new Uint32Array(rows * words);
	const weight = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let col = 0; col < cols; col++) {
			const at = (row * words + (col >> 5)) * stride;
			const isSalient = salient && random() < share;
			const width = isSalient ? 8 : bits;
			const code = upTo(2 ** width);
			for (let bit = 0; bit < width; bit++) { // one bit after the other
				const place = (isSalient ? 32 * bits : 0) + (col & 31) * width + bit;
				codes[at + (place >> 5)] |= ((code >> bit) & 1) << (place & 31);
			}
			const fit = row * groups + Math.floor(col / groupSize);
			const [scale, offset] = fits.subarray(2 * fit, 2 * fit + 2);
			const target = row * cols + (isOrdered ? order[col] : col);
			if (isSalient) {
				mask[row * words + (col >> 5)] |= 1 << (col & 31);
				weight[target] = salientFits[2 * row] * (code - salientFits[2 * row + 1]);
			} else if (grid === "range") weight[target] = scale * Math.fround(code - offset);
			else weight[target] = offset + (2 * code - 1) * scale;
		}
	}
	const host: GridHost = {
		...layout,
		codes,
		fits,
		...(isOrdered && { order }),
		...(salient && { mask, salientFits }),
	};
	return { host, weight };
}
