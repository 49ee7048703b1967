import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { DenseExperts } from "../codecs/experts/dense_experts.ts";
import { DenseWeight } from "../codecs/dense/weight.ts";
import { outputErrorParts, relativeError } from "../gpu/kernels/reduce/output_error.ts";
import { undoTransform } from "../gpu/kernels/rotation/rotate.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { batchWindows, paceBatches } from "../models/calibration.ts";
import { roleOf } from "../models/ops/experts.ts";
import { Decoder } from "../models/decoder.ts";
import { PART_BYTES } from "../models/lookup_matrix.ts";
import type { LayerWeights } from "../models/layer_weights.ts";
import { DivergenceProbe } from "../models/metrics/divergence_probe.ts";
import { spreadWindows } from "../models/metrics/final_states.ts";
import type { Registers } from "../models/registers.ts";
import { ArtifactStore } from "../pipeline/run/artifacts.ts";
import { scaleLinears } from "../pipeline/run/scale_linears.ts";
import type { GroupContext, LinearContext, LinearLayer, ModelContext } from "../pipeline/stage.ts";
import { accessWithin, observeGroups } from "./observe_groups.ts";
import type { Chain, RatedLinear } from "./rate_plan.ts";
import type { Losses } from "./sensitivities.ts";

/** Tokens of the compared windows that pass through the layers together. */
const TOGETHER = 16384;

/** Bytes of weights in f32 up to which all decoder layers are kept so; beyond, as stored. */
const WIDE_BYTES = 8 * 2 ** 30;

/** Bytes of the original's logits that are kept; beyond them they are computed for each measurement. */
const MOST_LOGITS = 4 * 2 ** 30;

/**
 * If losses are estimated: the tokens of the Hessians, per column of the widest one, and the decoder layers
 * of which one is quantized at each rate. Output errors hardly need more.
 */
const TOKENS_PER_COLUMN = 16;
const LAYERS_ALIKE = 4;

/** How losses are measured. */
export interface MeasureOptions {
	/** Calibration windows that are compared. */
	windows: number;
	/**
	 * Whether one rate is measured for each linear layer and the others are estimated by the ratio of their
	 * output errors: its own in some decoder layers, elsewhere that of the last linear layer of its name.
	 */
	isCheap: boolean;
}

/** The losses of a linear layer that are still on the GPU. */
interface Measured {
	name: string;
	rates: readonly number[];
	/** f32 `[measured rates * batches]`. */
	results: Tensor;
	/** The factor by which the only measured loss is multiplied for each rate; absent if all are measured. */
	ratios?: readonly number[];
}

/**
 * Measures what each linear layer alone loses at each of its rates: the KL divergence of the predictions
 * of a model in which only this one is quantized from those of the original.
 *
 * Hessians are those of all calibration data, or of enough for estimates, in the original model. A
 * measurement begins with the input of its own decoder layer. All layers are on the GPU meanwhile. The
 * calibration data are before the first layer again afterwards.
 */
