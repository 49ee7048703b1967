import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import type { Tensor } from "../../gpu/tensor.ts";
import storeSource from "./arb_store.wgsl" with { type: "text" };
import type { ArbFit } from "./fit_scales.ts";
import { arbScales, type ArbTensors } from "./layout.ts";

/** The input of {@link storeArbBlock}. */
export interface ArbBlockInput {
	/** First column of the block in the layer. */
	first: number;
	/** f32 `[rows, cols]`. */
	weight: Tensor;
	/** u32 `[cols]`, 0 or 1. */
	salient: Tensor;
	/** u32 `[rows, ⌈cols / 32⌉]`. */
	zones: Tensor;
	fit: ArbFit;
	/** U of the whole layer, f32 `[layer cols, layer cols]`. */
	factor: Tensor;
	/** Whether later columns of the block compensate for the error of each column. */
	feedback: boolean;
	/** Whether weights take the nearest stored value instead of the bits of the fit. */
	nearest: boolean;
}

/**
 * Quantizes a block to bits, and stores them with the scales of the fit, rounded to f16.
 *
 * @param quantized Receives the dequantized values, f32 `[rows, layer cols]`.
 * @returns (w - q) / U_jj of each weight, f32 `[rows, cols]`, owned by the caller.
 */
export async function storeArbBlock(
	gpu: Gpu,
	{ first, weight, salient, zones, fit, factor, feedback, nearest }: ArbBlockInput,
	target: ArbTensors,
	quantized: Tensor,
): Promise<Tensor> {
	const [rows, cols] = weight.shape;
	const stride = target.blockSize + 4;
	const memory = gpu.device.limits.maxComputeWorkgroupStorageSize - 1024;
	const ROWS = Math.min(16, 2 ** Math.floor(Math.log2(memory / 4 / stride)));
	const kernel = await gpu.kernel({
		name: "arb_store",
		source: roundF16 + storeSource,
		constants: {
			ROWS,
			LANES: gpu.software ? 1 : 8,
			STRIDE: stride,
			COLUMN_SCALES: Number(target.columnScales),
			BITMAP: Number(target.bitmap),
			NEAREST: Number(nearest),
			FEEDBACK: Number(feedback),
			SCALES: arbScales(target),
			FITS: fit.rowFits.shape[1],
		},
	});
	const error = gpu.empty([rows, cols]);
	const blocks = Math.ceil(target.cols / target.blockSize);
	const block = first / target.blockSize;
	kernel.dispatch({
		params: uniform([rows, cols, first, target.cols, bitWords(target.cols), block, blocks]),
		tensors: [
			...[weight, salient, zones, fit.signs, fit.rowFits, fit.colScales, factor, quantized, error],
			...[target.codes, target.scales, target.columns, target.mask],
		],
		workgroups: Math.ceil(rows / ROWS),
	});
	return error;
}
