import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { type LevelKind, parametersOf } from "./levels.ts";
import { kindName, levelsSource, STORE_THETA, THETA_OF_ROW } from "./levels_source.ts";
import patternSource from "./pattern_levels.wgsl" with { type: "text" };
import source from "./refit_levels.wgsl" with { type: "text" };

/** A linear layer of levels while its codes are searched, with its columns in any order. */
export interface SearchedLevels {
	kind: LevelKind;
	/** u32 `[rows, cols]`. */
	codes: Tensor;
	/** The parameters of each row, exact f16 values, f32 `[rows, parameters]`. */
	theta: Tensor;
	/** H, damped, symmetric, f32 `[cols, cols]`. */
	hessian: Tensor;
}

/**
 * Refits the parameters of each row to its codes in the loss tr(E H Eᵀ), E = W - Q.
 *
 * @param layer Its parameters are updated.
 * @param targetProduct W H, f32 `[rows, cols]`.
 * @param product Receives R = (W - Q) H with the new parameters in its first `rows` rows, f32
 *   `[parameters · rows, cols]`.
 */
export async function refitLevels(
	gpu: Gpu,
	{ kind, codes, theta, hessian }: SearchedLevels,
	targetProduct: Tensor,
	product: Tensor,
): Promise<void> {
	const [rows, cols] = codes.shape;
	const height = parametersOf(kind) * rows;
	using factors = gpu.empty([height, cols]);
	const pattern = await gpu.kernel({
		name: `pattern_levels_${kindName(kind)}`,
		source: () => levelsSource(kind) + patternSource,
	});
	pattern.dispatch({
		params: uniform([rows, cols]),
		tensors: [codes, factors],
		workgroups: [Math.ceil(cols / 16), Math.ceil(rows / 4)],
	});
	await gemm(gpu, {
		layout: "NN",
		m: height,
		n: cols,
		k: cols,
		a: factors,
		b: hessian,
		c: product,
	});
	const refit = await gpu.kernel(
		withReduction(gpu, {
			name: `refit_levels_${kindName(kind)}`,
			source: roundF16 + levelsSource(kind) + THETA_OF_ROW + STORE_THETA + source,
		}),
	);
	refit.dispatch({
		params: uniform([rows, cols]),
		tensors: [codes, targetProduct, product, theta],
		workgroups: rows,
	});
}
