import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Architecture } from "./architectures/architecture.ts";
import { LayerPlan, totalWidth } from "./layer_plan.ts";
import { PART_BYTES } from "./lookup_matrix.ts";
import type { ModelFiles } from "./model_files.ts";

/** The most bytes that a prompt leaves in the memory pool. */
const MOST_KEPT = 512 * 2 ** 20;

/**
 * Bytes of freed activations and unpacked weights that stay in the memory pool between the prompts of a
 * resident model: at most as many as its weights take. The pool counts within the budget of the GPU, which
 * returns it to the system where other work needs the memory.
 *
 * @param weights Bytes of the model's weights.
 */
export function keptBytes(weights: number): number {
	return Math.min(MOST_KEPT, weights);
}

/** The work that takes GPU memory besides the stored activations. */
export interface Work {
	/** Tokens of a batch. */
	batchTokens: number;
	/** The order of quantization; layers are only run if absent. */
	order?: "layer" | "module";
	/** Whether the calibration data also pass through the original model, and weights are corrected. */
	original?: boolean;
	/** Whether whole rows of linear layers are searched after all their blocks. */
	search?: boolean;
}

/**
 * An upper bound in bytes of the GPU memory for running, and quantizing, a decoder layer besides the
 * stored activations: the weights of this layer and the next, the working memory of quantizing a group
 * of linear layers, and a batch in the layer. Not all of it is needed at the same time.
 */
export function workingBytes({ architecture }: ModelFiles, work: Work): number {
	return Math.max(...plansOf(architecture).map((plan) => layerBytes(architecture, plan, work)));
}

function plansOf(architecture: Architecture): LayerPlan[] {
	return Array.from({ length: architecture.layers }, (_, i) => new LayerPlan(architecture, i));
}

function layerBytes(
	architecture: Architecture,
	plan: LayerPlan,
	work: Work,
): number {
	const { batchTokens, order } = work;
	const groups = groupSizes(plan);
	const weights = groups.reduce((sum, group) => sum + group.weights, 0);
	const widths = plan.live.map(totalWidth);
	// The inputs and outputs of an operation are live at the same time.
	const batch = 4 * batchTokens * Math.max(...widths.slice(1).map((width, i) => width + widths[i]));
	// This layer in f32, the next one as stored.
	const layers = (4 + 2) * weights;
	// On tensor cores also this layer in f16.
	if (!order) return layers + 2 * weights + Math.max(batch, 3 * tableBytes(architecture));
	const hessians = groups.map(({ cols }) => 4 * cols ** 2);
	const widest = Math.max(...hessians);
	const kept = hessianBytes(plan, work);
	// A group's compensated weights, quantized weights and packed bits; the factor is computed in place,
	// beside the Hessian.
	const inWork = Math.max(...groups.map((group) => 8.5 * group.weights));
	const factor = 1.1 * widest + (work.search ? searchBytes(plan) : 0);
	const one = layers + inWork + kept + Math.max(batch, factor);
	return work.original ? one + originalBytes(plan, work) : one;
}

/** Bytes of the Hessians, and cross terms, of experts that are observed together, unless one takes more. */
const BUNDLE_BYTES = 2 ** 30;

/**
 * The number of experts of an operation that are observed together, in one pass of the calibration data.
 *
 * @param cols Columns of their linear layers.
 * @param original Whether there are cross terms, too; see {@link Work.original}.
 */
export function expertsTogether(cols: number, original: boolean): number {
	return Math.max(1, Math.floor(BUNDLE_BYTES / (4 * cols ** 2 * (original ? 3 : 1))));
}

/**
 * Bytes of the Hessians that are kept at a time: those of a group, or of some experts and of all experts
 * together; in order "layer" those of all.
 */
function hessianBytes(plan: LayerPlan, { order, original = false }: Work): number {
	const together = [...Map.groupBy(plan.groups, ({ at }) => at).values()];
	const sizes = together.map((groups) => {
		const [{ cols, expert }] = groups;
		const all = order === "layer" ? Infinity : expertsTogether(cols, original);
		return 4 * cols ** 2 * (Math.min(groups.length, all) + (expert ? 1 : 0));
	});
	return order === "layer" ? sizes.reduce((a, b) => a + b, 0) : Math.max(...sizes);
}