export async function measureLosses(
	context: ModelContext,
	chain: Chain,
	linears: readonly RatedLinear[],
	options: MeasureOptions,
): Promise<Losses> {
	const { gpu } = context;
	const model = context.get("model-files");
	const { activations, batches, length } = context.get("calibration");
	const partBytes = gpu.software ? PART_BYTES : Math.min(gpu.maxBinding, 8 * PART_BYTES);
	const windows = batches.flat();
	const chosen = spreadWindows(windows.length, options.windows).map((i) => windows[i]);
	const total = linears.reduce((sum, { weights }) => sum + weights, 0);
	const stored = 4 * total > WIDE_BYTES;
	const keepsLogits = await hasRoom(
		context,
		(stored ? 2 : 4) * total,
		4 * chosen.length * length * model.architecture.vocabularySize,
	);
	using decoder = new Decoder(gpu, model, { partBytes });
	await decoder.keepEnds();
	using layers = new DisposableStack();
	const weights: LayerWeights[] = [];
	for (let layer = 0; layer < decoder.architecture.layers; layer++) {
		weights.push(layers.use(await decoder.loadLayer(layer, { stored })));
	}
	const inputs = await decoder.embedding.embed(batchWindows(chosen, TOGETHER));
	const states: Tensor[] = [];
	for (const input of inputs) states.push(await statesFrom(0, input));
	using probe = new DivergenceProbe(decoder, states, length);
	if (keepsLogits) await probe.keepLogits();

	const rated = new Map(linears.map((linear) => [linear.name, linear]));
	const isRated = ({ rates }: RatedLinear) => rates.length > 0;
	const losses: Losses = {};
	let done = 0;
	const cols = weights.flatMap(({ plan }) => plan.groups.map(({ cols }) => cols));
	const observed = options.isCheap ? batchesFor(batches, Math.max(...cols)) : batches.length;
	const ratiosOf = new Map<string, number[]>(); // by module
	for (const [layer, own] of weights.entries()) {
		const { groups, pools } = await observeGroups(context, chain, decoder, own, observed);
		for (const { context: groupContext, store } of groups) {
			await scaleLinears(groupContext);
			for (const { stage, options } of chain.before) await stage.run(groupContext, options);
			const measured: Measured[] = [];
			for (const linear of groupContext.linears) {
				const plan = rated.get(linear.name)!;
				if (isRated(plan)) measured.push(await measureLinear(linear, plan, groupContext, store));
				context.emit({
					type: "progress",
					stage: "allocate",
					done: ++done,
					total: linears.length,
					text: `layer ${layer + 1}, ${linear.module}`,
				});
				gpu.free(linear.original, linear.weight, linear.quantized);
			}
			store[Symbol.dispose]();
			for (const linear of measured) losses[linear.name] = await lossesOf(linear);
		}
		for (const pool of pools) pool[Symbol.dispose]();
		for (const [batch, input] of inputs.entries()) {
			inputs[batch] = await run(layer, layer + 1, input);
			gpu.free(input);
		}
	}
	gpu.free(...inputs);
	await decoder.embedding.embedInto(activations, batches);
	gpu.trim();
	return losses;

	/** The output of layers `first` to `end` (exclusive), owned by the caller. */
	async function run(first: number, end: number, input: Tensor): Promise<Tensor> {
		const registers: Registers = new Map([["hidden", input.view(0, input.shape)]]);
		for (let layer = first; layer < end; layer++) {
			await decoder.run(weights[layer], registers, length);
		}
		return registers.get("hidden")!;
	}

	/** The head's input from that of a layer. */
	async function statesFrom(layer: number, input: Tensor): Promise<Tensor> {
		using hidden = await run(layer, weights.length, input);
		return await decoder.head.finish(hidden);
	}

	/** Queues the measurements of a linear layer. */
	async function measureLinear(
		linear: LinearLayer,
		{ rates }: RatedLinear,
		groupContext: GroupContext,
		store: ArtifactStore,
	): Promise<Measured> {
		const { layer: { index: layer } } = groupContext;
		const { name, module } = linear;
		const middle = rates.length >> 1;
		const measured = options.isCheap ? [middle] : [...rates.keys()];
		const role = roleOf(module);
		const known = ratiosOf.get(role);
		const isTried = options.isCheap && (layer === 0 || layer % LAYERS_ALIKE === 1 || !known);
		const results = gpu.zeros([measured.length * probe.batches]);
		const errors: number[] = [];
		for (const i of isTried ? rates.keys() : measured) {
			const { matrix, error } = await quantizedAt(linear, rates[i], groupContext, store, isTried);
			if (error !== undefined) errors.push(error);
			const place = measured.indexOf(i);
			if (place >= 0) await measure(layer, module, matrix, results, place);
			else gpu.free(matrix);
			await context.pause();
		}
		if (!isTried) return { name, rates, results, ratios: known };
		const ratios = errors.map((error) => errors[middle] > 0 ? error / errors[middle] : 0);
		if (errors[middle] > 0) ratiosOf.set(role, ratios);
		return { name, rates, results, ratios };
	}

	/** The losses of a linear layer by rate. */
	async function lossesOf(
		{ rates, results, ratios }: Measured,
	): Promise<Record<string, number>> {
		const found = await gpu.read(results);
		gpu.free(results);
		const klOf = (i: number) => {
			let kl = 0;
			for (let batch = 0; batch < probe.batches; batch++) kl += found[i * probe.batches + batch];
			return Math.max(0, kl); // rounding alone can make it negative
		};
		return Object.fromEntries(
			rates.map((rate, i) => [rate, ratios ? klOf(0) * ratios[i] : klOf(i)]),
		);
	}

	/** Queues the measurement of the model with one other matrix, which is freed. */
	async function measure(
		layer: number,
		module: string,
		matrix: Tensor,
		results: Tensor,
		index: number,
	): Promise<void> {
		const restore = putInPlace(weights[layer], module, matrix);
		try {
			for (const [batch, input] of inputs.entries()) {
				using states = await statesFrom(layer, input);
				await probe.measure(batch, states, results, index * probe.batches + batch);
				await paceBatches(gpu, 1);
			}
		} finally {
			restore();
			gpu.free(matrix);
		}
	}

	/**
	 * A linear layer quantized at a rate, as the matrix of the plain model, owned by the caller.
	 *
	 * @param hasError Whether its output error is computed, too.
	 */
	async function quantizedAt(
		linear: LinearLayer,
		rate: number,
		groupContext: GroupContext,
		store: ArtifactStore,
		hasError: boolean,
	): Promise<{ matrix: Tensor; error?: number }> {
		const { stage, options: ofStage } = chain.quantizer;
		const { option } = stage.rates!;
		const own = stage.optionsOf!(ofStage, linear.name, { [option]: rate });
		using linearStore = new ArtifactStore(store);
		const copy: LinearLayer = {
			...linear,
			weight: gpu.clone(linear.weight),
			quantized: gpu.empty([linear.rows, linear.cols]),
		};
		const linearContext: LinearContext = {
			...groupContext,
			...accessWithin(linearStore, groupContext),
			linear: copy,
		};
		await stage.run(linearContext, own);
		const { original, transform } = linear;
		let error: number | undefined;
		if (hasError) {
			using parts = await outputErrorParts(gpu, original, copy.quantized, store.get("hessian"));
			error = await relativeError(parts);
		}
		if (transform) await undoTransform(gpu, copy.quantized, transform);
		gpu.free(copy.weight);
		copy.draft?.[Symbol.dispose]();
		return { matrix: copy.quantized, error };
	}
}

