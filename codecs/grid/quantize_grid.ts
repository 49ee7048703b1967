import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { codeWords, groupsOf, isBetweenCodes, type LinearGrid } from "./grid.ts";
import source from "./quantize_grid.wgsl" with { type: "text" };

/** The input of {@link quantizeGrid}. */
export interface GridBlock {
	/** First column of the block in the layer, a multiple of 32. */
	first: number;
	/** f32 `[rows, cols]`, at most 256 columns. */
	weight: Tensor;
	/** The index of the scale group that contains the block's columns; not used with `scattered`. */
	group: number;
	/**
	 * The place of each column of the layer in the order of scale groups, u32 `[layer cols]`, if the columns
	 * are in another order. Not for layers with salient weights.
	 */
	scattered?: Tensor;
	/** U of the whole layer, f32 `[layer cols, layer cols]`. */
	factor?: Tensor;
	/** Whether later columns of the block compensate for the error of each column. Needs a factor. */
	feedback?: boolean;
}

/**
 * Quantizes a block to codes on grids that were fitted before; marked weights get salient codes.
 *
 * @param target Receives the codes.
 * @param quantized Receives the dequantized values, f32 `[rows, layer cols]`.
 * @returns (w - q) / U_jj of each weight, f32 `[rows, cols]`, owned by the caller; undefined content
 *   without a factor.
 */
export async function quantizeGrid(
	gpu: Gpu,
	{ first, weight, group, scattered, factor, feedback = false }: GridBlock,
	target: LinearGrid,
	quantized: Tensor,
): Promise<Tensor> {
	const [rows, cols] = weight.shape;
	const { mask, salientFits } = target;
	// One thread per row where threads have no work to share, or where sharing is not faster.
	const lanes = feedback && !gpu.software ? 8 : 1;
	const rowsOfGroup = feedback ? 8 : gpu.software ? 16 : 32;
	const kernel = await gpu.kernel({
		name: "quantize_grid",
		source,
		constants: {
			ROWS: rowsOfGroup,
			LANES: lanes,
			COLS: 32 * bitWords(cols),
			FEEDBACK: Number(feedback),
			HAS_FACTOR: Number(factor !== undefined),
			HAS_SALIENT: Number(target.salient),
			CENTERED: Number(target.grid !== "range"),
			BETWEEN: Number(isBetweenCodes(target)),
			SCATTERED: Number(scattered !== undefined),
			BITS: target.bits,
			CODE_WORDS: codeWords(target),
		},
	});
	const error = gpu.empty([rows, cols]);
	kernel.dispatch({
		params: uniform([
			rows,
			cols,
			first,
			target.cols,
			bitWords(target.cols),
			group,
			groupsOf(target),
			target.groupSize,
		]),
		tensors: [
			weight,
			target.fits,
			scattered ?? mask ?? weight,
			salientFits ?? target.fits,
			factor ?? target.fits,
			quantized,
			error,
			target.codes,
		],
		workgroups: [Math.ceil(rows / rowsOfGroup), 1],
	});
	return error;
}
