import {
	continueTokens,
	type GenerationEnd,
	type ResidentModel,
	stopIdsOf,
} from "../models/generation/generation.ts";
import { PrefixCaches } from "../models/generation/prefix_caches.ts";
import type { SamplingOptions } from "../models/generation/sampling.ts";
import type { CacheDtype } from "../gpu/kernels/attention/attention_decode.ts";
import { FairGate, Shares } from "./fair_gate.ts";
import type { Metrics } from "./metrics.ts";
import { type Piece, TextPieces } from "./text_pieces.ts";

/** A text to generate. */
export interface TextRequest {
	/** Token ids, at least one. */
	prompt: readonly number[];
	/** Whether the text is the answer in a chat rather than the continuation of the prompt. */
	isAnswer: boolean;
	/** At least 1; the prompt and these tokens are within the context of the engine. */
	maxTokens: number;
	sampling: SamplingOptions;
	stops: readonly string[];
	/** The most likely tokens whose log-probabilities are given; none are given without it. */
	logprobs?: number;
}

/** How a text ended, and what it took. */
export interface TextEnd {
	reason: "stop" | "length";
	promptTokens: number;
	/** Tokens of the prompt that were in a KV cache already. */
	reusedTokens: number;
	tokens: number;
}

export interface EngineOptions {
	/** Texts at a time. */
	parallel: number;
	/** The most tokens of a text with its prompt. */
	context: number;
	cache: CacheDtype;
}

/**
 * Generates texts for several clients in turn. A turn is a part of a prompt or some tokens; the client
 * that has used the GPU the least has the next one.
 */
export class Engine implements Disposable {
	readonly shares = new Shares();
	/** The places for texts, each with a KV cache. */
	readonly places: FairGate;
	readonly #turns: FairGate;
	readonly #caches: PrefixCaches;
	readonly #stopIds: readonly number[];

	/** @throws {UserError} If the stop tokens in the model's files are none. */
	constructor(
		readonly model: ResidentModel,
		readonly options: EngineOptions,
		readonly metrics: Metrics,
	) {
		this.places = new FairGate(options.parallel, this.shares);
		this.#turns = new FairGate(1, this.shares);
		this.#caches = new PrefixCaches(model, options.parallel, options.cache);
		this.#stopIds = stopIdsOf(model.files);
	}

	/**
	 * Generates a text.
	 *
	 * @param client Who shares the GPU with others.
	 * @throws The signal's reason, if it is aborted.
	 * @throws {UserError} If the logits are NaN or infinite.
	 */
	async *text(
		request: TextRequest,
		client: string,
		signal: AbortSignal,
	): AsyncGenerator<Piece, TextEnd, void> {
		const { prompt, maxTokens, sampling, logprobs, stops } = request;
		const start = performance.now();
		using _share = this.shares.join(client);
		using _place = await this.places.enter(client, signal);
		const turn = <Result>(work: () => Promise<Result>) => this.#turn(client, signal, work);
		const held = await turn(async () => this.#caches.take(prompt, prompt.length + maxTokens - 1));
		this.metrics.count("prompt_tokens_total", prompt.length);
		this.metrics.count("prompt_tokens_reused_total", held.reused);
		const { tokenizer } = this.model.files;
		const pieces = new TextPieces(tokenizer, request.isAnswer ? [] : prompt, stops);
		const ids = [...prompt];
		const options = { ...sampling, maxTokens, logprobs, stopIds: this.#stopIds, kept: held.cache };
		const tokens = continueTokens(this.model, prompt, { ...options, turn, signal });
		const end = (reason: TextEnd["reason"]): TextEnd => ({
			reason,
			promptTokens: prompt.length,
			reusedTokens: held.reused,
			tokens: ids.length - prompt.length,
		});
		try {
			for (;;) {
				const { done, value } = await tokens.next();
				signal.throwIfAborted();
				if (done) return end(endOf(value.reason));
				if (ids.length === prompt.length) {
					this.metrics.observe("first_token_seconds", (performance.now() - start) / 1000);
				}
				ids.push(value.id);
				this.metrics.count("generated_tokens_total");
				yield pieces.push(value);
				if (pieces.isStopped) return end("stop");
			}
		} finally {
			await tokens.return(undefined!);
			held.release(ids);
		}
	}

	/** Does GPU work when it is the client's turn. */
	async #turn<Result>(
		client: string,
		signal: AbortSignal,
		work: () => Promise<Result>,
	): Promise<Result> {
		using _turn = await this.#turns.enter(client, signal);
		const start = performance.now();
		try {
			return await work();
		} finally {
			this.shares.add(client, performance.now() - start);
		}
	}

	[Symbol.dispose](): void {
		this.#caches[Symbol.dispose]();
	}
}

function endOf(reason: GenerationEnd["reason"]): TextEnd["reason"] {
	return reason === "stop-token" ? "stop" : "length";
}
