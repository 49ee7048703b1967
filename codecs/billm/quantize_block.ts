import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./quantize_block.wgsl" with { type: "text" };

/** The layout of a BiLLM layer: zones, planes and block size. */
export interface BillmLayout {
	rows: number;
	cols: number;
	/** Columns that share scales, a multiple of 32. */
	blockSize: number;
	/** Zones of the columns that are not salient: 1, or 2 (low and high). */
	zones: 1 | 2;
	/** Bit planes of the salient columns, 1 .. 4; 0 if there are none. */
	planes: number;
}

/** Number of bit planes: the sign, the zone or second sign, further signs. */
export function bitPlanes({ zones, planes }: BillmLayout): number {
	return Math.max(zones, planes);
}

/**
 * Number of means and scales per row and block: two per zone; mean and scales of the salient columns.
 */
export function scalesPerBlock({ zones, planes }: BillmLayout): number {
	return 2 * zones + (planes > 0 ? 1 + planes : 0);
}

/** A BiLLM layer on the GPU while it is being quantized. */
export interface BillmBits extends BillmLayout {
	/** u32 `[bitPlanes, rows, ⌈cols / 32⌉]`. Bit 1 is the zone, or a salient weight's second sign. */
	bits: Tensor;
	/** Means and scales, f32 `[rows, blocks, scalesPerBlock]`, exact f16 values. */
	scales: Tensor;
	/** 1 for a salient column, u32 `[cols]`. */
	salient: Tensor;
}

/** Allocates the tensors of a BiLLM layer. */
export function emptyBits(gpu: Gpu, layout: BillmLayout): BillmBits {
	const { rows, cols, blockSize } = layout;
	return {
		...layout,
		bits: gpu.empty([bitPlanes(layout), rows, bitWords(cols)], "u32"),
		scales: gpu.empty([rows, Math.ceil(cols / blockSize), scalesPerBlock(layout)]),
		salient: gpu.zeros([cols], "u32"),
	};
}

/** The input of {@link quantizeBlock}. */
export interface BlockInput {
	/** First column of the block in the layer. */
	first: number;
	/** f32 `[rows, cols]`. */
	weight: Tensor;
	/** u32 `[cols]`, 0 or 1. */
	salient: Tensor;
	/** Mean and scale of each plane, f32 `[rows, 2 * planes]`; absent without salient columns. */
	salientFit?: Tensor;
	/** Bit mask of the high zone, u32 `[rows, ⌈cols / 32⌉]`; absent with one zone. */
	zones?: Tensor;
	/** Mean and scale of each zone, f32 `[rows, 2 * zones]`. */
	zoneFits: Tensor;
	/** U of the whole layer, f32 `[layer cols, layer cols]`. */
	factor?: Tensor;
	/** Whether later columns of the block compensate for the error of each column. Needs a factor. */
	feedback?: boolean;
	/** Whether each weight gets the bits of the nearest stored value instead of those of the fit. */
	nearest?: boolean;
}

/**
 * Quantizes a block to bits.
 *
 * @param target Receives the bits, the scales and the marks of salient columns.
 * @param quantized Receives the dequantized values, f32 `[rows, layer cols]`.
 * @returns (w - q) / U_jj of each weight, f32 `[rows, cols]`, owned by the caller; undefined content
 *   without a factor.
 */
export async function quantizeBlock(
	gpu: Gpu,
	input: BlockInput,
	target: BillmBits,
	quantized: Tensor,
): Promise<Tensor> {
	const { first, weight, salient, salientFit, zones, zoneFits, factor, feedback = false } = input;
	const [rows, cols] = weight.shape;
	const groups = target.blockSize / 4;
	// With feedback, workgroup memory holds rows of the block, eight rows of U and its diagonal.
	const memory = gpu.device.limits.maxComputeWorkgroupStorageSize - 8 * 16 * groups - 1024;
	const most = 2 ** Math.floor(Math.log2(memory / (16 * groups)));
	const rowsOfGroup = feedback ? Math.min(16, most) : gpu.software ? 16 : 32;
	const kernel = await gpu.kernel({
		name: "quantize_block",
		source: roundF16 + source,
		constants: {
			ROWS: rowsOfGroup,
			LANES: gpu.software ? 1 : 8,
			GROUPS: groups,
			FEEDBACK: Number(feedback),
			NEAREST: Number(input.nearest ?? false),
			HAS_FACTOR: Number(factor !== undefined),
			HAS_SALIENT: Number(target.planes > 0),
			ZONES: target.zones,
			PLANES: Math.max(target.planes, 1),
			SCALES: scalesPerBlock(target),
		},
	});
	const error = gpu.empty([rows, cols]);
	const words = bitWords(target.cols);
	const blocks = Math.ceil(target.cols / target.blockSize);
	const block = first / target.blockSize;
	kernel.dispatch({
		params: uniform([rows, cols, first, target.cols, words, block, blocks]),
		tensors: [
			weight,
			salient,
			zones ?? salient,
			zoneFits,
			salientFit ?? zoneFits,
			factor ?? zoneFits,
			quantized,
			error,
			target.bits,
			target.scales,
			target.salient,
		],
		workgroups: Math.ceil(rows / rowsOfGroup),
	});
	return error;
}