/**
 * Puts a matrix in place of a linear layer's.
 *
 * @param matrix f32 `[rows, cols]`; it stays the caller's.
 * @returns A function that undoes it.
 */
function putInPlace(weights: LayerWeights, module: string, matrix: Tensor): () => void {
	const { linears, experts, plan } = weights;
	const loaded = linears.get(module)!;
	if (!loaded.isView) {
		linears.set(module, { ...loaded, weight: new DenseWeight(matrix) });
		return () => linears.set(module, loaded);
	}
	const { expert, linears: group } = plan.groups.find(({ linears }) =>
		linears.some((linear) => linear.module === module)
	)!;
	const { role } = group.find((linear) => linear.module === module)!;
	const { gpu, shape: [rows, cols] } = matrix;
	const other = new DenseExperts(gpu, rows, cols, [expert!.index], expert!.of);
	gpu.copy(matrix, other.matrix(expert!.index));
	const known = weights.expertsOf(role!);
	// Its product replaces that of the expert's own matrix, which comes first.
	experts.set(role!, { ...known, parts: [...known.parts, other] });
	return () => {
		experts.set(role!, known);
		other[Symbol.dispose]();
	};
}

/**
 * Whether the original's logits have room on the GPU beside the decoder layers.
 *
 * @throws {UserError} If the layers have none.
 */
async function hasRoom(
	{ gpu, get }: ModelContext,
	layerBytes: number,
	logitBytes: number,
): Promise<boolean> {
	const keeps = logitBytes <= MOST_LOGITS;
	const held = gpu.memory.current + layerBytes;
	const memory = await gpu.memoryFor(held + (keeps ? logitBytes : 0));
	if (memory >= held) return keeps && memory >= held + logitBytes;
	throw new UserError(
		`Stage "allocate" keeps all decoder layers of "${get("model-files").name}" on the GPU, which ` +
			`takes ${bytesText(layerBytes)} beside ${
				bytesText(gpu.memory.current)
			} in use, but there are ` +
			`${bytesText(memory)}; give more memory, or sensitivities that were measured elsewhere`,
	);
}

/**
 * The number of batches, from the first one on, whose tokens are enough for Hessians of estimates.
 *
 * @param cols The most columns of a Hessian.
 */
export function batchesFor(batches: readonly (readonly Int32Array[])[], cols: number): number {
	let tokens = 0;
	const enough = batches.findIndex((windows) => {
		for (const { length } of windows) tokens += length;
		return tokens >= TOKENS_PER_COLUMN * cols;
	});
	return enough < 0 ? batches.length : enough + 1;
}
