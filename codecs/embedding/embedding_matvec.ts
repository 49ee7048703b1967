import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { reducesInSubgroup, reductionLanes } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
	embeddingRowBytes,
	embeddingScaleGroups,
	type EmbeddingTensors,
} from "./dequantize_embedding.ts";
import { embeddingMatvecKernel, TABLE_ROWS, tableStep } from "./embedding_matvec_source.ts";

/** The arguments of {@link embeddingMatvec}. */
export interface EmbeddingMatvec extends EmbeddingTensors {
	/** f32 `[1, cols]`. */
	x: Tensor;
	/** Receives the products, f32. */
	out: Tensor;
	/** The element of `out` that receives the first product; 0 if absent. */
	start?: number;
}

/** Queues out = x · tableᵀ for one token with a quantized table, which is read once. */
export async function embeddingMatvec(
	gpu: Gpu,
	{ x, layout, codes, scales, zeros, out, start = 0 }: EmbeddingMatvec,
): Promise<void> {
	const { rows, cols, bits, group } = layout;
	const step = tableStep(layout);
	const aligned = cols % step === 0 && group % step === 0;
	const useSubgroup = reducesInSubgroup(gpu);
	const lanes = reductionLanes(gpu, lanesFor(aligned ? cols / step : cols));
	const kernel = await gpu.kernel({
		name: `table_matvec_${bits}_${group}_${useSubgroup ? "subgroup" : lanes}${
			zeros ? "_zeros" : ""
		}${aligned ? "" : "_any"}`,
		source: () => embeddingMatvecKernel(layout, lanes, useSubgroup, aligned),
	});
	kernel.dispatch({
		params: uniform([rows, cols, embeddingRowBytes(layout), embeddingScaleGroups(layout), start]),
		tensors: zeros ? [x, codes, scales, out, zeros] : [x, codes, scales, out],
		workgroups: Math.ceil(rows / TABLE_ROWS),
	});
}

/** Threads of a workgroup on a GPU: the number of reads per row, clamped to 32 .. 128. */
function lanesFor(reads: number): number {
	let lanes = 32;
	while (lanes < reads && lanes < 128) lanes *= 2;
	return lanes;
}
