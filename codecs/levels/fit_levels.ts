import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import roundF16 from "../../gpu/kernels/elementwise/round_f16.wgsl" with { type: "text" };
import { reductionLanes, withReduction } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./fit_levels.wgsl" with { type: "text" };
import type { LevelKind } from "./levels.ts";
import { kindName, levelsSource, STORE_THETA, THETA_OF_ROW } from "./levels_source.ts";

/** Steps of Lloyd's method. */
const STEPS = 15;

/** Iterations of a thread on a software adapter, which ends all loops after 65535. */
const SOFTWARE_ITERATIONS = 60000;

/**
 * Fits the levels of each row to its weights: least Σ cost_j · (w_j - level_j)², by Lloyd's method.
 *
 * @param weight f32 `[rows, cols]`.
 * @param costs f32 `[cols]`, positive.
 * @param theta Receives the parameters, exact f16 values, f32 `[rows, parameters]`.
 */
export async function fitLevels(
	gpu: Gpu,
	kind: LevelKind,
	{ weight, costs, theta }: { weight: Tensor; costs: Tensor; theta: Tensor },
): Promise<void> {
	const [rows, cols] = weight.shape;
	const kernel = await gpu.kernel(
		withReduction(gpu, {
			name: `fit_levels_${kindName(kind)}`,
			source: roundF16 + levelsSource(kind) + THETA_OF_ROW + STORE_THETA + source,
		}),
	);
	const turns = Math.ceil(cols / reductionLanes(gpu));
	const most = gpu.software ? Math.max(1, Math.floor(SOFTWARE_ITERATIONS / turns) - 2) : STEPS;
	for (let done = 0; done < STEPS; done += most) {
		const steps = Math.min(most, STEPS - done);
		kernel.dispatch({
			params: uniform([rows, cols, steps, Number(done === 0), Number(done + steps === STEPS)]),
			tensors: [weight, costs, theta],
			workgroups: rows,
		});
	}
}
