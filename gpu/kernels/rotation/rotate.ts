import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import activate from "../elementwise/activate.wgsl" with { type: "text" };
import { ACTIVATIONS } from "../elementwise/activation.ts";
import { largeLanes, largeReduction } from "../reduce/reduction.ts";
import type { VectorSource } from "../vector_source.ts";
import source from "./rotate.wgsl" with { type: "text" };
import { type InputTransform, signStart, transformFactor } from "./rotation.ts";

/** Entries per workgroup. */
const CHUNK = 512;

/** Threads per workgroup; the butterflies of eight entries employ half of them. */
const LANES = 128;

/** What the kernel reads; the numbers are those of SOURCE in the WGSL. */
const SOURCES = { itself: 0, plain: 1, rms: 2, activation: 3, gated: 4 } as const;

/**
 * The transformed input of linear layers, 2^exponent · R x.
 *
 * @param x f32 `[rows, cols]`; with a gated activation `[1, up + cols]`.
 * @param from A function of a single row that is computed first.
 * @returns f32 `[rows, cols]`, owned by the caller.
 */
export async function transformInput(
	gpu: Gpu,
	x: Tensor,
	cols: number,
	transform: InputTransform,
	from?: VectorSource,
): Promise<Tensor> {
	const rows = from ? 1 : x.size / cols;
	const out = gpu.empty([rows, cols]);
	await run(gpu, { x, out, cols, transform, from });
	return out;
}

/** Transforms the rows of a matrix, f32 `[rows, cols]`, in place: each as an input. */
export async function transformRows(
	gpu: Gpu,
	matrix: Tensor,
	transform: InputTransform,
): Promise<void> {
	await run(gpu, { out: matrix, cols: matrix.shape[1], transform });
}

/**
 * Undoes the transform of the rows of a weight, f32 `[rows, cols]`, in place: the rows in their original
 * layout, bit-identical to those of `undoOnHost`.
 */
export async function undoTransform(
	gpu: Gpu,
	weight: Tensor,
	transform: InputTransform,
): Promise<void> {
	await run(gpu, { out: weight, cols: weight.shape[1], transform, undo: true });
}

async function run(
	gpu: Gpu,
	{ x, out, cols, transform, from, undo = false }: {
		/** Absent if `out` is changed in place. */
		x?: Tensor;
		out: Tensor;
		cols: number;
		transform: InputTransform;
		from?: VectorSource;
		undo?: boolean;
	},
): Promise<void> {
	const up = from?.op === "activation" ? from.up : undefined;
	const kind = !x ? "itself" : !from ? "plain" : up === undefined ? from.op : "gated";
	const kernel = await gpu.kernel({
		name: "rotate",
		source: largeReduction(gpu) + activate + source,
		constants: {
			...{ SOURCE: SOURCES[kind], UNDO: Number(undo), LANES: largeLanes(gpu, LANES) },
			KIND: from?.op === "activation" ? ACTIVATIONS[from.name] : 0,
		},
	});
	const { block = 1, seed = 0 } = transform.rotation ?? {};
	using unused = gpu.empty([1]);
	kernel.dispatch({
		params: uniform(
			[out.size, cols, Math.log2(block), signStart(seed), up ?? 0],
			[transformFactor(transform), from?.op === "rms" ? from.epsilon : 0],
		),
		tensors: [x ?? unused, from?.op === "rms" ? from.weight : x ?? unused, out],
		workgroups: Math.ceil(out.size / CHUNK),
	});
}
