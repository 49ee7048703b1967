import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import type { Tensor } from "../../gpu/tensor.ts";
import columnsSource from "./haar_columns.wgsl" with { type: "text" };
import rowsSource from "./haar_rows.wgsl" with { type: "text" };
import splitSource from "./haar_split.wgsl" with { type: "text" };
import type { HaarTensors } from "./layout.ts";

/** The way in which coefficients are split and fitted. */
export interface HaarFit {
	/** Quantiles of the magnitudes from 0.10 to 0.90 among which the groups of a row are split, 2 .. 128. */
	candidates: number;
	/** The scale of a group: its mean distance from the mean, or the root mean square. */
	scale: "mean" | "rms";
	/** Rounds of nearest values and least squares. */
	rounds: number;
	/** Whether coefficients take the nearest stored value instead of the sign and group of the fit. */
	nearest: boolean;
	/** Whether later columns of the block compensate for errors; needs `nearest`. */
	feedback: boolean;
}

/** The input of {@link quantizeHaarBlock}. */
export interface HaarBlockInput {
	/** First column of the block in the layer. */
	first: number;
	/** f32 `[rows, cols]`, both even. */
	weight: Tensor;
	/** u32 `[cols]`, 0 or 1. */
	salient: Tensor;
	/** U of the whole layer, f32 `[layer cols, layer cols]`. */
	factor: Tensor;
}

/** Threads of a team: on a software adapter, where barriers take long, those of one vector instruction. */
const LANES = { gpu: 64, software: 16 };
const TEAMS = 4;

/**
 * Quantizes a block to coefficients of Haar transforms.
 *
 * @param target Its codes of the block are zeros.
 * @param quantized Receives the dequantized values, f32 `[rows, layer cols]`.
 * @returns (w - q) / U_jj of each weight, f32 `[rows, cols]`, owned by the caller.
 */
export async function quantizeHaarBlock(
	gpu: Gpu,
	{ first, weight, salient, factor }: HaarBlockInput,
	{ candidates, scale, rounds, nearest, feedback }: HaarFit,
	target: HaarTensors,
	quantized: Tensor,
): Promise<Tensor> {
	const [rows, cols] = weight.shape;
	const byRows = target.axis === "row";
	const kernel = await gpu.kernel({
		name: byRows ? "haar_rows" : "haar_columns",
		source: roundF16 + splitSource + (byRows ? rowsSource : columnsSource),
		constants: {
			...{
				LANES: gpu.software ? LANES.software : LANES.gpu,
				TEAMS,
				WIDTH: target.blockSize,
				COLS: target.blockSize,
			},
			...{ CANDIDATES: candidates, RMS: Number(scale === "rms"), ROUNDS: rounds },
			...{ NEAREST: Number(nearest), FEEDBACK: Number(feedback) },
		},
	});
	const error = gpu.empty([rows, cols]);
	const blocks = Math.ceil(target.cols / target.blockSize);
	const block = first / target.blockSize;
	kernel.dispatch({
		params: uniform([rows, cols, first, target.cols, bitWords(target.cols), block, blocks]),
		tensors: [
			...[weight, salient, factor, quantized, error],
			...[target.codes, target.scales, target.mask],
		],
		workgroups: rows / 2,
	});
	return error;
}