/** The linear layers of each group: all their weights, those of the largest one, and their columns. */
function groupSizes(plan: LayerPlan): { weights: number; largest: number; cols: number }[] {
	return plan.groups.map(({ cols, linears }) => {
		const sizes = linears.map(({ rows }) => rows * cols);
		return { weights: sizes.reduce((a, b) => a + b, 0), largest: Math.max(...sizes), cols };
	});
}

/** What a search over rows adds to a factor: the damped Hessian, the residual, and changes of weights. */
function searchBytes(plan: LayerPlan): number {
	const sizes = groupSizes(plan).map(({ cols, largest }) => 4 * cols ** 2 + 8.5 * largest);
	return Math.max(...sizes);
}

/** What the second stream, through the original layer, and the correction by it add to a layer. */
function originalBytes(plan: LayerPlan, work: Work): number {
	const { batchTokens, order } = work;
	const groups = groupSizes(plan);
	const squares = groups.map(({ cols }) => 4 * cols ** 2);
	const widest = Math.max(...squares);
	// In order "layer", both streams pass through the original weights before they change.
	const weights = order === "layer" ? 0 : groups.reduce((sum, group) => sum + 4 * group.weights, 0);
	// Of each: the cross term, and the Hessian of its batches.
	const crossTerms = 2 * hessianBytes(plan, work);
	const cols = Math.max(...groups.map((group) => group.cols));
	const width = Math.max(...plan.live.map(totalWidth));
	// A batch of the other stream, and the difference of the two.
	const batch = 4 * batchTokens * (width + cols);
	// The factor of the Hessian, the one of more damping, and products of weights with them.
	const products = Math.max(...groups.map((group, i) => 2 * squares[i] + 12 * group.largest));
	return weights + crossTerms + Math.max(batch, 1.1 * widest + products);
}

/** Bytes of a part of the embedding or head in f32; its logits take at most as much. */
function tableBytes({ vocabularySize, embeddingSize }: Architecture): number {
	return Math.min(PART_BYTES, 4 * vocabularySize * embeddingSize);
}

/**
 * The elements per token that are stored between the decoder layers, before the first and after the
 * last.
 */
export function streamWidth({ architecture }: Pick<ModelFiles, "architecture">): number {
	return Math.max(architecture.hiddenSize, architecture.embeddingSize);
}

/** The most elements per token that are stored between two groups of linear layers. */
export function nearWidth({ architecture }: ModelFiles): number {
	const widths = plansOf(architecture).flatMap((plan) =>
		plan.groups.map(({ at }) => totalWidth(plan.live[plan.restartsOf(at).near]))
	);
	return Math.max(...widths);
}

/** The most elements per token that are stored on the way to a group where there is little room. */
export function leanWidth({ architecture }: ModelFiles): number {
	const widths = plansOf(architecture).flatMap((plan) =>
		plan.groups.map(({ at }) => totalWidth(plan.live[plan.restartsOf(at).lean]))
	);
	return Math.max(streamWidth({ architecture }), ...widths);
}

/**
 * The GPU memory in bytes that is available for the activations of `tokens` tokens.
 *
 * @throws {UserError} If the GPU memory, or the part of it that may be used, is too small to quantize.
 */
export async function activationBytes(
	gpu: Gpu,
	model: ModelFiles,
	tokens: number,
	work: Work,
): Promise<number> {
	const working = workingBytes(model, work);
	const width = work.order === "module" ? nearWidth(model) : streamWidth(model);
	const wanted = working + 4 * tokens * width * (work.original ? 2 : 1);
	const memory = await gpu.memoryFor(wanted);
	// Running a layer takes far less memory than quantizing it.
	if (memory >= working || !work.order) return Math.max(0, memory - working);
	throw new UserError(
		`${bytesText(memory)} of GPU memory is too little for "${model.name}": ` +
			`a decoder layer takes ${bytesText(working)}; ` +
			`use a smaller batch-tokens, or give more memory`,
	);
}
