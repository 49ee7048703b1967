import { UserError } from "../../base/errors.ts";
import type { Recording } from "../../gpu/device.ts";
import { argmax, NOT_FINITE } from "../../gpu/kernels/reduce/argmax.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { ResidentModel } from "./generation.ts";
import type { KeyValueCache } from "./kv_cache.ts";
import { logProbabilities, type Logprobs } from "./logprobs.ts";
import type { Sampler } from "./sampling.ts";

/** A token of a text. */
export interface ChosenToken {
	/** Its number in the vocabulary. */
	id: number;
	/** Absent unless asked for. */
	logprobs?: Logprobs;
}

/** A source of the tokens of a text, some at a time. */
export interface Steps extends Disposable {
	/**
	 * The next tokens.
	 *
	 * @param most The most tokens that may follow.
	 * @returns At least one token; none if the signal aborted.
	 * @throws {UserError} If logits are NaN or infinite.
	 */
	next(most: number): Promise<ChosenToken[]>;
}

/** Sampling: draws each token on the host, where the log-probabilities are computed too. */
export class SampledSteps implements Steps {
	#input: Int32Array;

	/**
	 * @param cache Holds the start of the text, at least one token less.
	 * @param text The prompt, to which the caller appends generated tokens.
	 */
	constructor(
		readonly model: ResidentModel,
		readonly cache: KeyValueCache,
		readonly text: readonly number[],
		readonly sampler: Sampler,
		/** The most likely tokens whose log-probabilities are given too; none are given without it. */
		readonly logprobs?: number,
		readonly signal?: AbortSignal,
	) {
		this.#input = Int32Array.from(text.slice(cache.length));
	}

	async next(): Promise<ChosenToken[]> {
		const { model, cache, text, sampler, signal } = this;
		const { gpu } = model.decoder;
		if (model.mustRestart(cache, this.#input.length)) {
			cache.length = 0;
			this.#input = Int32Array.from(text);
		}
		using logits = await model.logits(this.#input, cache, signal);
		if (!logits) return [];
		const values = await gpu.read(logits);
		if (!values.every(Number.isFinite)) refuseNonFinite(model);
		const logprobs = this.logprobs === undefined
			? undefined
			: logProbabilities(values, this.logprobs); // before a penalty changes the values
		const id = sampler.next(values, text);
		if (this.#input.length > 1) model.trim();
		this.#input = Int32Array.of(id);
		return [logprobs ? { id, logprobs: logprobs(id) } : { id }];
	}

	[Symbol.dispose](): void {}
}

/** Milliseconds of GPU work that are queued before tokens are read back. */
const GREEDY_MS = 40;
/** The most tokens that are queued before they are read back. */
const GREEDY_TOKENS = 32;

/**
 * Greedy decoding. The GPU selects each token and continues with it; the host reads several tokens back
 * at once instead of waiting for each. A step is recorded once and then replayed, as steps differ only
 * in the position.
 */
export class GreedySteps implements Steps {
	/** The last token, followed by a ring of the latest ones. */
	readonly #ids: Tensor;
	/** The tokens to run from the start of the text: the prompt, or a text that must be run again. */
	#prompt?: Int32Array;
	/** Tokens so far. */
	#count = 0;
	/** Measured milliseconds per token. */
	#pace = Infinity;
	/** Whether the logits after the returned tokens are NaN or infinite. */
	#isBroken = false;
	#recorded?: { recording: Recording; count: number };

	constructor(
		readonly model: ResidentModel,
		/** Holds the start of the text, at least one token less. */
		readonly cache: KeyValueCache,
		/** The prompt, to which the caller appends generated tokens. */
		readonly text: readonly number[],
		readonly signal?: AbortSignal,
	) {
		this.#prompt = Int32Array.from(text.slice(cache.length));
		this.#ids = model.decoder.gpu.empty([1 + GREEDY_TOKENS], "u32");
	}

	async next(most: number): Promise<ChosenToken[]> {
		const { model: { decoder: { gpu } } } = this;
		if (this.#isBroken) refuseNonFinite(this.model);
		const start = performance.now();
		const before = this.#count;
		if (this.model.mustRestart(this.cache, this.#prompt?.length ?? 1)) {
			this.#forget(); // it has the rotation of the shorter text
			this.cache.length = 0;
			this.#prompt = Int32Array.from(this.text);
		}
		const prompt = this.#prompt;
		if (prompt) {
			this.#prompt = undefined;
			using logits = await this.model.logits(prompt, this.cache, this.signal);
			if (!logits) return [];
			await this.#choose(logits);
			this.#count++;
		} else {
			const wanted = Math.min(GREEDY_TOKENS, most, Math.floor(GREEDY_MS / this.#pace));
			do await this.#step(); while (
				this.#count < before + wanted && !this.model.mustRestart(this.cache, 1)
			);
		}
		const all = await gpu.read(this.#ids, "u32");
		const count = this.#count - before;
		const ids = Array.from({ length: count }, (_, i) => all[this.#slot(before + i)]);
		const wrong = ids.indexOf(NOT_FINITE);
		if (wrong === 0) refuseNonFinite(this.model);
		if (wrong > 0) { // the tokens before it may end the text
			this.#isBroken = true;
			ids.length = wrong;
		}
		if (prompt) this.model.trim();
		else this.#pace = (performance.now() - start) / count;
		return ids.map((id) => ({ id }));
	}

	async #step(): Promise<void> {
		const { model, cache } = this;
		const { gpu } = model.decoder;
		const recorded = this.#recorded;
		if (recorded && gpu.replay(recorded.recording, this.#count - recorded.count)) {
			cache.length++;
		} else {
			this.#forget();
			const recording = await gpu.record(async () => {
				using logits = await model.logitsAfter(this.#ids.view(0, [1]), cache);
				await this.#choose(logits);
			});
			this.#recorded = { recording, count: this.#count };
		}
		this.#count++;
	}

	async #choose(logits: Tensor): Promise<void> {
		const count = this.#count;
		const { gpu } = this.model.decoder;
		await argmax(gpu, logits, this.#ids, (steps) => this.#slot(count + steps));
	}

	#slot(count: number): number {
		return 1 + count % GREEDY_TOKENS;
	}

	#forget(): void {
		if (this.#recorded) this.model.decoder.gpu.release(this.#recorded.recording);
		this.#recorded = undefined;
	}

	[Symbol.dispose](): void {
		this.#forget();
		this.model.decoder.gpu.free(this.#ids);
	}
}

function refuseNonFinite({ files }: ResidentModel): never {
	throw new UserError(
		`The logits of "${files.name}" are not numbers: activations exceed what f32 holds`,
	);
}
