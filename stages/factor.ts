import { UserError } from "../base/errors.ts";
import { type FactorPrecision, inverseFactor } from "../gpu/kernels/hessian/inverse_factor.ts";
import { dampedDiagonal } from "../gpu/kernels/hessian/hessian.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { GroupContext } from "../pipeline/stage.ts";

/** The largest damping that is tried automatically. */
const MOST_DAMPING = 10;

/**
 * The factor of the inverse of the damped Hessian, in f32 if possible. On a pivot that is not positive,
 * f64 is tried if the adapter supports it, then both with ten times the damping, and so on.
 *
 * @returns The factor and the costs of {@link inverseFactor}.
 * @throws {UserError} If all attempts fail, or the inputs overflowed.
 */
export async function factorSafely(
	{ gpu, linears, emit }: GroupContext,
	hessian: Tensor,
	damping: number,
): Promise<{ factor: Tensor; cost: Tensor }> {
	const [n] = hessian.shape;
	const precisions: FactorPrecision[] = gpu.f64 ? ["f32", "f64"] : ["f32"];
	const names = linears.map(({ name }) => name).join(", ");
	let failed = 0;
	let used = damping;
	while (true) {
		for (const precision of precisions) {
			const { factor, cost, status } = await inverseFactor(gpu, hessian, used, precision);
			[failed] = await gpu.read(status, "u32");
			gpu.free(status);
			if (failed === 0) {
				const raised = used === damping ? "" : ` with damping raised to ${used}`;
				if (raised || precision !== "f32") {
					emit({
						type: "warning",
						message: `The Hessian of ${names} could not be factored in f32 with damping ` +
							`${damping}; it was factored in ${precision}${raised}`,
					});
				}
				return { factor, cost };
			}
			gpu.free(factor, cost);
		}
		if (used === 0 || used >= MOST_DAMPING) break;
		used = Math.min(Number((10 * used).toPrecision(6)), MOST_DAMPING);
	}
	using diagonal = await dampedDiagonal(gpu, hessian, 0);
	if (!(await gpu.read(diagonal)).every(Number.isFinite)) {
		throw new UserError(
			`The inputs of ${names} hold values that are NaN, or whose squares exceed what f32 holds; ` +
				`the model is damaged or of another kind than its config.json says`,
		);
	}
	throw new UserError(
		`The Hessian of ${names} cannot be factored: with damping ${used} it is not positive ` +
			`definite at column ${n - failed} of ${n}; use more damping or more calibration text`,
	);
}
