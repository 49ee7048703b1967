import { counted } from "../../base/figures.ts";
import { EXPONENTS } from "../../codecs/exponent.ts";
import { rowMagnitudes } from "../../gpu/kernels/reduce/row_magnitudes.ts";
import { transformRows } from "../../gpu/kernels/rotation/rotate.ts";
import type { GroupContext } from "../stage.ts";

/** Rows between two linear layers' results, for the alignment of bindings. */
const STRIDE = 64;

/** The weights up to 2^8 and from 2^-8 on, as the largest one of a linear layer, stay as they are. */
const USUAL = 8;

/** Rows whose largest weight is below this lose digits: 1/127 of it is not a normal number in f16. */
const FAINT = 2 ** -14;

/**
 * Divides the weights of linear layers whose scales might leave the range of f16 by a power of two, which
 * changes no other bit of them. The factor becomes a part of the transform of their input. Rows that are
 * too small beside the others to be stored well are reported by a warning.
 */
export async function scaleLinears({ gpu, linears, emit }: GroupContext): Promise<void> {
	const starts: number[] = [];
	let size = 0;
	for (const { rows } of linears) {
		starts.push(size);
		size += Math.ceil(rows / STRIDE) * STRIDE;
	}
	// Memory that nothing uses yet, so that no run needs more of it.
	const room = linears.find(({ quantized }) => quantized.size >= size)?.quantized;
	using tops = room ? room.view(0, [size]) : gpu.empty([size]);
	for (const [i, { weight, rows }] of linears.entries()) {
		await rowMagnitudes(gpu, weight, tops.view(starts[i], [rows]));
	}
	const found = await gpu.read(tops);
	for (const [i, linear] of linears.entries()) {
		const magnitudes = found.subarray(starts[i], starts[i] + linear.rows);
		const exponent = exponentFor(magnitudes.reduce((a, b) => Math.max(a, b), 0));
		const faint = magnitudes.filter((top) => top > 0 && top < FAINT * 2 ** exponent).length;
		if (faint > 0) {
			emit({
				type: "warning",
				message:
					`${counted(faint, "row")} of "${linear.name}" ${
						faint === 1 ? "is" : "are"
					} so small beside the others that ` +
					`f16 scales keep few of their digits, or none`,
			});
		}
		if (exponent === 0) continue;
		for (const matrix of [linear.original, linear.weight]) {
			await transformRows(gpu, matrix, { exponent: -exponent });
		}
		linear.transform = { ...linear.transform, exponent };
	}
}

/**
 * The exponent that brings the largest magnitude of a linear layer to 1 .. 2; 0 if it is usual, or if all
 * weights are 0.
 */
export function exponentFor(largest: number): number {
	if (largest === 0 || largest >= 2 ** -USUAL && largest <= 2 ** USUAL) return 0;
	const bits = new Uint32Array(Float32Array.of(largest).buffer)[0];
	return Math.max(EXPONENTS.least, Math.min(EXPONENTS.most, (bits >>> 23) - 127));
}
