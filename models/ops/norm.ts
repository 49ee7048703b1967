import type { Gpu } from "../../gpu/device.ts";
import { norm as normalize } from "../../gpu/kernels/reduce/norm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { OpKind } from "./op.ts";

/** An RMS norm (with a weight) or a layer norm (with a weight and, unless `bias` is false, a bias). */
export interface NormOp {
	/** The kind of operation. */
	op: "norm";
	/** RMSNorm or LayerNorm. */
	kind: "rms" | "layer";
	/** Module with the weight. */
	module: string;
	/** Register of the input. */
	from: string;
	/** Register of the output. */
	to: string;
	/** Elements that are normalized together. */
	width: number;
	/** Heads of the register, each normalized separately; 1 if absent. */
	heads?: number;
	/**
	 * Whether each head has weights of its own, as rows of one tensor or as tensors of modules that are
	 * named `norms.0`, `norms.1` and so on; heads share one weight if absent.
	 */
	perHead?: "rows" | "modules";
	/** Added to the variance. */
	epsilon: number;
	/** Whether it has a bias. */
	bias?: boolean;
	/** Added to the stored weight; nothing if absent. */
	offset?: number;
}

export const norm: OpKind<NormOp> = {
	isCheap: true,
	reads: ({ from, width, heads = 1 }) => ({ [from]: heads * width }),
	writes: ({ to, width, heads = 1 }) => ({ [to]: heads * width }),

	tensors(op) {
		const { module, width, heads = 1, perHead, offset } = op;
		const shape = perHead === "rows" ? [heads, width] : [width];
		const weights = perHead === "modules" ? headModules(op) : [module];
		return [
			...weights.map((name) => ({ name: `${name}.weight`, shape, ...(offset && { offset }) })),
			...(hasBias(op) ? [{ name: `${module}.bias`, shape }] : []),
		];
	},

	prepare(op, weights, gpu) {
		if (op.perHead !== "modules") return;
		const joined = gpu.empty([op.heads!, op.width]);
		for (const [head, module] of headModules(op).entries()) {
			gpu.copy(weights.tensor(`${module}.weight`), joined.view(head * op.width, [op.width]));
		}
		weights.tensors.set(`${op.module}.weight`, joined);
	},

	source({ kind, module, from, heads, epsilon }, { weights, registers }) {
		if (kind !== "rms" || heads) return undefined;
		const weight = weights.tensor(`${module}.weight`);
		return { x: registers.get(from)!, source: { op: "rms", weight, epsilon } };
	},

	async run(op, { gpu, weights, registers }) {
		const x = registers.get(op.from)!;
		return [[op.to, await applyNorm(gpu, op, x, (name) => weights.tensor(name))]];
	},
};

/**
 * The norm of each row of x, or of each head of a row.
 *
 * @param tensor Returns the weight or bias of a name.
 * @returns f32, the shape of `x`, owned by the caller.
 */
export function applyNorm(
	gpu: Gpu,
	op: NormOp,
	x: Tensor,
	tensor: (name: string) => Tensor,
): Promise<Tensor> {
	const { kind, module, epsilon, width } = op;
	const bias = hasBias(op) ? tensor(`${module}.bias`) : undefined;
	const options = { center: kind === "layer", width };
	return normalize(gpu, x, tensor(`${module}.weight`), bias, epsilon, options);
}

/** Whether a norm has a bias. */
export function hasBias({ kind, bias = true }: NormOp): boolean {
	return kind === "layer" && bias;
}

function headModules({ module, heads = 1 }: NormOp): string[] {
	return Array.from({ length: heads }, (_, head) => `${module}.norms.${head}`);
}
