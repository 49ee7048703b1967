import { UserError } from "../base/errors.ts";
import type { Gpu } from "../gpu/device.ts";
import { scale } from "../gpu/kernels/elementwise/scale.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Activations } from "./activations.ts";
import type { LookupMatrix } from "./lookup_matrix.ts";
import type { PromptBatch } from "./metrics/prompt_batch.ts";
import type { OutsidePlaces } from "./places.ts";
import { project } from "./project.ts";
import type { StoredTensors } from "./stored_tensors.ts";

/** Bytes of embedded tokens, in f32, that are on the GPU at a time. */
const EMBED_BYTES = 1 << 30;

/** The embedding: computes the input of the first decoder layer from token ids. */
export class Embedding implements Disposable {
	readonly #gpu: Gpu;
	/** The id 0, u32 `[1]`: a position is looked up as row 0 of the rows that begin there. */
	#rowZero?: Tensor;

	/** @param positions The matrix of learned positions, if the model has one. */
	constructor(
		readonly stored: StoredTensors,
		readonly places: OutsidePlaces,
		readonly tokens: LookupMatrix,
		readonly positions: LookupMatrix | undefined,
	) {
		this.#gpu = stored.gpu;
	}

	/**
	 * The input of the first decoder layer for several batches; the embedding is read once.
	 *
	 * @param batches Token ids; all windows have the same length.
	 * @param start The position of the first token of each window.
	 * @returns f32 `[windows * length, hidden]` for each batch, owned by the caller.
	 * @throws {UserError} If an id is not in the vocabulary, a window exceeds the model's maximum length,
	 *   or the embedding has another shape than config.json states or holds NaN or infinite values.
	 */
	async embed(batches: readonly (readonly Int32Array[])[], start = 0): Promise<Tensor[]> {
		const length = batches[0][0].length;
		this.#checkEnd("The windows have", start + length);
		const ids = batches.map((windows) => {
			const ids = new Uint32Array(windows.length * length);
			windows.forEach((window, i) => ids.set(window, i * length));
			return ids;
		});
		return await this.#embed(ids, (i) => ids[i].map((_, token) => start + token % length));
	}

	/**
	 * The input of the first decoder layer for batches of prompts with shared prefixes.
	 *
	 * @returns f32 `[tokens, hidden]` for each batch, owned by the caller.
	 * @throws {UserError} As {@link embed} does.
	 */
	async embedPrompts(batches: readonly PromptBatch[]): Promise<Tensor[]> {
		this.#checkEnd("The longest prompt has", Math.max(...batches.map(({ length }) => length)));
		return await this.#embed(batches.map(({ ids }) => ids), (i) => batches[i].positions);
	}

	#checkEnd(what: string, end: number): void {
		const { name, architecture: { maxLength } } = this.stored.model;
		if (end <= maxLength) return;
		throw new UserError(
			`${what} ${end} tokens, but the model "${name}" takes at most ${maxLength}; ` +
				`use a smaller sequence-length`,
		);
	}

	async #embed(
		ids: readonly Uint32Array[],
		positionsOf: (batch: number) => Uint32Array,
	): Promise<Tensor[]> {
		const gpu = this.#gpu;
		const { name, architecture: { vocabularySize, embeddingSize, names } } = this.stored.model;
		const wrong = ids.flatMap((ids) => ids.find((id) => id >= vocabularySize) ?? []);
		if (wrong.length > 0) {
			throw new UserError(
				`Token id ${wrong[0]} is not in the vocabulary of "${name}" ` +
					`(${vocabularySize} ids); do the tokens belong to this model?`,
			);
		}
		const hidden = ids.map(({ length }) => gpu.empty([length, embeddingSize]));
		await this.tokens.lookUp(ids, hidden, false);
		for (const tensor of hidden) await this.#scale(tensor);
		for (const [i, narrow] of hidden.entries()) {
			hidden[i] = await project(this.stored, this.places.projectIn, narrow);
		}
		if (this.positions) {
			const { offset } = names.positions!;
			const rows = ids.map((_, i) => positionsOf(i).map((position) => position + offset));
			await this.positions.lookUp(rows, hidden, true);
		}
		return hidden;
	}

	/** Makes the matrices resident on the GPU, as {@link embedToken} requires. */
	async keep(): Promise<void> {
		await this.tokens.keep();
		if (!this.positions) return;
		this.#rowZero ??= this.#gpu.zeros([1], "u32");
		await this.positions.keep();
	}

	/**
	 * The input of the first decoder layer for one token whose id is in GPU memory; requires {@link keep}.
	 *
	 * @param id u32 `[1]`. The result is undefined if it is not in the vocabulary.
	 * @returns f32 `[1, hidden]`, owned by the caller.
	 */
	async embedToken(id: Tensor, position: number): Promise<Tensor> {
		const { embeddingSize, names } = this.stored.model.architecture;
		const narrow = this.#gpu.empty([1, embeddingSize]);
		await this.tokens.lookUpToken(id, narrow);
		await this.#scale(narrow);
		const hidden = await project(this.stored, this.places.projectIn, narrow);
		if (this.positions) {
			const row = position + names.positions!.offset;
			await this.positions.lookUpToken(this.#rowZero!, hidden, row);
		}
		return hidden;
	}

	async #scale(embedded: Tensor): Promise<void> {
		const { embeddingFactor } = this.stored.model.architecture;
		if (embeddingFactor) await scale(this.#gpu, embedded, embeddingFactor);
	}

	/** Embeds batches and stores the result as the input of the first layer; see {@link embed}. */
	async embedInto(
		activations: Activations,
		batches: readonly (readonly Int32Array[])[],
	): Promise<void> {
		const tokens = batches[0].length * batches[0][0].length;
		await this.#embedInto(activations, batches, tokens, (some) => this.embed(some));
	}

	/** Embeds prompts and stores the result as the input of the first layer; see {@link embedPrompts}. */
	async embedPromptsInto(
		activations: Activations,
		batches: readonly PromptBatch[],
	): Promise<void> {
		const tokens = Math.max(...batches.map(({ ids }) => ids.length));
		await this.#embedInto(activations, batches, tokens, (some) => this.embedPrompts(some));
	}

	/** @param tokens The tokens of the largest batch. */
	async #embedInto<Batch>(
		activations: Activations,
		batches: readonly Batch[],
		tokens: number,
		embed: (batches: readonly Batch[]) => Promise<Tensor[]>,
	): Promise<void> {
		const batchBytes = 4 * tokens * this.stored.model.architecture.hiddenSize;
		// Batches per read of the embedding: all batches at once could exceed the memory.
		const together = Math.max(1, Math.floor(EMBED_BYTES / batchBytes));
		for (let first = 0; first < batches.length; first += together) {
			const some = await embed(batches.slice(first, first + together));
			for (const [i, hidden] of some.entries()) {
				await activations.keep(first + i, 0, new Map([["hidden", hidden]]));
			}
		}
	}

	[Symbol.dispose](): void {
		this.tokens[Symbol.dispose]();
		this.positions?.[Symbol.dispose]();
		this.#rowZero?.[Symbol.dispose]();
		this.#rowZero = undefined;
	}
}
