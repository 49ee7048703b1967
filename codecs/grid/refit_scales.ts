import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { difference } from "../../gpu/kernels/reduce/difference.ts";
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./refit_scale.wgsl" with { type: "text" };

/** The input and output of {@link refitScales}; all columns are in the order of the scale groups. */
export interface ScaleRefit {
	/** W, f32 `[rows, cols]`. */
	weight: Tensor;
	/** H, symmetric, f32 `[cols, cols]`. */
	hessian: Tensor;
	/** The dequantized values Q, f32 `[rows, cols]`; they are scaled, without rounding as stored. */
	quantized: Tensor;
	/** Scale and zero, f32 `[rows, groups, 2]`; the scales are refitted. */
	fits: Tensor;
	groupSize: number;
	rounds: number;
}

/**
 * Refits the scales of a "range" to the output error tr((W - Q) H (W - Q)ᵀ), with codes and zeros as they
 * are: one scale group after the other, several times.
 */
export async function refitScales(
	gpu: Gpu,
	{ weight, hessian, quantized, fits, groupSize, rounds }: ScaleRefit,
): Promise<void> {
	const [rows, cols] = weight.shape;
	using error = await difference(gpu, weight, quantized);
	using residual = gpu.empty([rows, cols]);
	await gemm(gpu, { layout: "NN", m: rows, n: cols, k: cols, a: error, b: hessian, c: residual });
	const kernel = await gpu.kernel(
		withReduction(gpu, { name: "refit_scale", source: roundF16 + source }),
	);
	const groups = Math.ceil(cols / groupSize);
	for (let round = 0; round < rounds; round++) {
		for (let group = 0; group < groups; group++) {
			const first = group * groupSize;
			const size = Math.min(groupSize, cols - first);
			using own = gpu.empty([rows, size]);
			await gemm(gpu, {
				layout: "NN",
				m: rows,
				n: size,
				k: size,
				a: { tensor: quantized, start: first, stride: cols },
				b: { tensor: hessian, start: first * cols + first, stride: cols },
				c: own,
			});
			using step = gpu.empty([rows, size]);
			kernel.dispatch({
				params: uniform([rows, cols, first, size, group, groups]),
				tensors: [residual, own, quantized, fits, step],
				workgroups: rows,
			});
			await gemm(gpu, {
				layout: "NN",
				m: rows,
				n: cols,
				k: size,
				alpha: -1,
				accumulate: true,
				a: step,
				b: { tensor: hessian, start: first * cols },
				c: residual,
			});
		}
	}
}
