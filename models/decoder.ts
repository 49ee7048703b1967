import type { DenseWeight } from "../codecs/dense/weight.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Architecture } from "./architectures/architecture.ts";
import { Embedding } from "./embedding.ts";
import { runToken } from "./fusion.ts";
import { Head } from "./head.ts";
import { loadLayer, type LoadLayerOptions, loadLinear, prefetchLayer } from "./layer_loader.ts";
import type { LayerWeights } from "./layer_weights.ts";
import { LookupMatrix, PART_BYTES } from "./lookup_matrix.ts";
import type { ModelFiles } from "./model_files.ts";
import { kindOf } from "./ops/mod.ts";
import type { OpContext, Window } from "./ops/op.ts";
import { outsidePlaces } from "./places.ts";
import { type Registers, updateRegisters } from "./registers.ts";
import { type Rotary, rotaryLength } from "./rotary.ts";
import { type FrequencyDtype, RopeTables } from "./rope_table.ts";
import { StoredTensors } from "./stored_tensors.ts";

/** The options of {@link Decoder}. */
export interface DecoderOptions {
	/** Bytes of an embedding or head that are on the GPU at a time; {@link PART_BYTES} if absent. */
	partBytes?: number;
	/** The rounding of rotary frequencies; "f32" if absent. */
	ropeFrequencies?: FrequencyDtype;
}

/**
 * A model on the GPU: loads and runs decoder layers, and owns the state that layers share.
 *
 * @internal
 */
export class Decoder implements Disposable {
	readonly embedding: Embedding;
	readonly head: Head;
	readonly #stored: StoredTensors;
	readonly #ropeTables: RopeTables;
	/** The rotary positions of the layers, each once. */
	readonly #rotaries: readonly Rotary[];

	constructor(
		readonly gpu: Gpu,
		readonly model: ModelFiles,
		{ partBytes = PART_BYTES, ropeFrequencies = "f32" }: DecoderOptions = {},
	) {
		const stored = new StoredTensors(gpu, model);
		this.#stored = stored;
		this.#ropeTables = new RopeTables(gpu, model.architecture.maxLength, ropeFrequencies);
		const { steps, layers } = model.architecture;
		const ops = Array.from({ length: layers }, (_, layer) => steps(layer)).flat();
		const rotaries = new Set(ops.map((op) => kindOf(op).rotary?.(op)));
		this.#rotaries = [...rotaries].filter((rotary) => rotary !== undefined);
		const places = outsidePlaces(model.architecture);
		const [tokens, positions, head] = [places.embedding, places.positions, places.head]
			.map((place) => place && new LookupMatrix(stored, place, partBytes));
		this.embedding = new Embedding(stored, places, tokens!, positions);
		this.head = new Head(stored, places, head ?? tokens!);
	}

	get architecture(): Architecture {
		return this.model.architecture;
	}

	/**
	 * Uploads a decoder layer.
	 *
	 * @throws {UserError} If a tensor is missing, has another shape than config.json wants, or holds NaN
	 *   or infinite values.
	 */
	loadLayer(
		index: number,
		options?: LoadLayerOptions & { packed?: false },
	): Promise<LayerWeights<DenseWeight>>;
	loadLayer(index: number, options: LoadLayerOptions): Promise<LayerWeights>;
	loadLayer(index: number, options: LoadLayerOptions = {}): Promise<LayerWeights> {
		return loadLayer(this.#stored, index, options);
	}

	/**
	 * Uploads a linear layer of a plain model, in f32.
	 *
	 * @throws {UserError} As {@link loadLayer} does.
	 */
	async loadLinear(layer: number, module: string): Promise<DenseWeight> {
		return await loadLinear(this.#stored, layer, module);
	}

	/** Uploads the weights of the next layer while the GPU is busy; {@link loadLayer} then uses them. */
	prefetchLayer(index: number): void {
		prefetchLayer(this.#stored, index);
	}

	/**
	 * Makes the tensors outside the layers resident on the GPU: embedding, positions and head as stored,
	 * projections and final norm in f32. {@link embedding} and {@link head} then read no files.
	 *
	 * @throws {UserError} If a tensor is missing, has another shape than config.json wants, or holds NaN
	 *   or infinite values.
	 */
	async keepEnds(): Promise<void> {
		await this.embedding.keep();
		const { matrix } = this.head;
		if (matrix !== this.embedding.tokens) await matrix.keep();
		const { projectIn, projectOut, finalNorm } = outsidePlaces(this.architecture);
		for (const place of [projectIn, projectOut, ...finalNorm]) {
			if (place) await this.#stored.keep(place, "f32");
		}
	}

	/**
	 * Runs the operations `from` to `to` (exclusive) of a decoder layer on the registers. A register is
	 * freed once no later operation of the layer reads it.
	 */
	async run(
		weights: LayerWeights,
		registers: Registers,
		window: Window,
		from = 0,
		to = weights.plan.ops.length,
	): Promise<void> {
		const { ops, live } = weights.plan;
		const { gpu } = this;
		const context: OpContext = { gpu, weights, registers, window, ropeTables: this.#ropeTables };
		const isWhole = from === 0 && to === ops.length;
		const isCached = typeof window !== "number" && "capacity" in window;
		if (isWhole && isCached && weights.groups.size > 0 && registers.get("hidden")!.shape[0] === 1) {
			return await runToken(context, registers);
		}
		for (let at = from; at < to; at++) {
			const outputs = await kindOf(ops[at]).run(ops[at], context);
			updateRegisters(registers, outputs, live[at + 1]);
		}
	}

	/**
	 * The shortest text whose tokens have the rotary positions of a text of some length in tokens: with
	 * dynamic NTK and LongRoPE, they depend on it.
	 */
	positionsOf(length: number): number {
		return Math.max(1, ...this.#rotaries.map((rotary) => rotaryLength(rotary, length)));
	}

	[Symbol.dispose](): void {
		this.embedding[Symbol.dispose]();
		this.head.matrix[Symbol.dispose]();
		this.#stored[Symbol.dispose]();
		this.#ropeTables[Symbol.dispose]();
	}
}
