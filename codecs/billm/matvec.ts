import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { Addends } from "../codec.ts";
import { billmMatvecBytes, billmMatvecKernel, MATVEC_FLAGS } from "./matvec_source.ts";
import { type BillmTensors, formName, formOf, tilesOf, unitsOf } from "./tensors.ts";

/** The token limit of {@link billmMatvec}. */
export const MATVEC_TOKENS = 8;
/** Tokens of one pass over the weight on a GPU. */
const PASS_TOKENS = 4;
/** Groups of 32 threads that saturate a GPU. */
const GROUPS = 2048;

/**
 * x · weightᵀ (+ bias) (+ residual) for 1 to 8 tokens. The packed weight is read once per four tokens.
 *
 * @param x f32 `[tokens, cols]`.
 * @returns f32 `[tokens, rows]`, owned by the caller.
 * @throws {RangeError} If the shape of x does not match the weight or x has more tokens.
 */
export async function billmMatvec(
	gpu: Gpu,
	x: Tensor,
	weight: BillmTensors,
	{ bias, residual }: Addends = {},
): Promise<Tensor> {
	const { rows, cols, blockSize } = weight;
	const [tokens, width] = x.shape;
	if (width !== cols || tokens > MATVEC_TOKENS) {
		throw new RangeError(
			`Cannot multiply ${shapeText(x.shape)} with a packed weight of ${shapeText([rows, cols])}`,
		);
	}
	const y = gpu.empty([tokens, rows]);
	const form = formOf(weight);
	const [tiles, units] = [tilesOf(weight), unitsOf(weight)];
	const splits = splitsFor(gpu, tiles, units);
	const most = gpu.software ? 1 : PASS_TOKENS; // one is the fastest where the CPU computes
	for (let first = 0; first < tokens; first += most) {
		const count = Math.min(most, tokens - first);
		const together = count === 1 ? 1 : count === 2 ? 2 : 4;
		const shape = { tokens: together, splits, unrolled: !gpu.software } as const;
		const kernel = await gpu.kernel({
			name: `packed_matvec_${formName(form)}_${together}x${splits}`,
			source: () => billmMatvecKernel(form, shape),
		});
		const flags = (bias ? MATVEC_FLAGS.bias : 0) | (residual ? MATVEC_FLAGS.residual : 0);
		const blocks = Math.ceil(cols / blockSize);
		const { bits, scales, factors, salient, order } = weight;
		kernel.dispatch({
			params: uniform([rows, cols, units, blocks, blockSize, tiles, count, flags, first]),
			tensors: [x, bits, scales, factors ?? scales, salient, order, bias ?? x, residual ?? x, y],
			workgroups: tiles,
		});
	}
	return y;
}

/** The number of splits that saturates the GPU, within the limits of the columns and the workgroup. */
function splitsFor(gpu: Gpu, tiles: number, units: number): number {
	const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
	const most = gpu.software ? 2 : 16;
	let splits = 1;
	const mayDouble = () =>
		2 * splits <= units && splits < most && splits * tiles < GROUPS &&
		64 * splits <= maxComputeInvocationsPerWorkgroup &&
		billmMatvecBytes(2 * splits) <= maxComputeWorkgroupStorageSize;
	while (mayDouble()) splits *= 2;
	return splits;
}
