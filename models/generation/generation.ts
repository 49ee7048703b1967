import { UserError } from "../../base/errors.ts";
import { bytesText } from "../../base/units.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { CacheDtype } from "../../gpu/kernels/attention/attention_decode.ts";
import { argmax } from "../../gpu/kernels/reduce/argmax.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { readJson } from "../../storage/json.ts";
import { Decoder, type DecoderOptions } from "../decoder.ts";
import type { LayerWeights } from "../layer_weights.ts";
import { keptBytes } from "../memory_plan.ts";
import type { ModelFiles } from "../model_files.ts";
import type { Registers } from "../registers.ts";
import { type ChatMessage, renderChat } from "../tokenizers/chat_template.ts";
import { TextStream } from "../tokenizers/text_stream.ts";
import { KeyValueCache } from "./kv_cache.ts";
import type { PrefixCaches } from "./prefix_caches.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";
import { type ChosenToken, GreedySteps, SampledSteps } from "./steps.ts";

/** The longest prompt in tokens: some kernels have a workgroup per token in one grid dimension. */
const LONGEST_PROMPT = 65535;

/** Milliseconds of a prompt's GPU work that are queued before the host waits, so that it can be aborted. */
const PROMPT_MS = 100;

/** Tokens of a prompt that run in one turn where texts take turns. */
const TURN_TOKENS = 512;

/** The options of {@link ResidentModel.load}. */
export interface ResidentOptions extends Pick<DecoderOptions, "ropeFrequencies"> {
	/** Ends the loading. */
	signal?: AbortSignal;
	/** Called after each layer. */
	onProgress?(done: number, total: number): void;
}

/** A resident model, packed or plain: all its weights stay in GPU memory. */
export class ResidentModel implements Disposable {
	readonly #layers: LayerWeights[] = [];
	/** Measured milliseconds of a decoder layer per token of a prompt. */
	#pace = Infinity;
	/** Bytes of freed memory that prompts leave for the next one. */
	#kept = 0;

	private constructor(readonly files: ModelFiles, readonly decoder: Decoder) {}

	/**
	 * Uploads all weights.
	 *
	 * @param files Must stay open as long as the model is used.
	 * @throws {UserError} If the model is damaged or does not fit into GPU memory.
	 * @throws {DOMException} If the signal aborts loading.
	 */
	static async load(
		gpu: Gpu,
		files: ModelFiles,
		options: ResidentOptions = {},
	): Promise<ResidentModel> {
		const { signal, onProgress, ropeFrequencies } = options;
		const model = new ResidentModel(files, new Decoder(gpu, files, { ropeFrequencies }));
		const { layers } = files.architecture;
		try {
			const start = gpu.memory.current;
			await model.decoder.keepEnds();
			const before = gpu.memory.current;
			for (let layer = 0; layer < layers; layer++) {
				signal?.throwIfAborted();
				model.#layers.push(await model.decoder.loadLayer(layer, { packed: true, stored: true }));
				gpu.trim(); // memory of the packed sources
				if (layer === 0) await model.#checkMemory(gpu.memory.current - before);
				onProgress?.(layer + 1, layers);
				await gpu.host.nextTask();
			}
			await model.#warmUp();
			model.#kept = keptBytes(gpu.memory.current - start);
			return model;
		} catch (error) {
			model[Symbol.dispose]();
			throw error;
		}
	}

	/** Compiles the kernels, so that the first text does not wait for them. */
	async #warmUp(): Promise<void> {
		const { gpu } = this.decoder;
		const { architecture } = this.files;
		const prompt = 2;
		if (architecture.maxLength <= prompt) return;
		for (const dtype of ["f32", "f16"] as const) {
			using cache = new KeyValueCache(gpu, architecture, prompt + 1, dtype);
			for (const count of [prompt, 1]) {
				using logits = (await this.logits(new Int32Array(count), cache))!;
				using best = await argmax(gpu, logits);
				await gpu.read(best, "u32");
			}
		}
		gpu.trim();
	}

	/** Rejects a model that does not fit before an allocation fails. */
	async #checkMemory(layerBytes: number): Promise<void> {
		const { gpu } = this.decoder;
		const { layers } = this.files.architecture;
		const wanted = gpu.memory.current + (layers - 1) * layerBytes;
		const memory = await gpu.memoryFor(wanted);
		if (memory >= wanted) return;
		throw new UserError(
			`${bytesText(memory)} of GPU memory is too little for "${this.files.name}": ` +
				`its weights take ${bytesText(wanted)}`,
		);
	}

	/**
	 * The logits after the last of some tokens.
	 *
	 * @param ids The tokens that follow those in the cache; they are appended to it.
	 * @returns f32 `[1, vocabulary]`, owned by the caller; undefined if the signal aborted.
	 * @throws {UserError} If an id is not in the vocabulary or the text exceeds the model's maximum length.
	 * @throws {RangeError} If the tokens exceed the capacity of the cache.
	 */
	async logits(
		ids: Int32Array,
		cache: KeyValueCache,
		signal?: AbortSignal,
	): Promise<Tensor | undefined> {
		const { gpu } = this.decoder;
		this.#checkRoom(cache, ids.length);
		const [hidden] = await this.decoder.embedding.embed([[ids]], cache.length);
		const registers: Registers = new Map([["hidden", hidden]]);
		let [since, queued] = [performance.now(), 0];
		for (const weights of this.#layers) {
			await this.decoder.run(weights, registers, cache);
			if (ids.length === 1) continue;
			// The host prepares further layers meanwhile, but a long prompt must end soon after its signal.
			if (++queued * ids.length * this.#pace < PROMPT_MS) gpu.flush();
			else {
				await gpu.idle();
				const now = performance.now();
				this.#pace = (now - since) / queued / ids.length;
				[since, queued] = [now, 0];
			}
			await gpu.host.nextTask();
			if (!signal?.aborted) continue;
			gpu.free(registers.get("hidden")!);
			return undefined;
		}
		cache.length += ids.length;
		using all = registers.get("hidden")!;
		if (ids.length === 1) return await this.decoder.head.logits(all);
		const [tokens, width] = all.shape;
		using last = gpu.empty([1, width]);
		gpu.copy(all.view((tokens - 1) * width, [1, width]), last);
		return await this.decoder.head.logits(last);
	}

	/**
	 * The logits after one more token, whose id is in GPU memory; does not wait for the GPU.
	 *
	 * @param id u32 `[1]`. The result is undefined if it is not in the vocabulary.
	 * @returns f32 `[1, vocabulary]`, owned by the caller.
	 * @throws {RangeError} If the cache is full.
	 */
	async logitsAfter(id: Tensor, cache: KeyValueCache): Promise<Tensor> {
		this.#checkRoom(cache, 1);
		const registers: Registers = new Map([
			["hidden", await this.decoder.embedding.embedToken(id, cache.length)],
		]);
		for (const weights of this.#layers) await this.decoder.run(weights, registers, cache);
		cache.length++;
		using hidden = registers.get("hidden")!;
		return await this.decoder.head.logits(hidden);
	}

	/**
	 * Whether a text that gets longer by some tokens must be run again from its start: with dynamic NTK and
	 * LongRoPE, the rotation of keys in the cache depends on the length of the text.
	 */
	mustRestart({ length }: KeyValueCache, tokens: number): boolean {
		const { decoder } = this;
		return length > 0 && decoder.positionsOf(length) !== decoder.positionsOf(length + tokens);
	}

	/** Returns the memory of a prompt's activations to the system, but for what the next prompt may take. */
	trim(): void {
		this.decoder.gpu.trim(this.#kept);
	}

	#checkRoom({ capacity, length }: KeyValueCache, tokens: number): void {
		if (length + tokens <= capacity) return;
		throw new RangeError(
			`A cache of ${capacity} tokens, ${length} of them in use, cannot take ${tokens}`,
		);
	}

	/** Frees the weights. */
	[Symbol.dispose](): void {
		for (const weights of this.#layers) weights[Symbol.dispose]();
		this.decoder[Symbol.dispose]();
		this.decoder.gpu.trim();
	}
}

/** The options of continuing a text. */
export interface ContinueOptions extends SamplingOptions {
	/** The most tokens to generate; 256 if absent. */
	maxTokens?: number;
	/** Tokens that end the text. */
	stopIds?: readonly number[];
	/**
	 * The format of the KV cache: f32 (exact, the default) or f16 (half the memory).
	 */
	cache?: CacheDtype;
	/**
	 * A KV cache with the first tokens of the prompt, at least one less than it has. It stays the caller's;
	 * without it, the text has a cache of its own.
	 */
	kept?: KeyValueCache;
	/** Caches from which the text takes its own, with what it shares with earlier texts. */
	caches?: PrefixCaches;
	/** Gives the log-probability of each token, and those of this many most likely ones. */
	logprobs?: number;
	/**
	 * Runs each piece of GPU work, a part of the prompt or some tokens, so that several texts take turns.
	 */
	turn?<Result>(work: () => Promise<Result>): Promise<Result>;
	/** Ends the text when aborted. */
	signal?: AbortSignal;
}

/** The options of {@link generate}. */
export interface GenerateOptions extends ContinueOptions {
	/** The prompt as text or token ids. Either this or `messages` must be given. */
	prompt?: string | readonly number[];
	/** A conversation, for models with a chat template. */
	messages?: readonly ChatMessage[];
	/** Tokens that end the text; those in the model's files if absent. */
	stopIds?: readonly number[];
}

/** A generated token. */
export interface GeneratedToken {
	/** Its number in the vocabulary. */
	id: number;
	/**
	 * The text that the token adds: empty while a character is incomplete. The last token flushes the
	 * rest.
	 */
	text: string;
}

/** The reason why a text ended, and timings. */
export interface GenerationEnd {
	/** A stop token, `maxTokens`, the model's maximum length, or the abort signal. */
	reason: "stop-token" | "max-tokens" | "max-length" | "interrupted";
	/** Tokens of the prompt. */
	promptTokens: number;
	/** Those of them that were in a KV cache already. */
	reusedTokens: number;
	/** Generated tokens. */
	tokens: number;
	/** Seconds from the start to the first generated token. */
	promptSeconds: number;
	/** Seconds from the first generated token to the last, without the time spent in the consumer. */
	seconds: number;
}

/**
 * Continues a text, token by token.
 *
 * @returns An iterator over the generated tokens, including the stop token; its return value is a
 *   {@link GenerationEnd}.
 * @throws {UserError} If an option is out of range, the prompt is empty or exceeds the model's maximum
 *   length, there is no chat template for messages, or the logits are NaN or infinite.
 */
export async function* generate(
	model: ResidentModel,
	options: GenerateOptions,
): AsyncGenerator<GeneratedToken, GenerationEnd, void> {
	const { files } = model;
	const prompt = promptIds(files, options);
	// An answer is a text of its own: its first word has no leading space.
	const stream = new TextStream(files.tokenizer, options.messages ? [] : prompt);
	const stopIds = options.stopIds ?? stopIdsOf(files);
	const tokens = continueTokens(model, prompt, { ...options, stopIds });
	try {
		while (true) {
			const { value, done } = await tokens.next();
			if (done) return value;
			const { id, reason } = value;
			const added = reason === "stop-token" ? "" : stream.push(id);
			yield { id, text: added + (reason ? stream.end() : "") };
		}
	} finally {
		await tokens.return(undefined!); // frees the cache if the caller stopped early
	}
}

/** A generated token, without its text. */
export interface ContinuedToken extends ChosenToken {
	/** Why the text ends with this token. */
	reason?: GenerationEnd["reason"];
}

/**
 * Continues a sequence of token ids, without a tokenizer.
 *
 * @param prompt At least one token id.
 * @returns An iterator over the generated ids; the last one comes with the reason why the text ends.
 * @throws {UserError} If an option is out of range, the prompt exceeds the model's maximum length, or
 *   the logits are NaN or infinite.
 * @throws {RangeError} If the text exceeds the cache of the options.
 */
export async function* continueTokens(
	model: ResidentModel,
	prompt: readonly number[],
	options: ContinueOptions = {},
): AsyncGenerator<ContinuedToken, GenerationEnd, void> {
	const start = performance.now();
	const { maxTokens = 256, cache: dtype = "f32", kept, logprobs, signal } = options;
	const turn = options.turn ?? ((work) => work());
	const { files } = model;
	const { gpu } = model.decoder;
	const { maxLength } = files.architecture;
	if (!(Number.isSafeInteger(maxTokens) && maxTokens >= 1)) {
		throw new UserError(`maxTokens must be a whole number of at least 1, found ${maxTokens}`);
	}
	const sampler = new Sampler(options);
	const text = [...prompt];
	const promptTokens = text.length;
	if (promptTokens > maxLength) {
		throw new UserError(
			`The prompt has ${promptTokens} tokens, but the model "${files.name}" takes at most ${maxLength}`,
		);
	}
	if (promptTokens > LONGEST_PROMPT) {
		throw new UserError(
			`The prompt has ${promptTokens} tokens; at most ${LONGEST_PROMPT} can be processed at once`,
		);
	}
	const stopIds = new Set(options.stopIds);
	const capacity = Math.min(maxLength, promptTokens + maxTokens - 1); // the last token is not run
	const held = kept ? undefined : options.caches?.take(prompt, capacity);
	using _held = { [Symbol.dispose]: () => held?.release(text) };
	const given = kept ?? held?.cache;
	using own = given ? undefined : new KeyValueCache(gpu, files.architecture, capacity, dtype);
	const cache = given ?? own!;
	checkKept(cache, promptTokens, capacity);
	const end: GenerationEnd = {
		reason: "interrupted",
		promptTokens,
		reusedTokens: cache.length,
		tokens: 0,
		promptSeconds: 0,
		seconds: 0,
	};
	if (options.turn && !await startPrompt(model, text, cache, turn, signal)) return end;
	using steps = sampler.isGreedy && logprobs === undefined
		? new GreedySteps(model, cache, text, signal)
		: new SampledSteps(model, cache, text, sampler, logprobs, signal);
	let since = start;
	while (!signal?.aborted) {
		const left = Math.min(maxTokens - end.tokens, capacity - cache.length);
		const tokens = await turn(() => steps.next(left));
		if (tokens.length === 0) break;
		const seconds = (performance.now() - since) / 1000;
		if (end.tokens === 0) end.promptSeconds = seconds;
		else end.seconds += seconds;
		for (const token of tokens) {
			const { id } = token;
			if (signal?.aborted) return end;
			text.push(id);
			end.tokens++;
			const reason = stopIds.has(id)
				? "stop-token"
				: end.tokens === maxTokens
				? "max-tokens"
				: text.length > maxLength
				? "max-length"
				: undefined;
			yield { ...token, reason };
			if (reason) return { ...end, reason };
		}
		await gpu.host.nextTask();
		since = performance.now();
	}
	return end;
}

/** @throws {RangeError} If a cache holds the whole prompt, or has no room for the text. */
function checkKept(cache: KeyValueCache, promptTokens: number, capacity: number): void {
	if (cache.length < promptTokens && cache.capacity >= capacity) return;
	throw new RangeError(
		`A cache of ${cache.capacity} tokens, ${cache.length} of them in use, cannot take a text of ` +
			`${capacity} whose prompt has ${promptTokens}`,
	);
}

/**
 * Runs a long prompt up to its last tokens, some in each turn.
 *
 * @returns False if the signal aborted.
 */
async function startPrompt(
	model: ResidentModel,
	prompt: readonly number[],
	cache: KeyValueCache,
	turn: NonNullable<ContinueOptions["turn"]>,
	signal?: AbortSignal,
): Promise<boolean> {
	const { decoder } = model;
	const positions = decoder.positionsOf(prompt.length);
	while (prompt.length - cache.length > TURN_TOKENS) {
		const end = cache.length + TURN_TOKENS;
		if (decoder.positionsOf(end) !== positions) break; // the whole prompt would be run again
		const ids = Int32Array.from(prompt.slice(cache.length, end));
		const isDone = await turn(async () => {
			using logits = await model.logits(ids, cache, signal);
			return logits !== undefined;
		});
		if (!isDone || signal?.aborted) return false;
	}
	return true;
}

/**
 * The token ids of a prompt or a conversation.
 *
 * @throws {UserError} If not exactly one is given, it has no tokens, or there is no chat template.
 */
export function promptIds(
	files: ModelFiles,
	{ prompt, messages }: Pick<GenerateOptions, "prompt" | "messages">,
): number[] {
	if ((prompt === undefined) === (messages === undefined)) {
		throw new UserError("Give either a prompt or messages");
	}
	const { tokenizer } = files;
	const ids = messages
		? tokenizer.encode(renderChat(files.source, messages, files.name), { specialTokens: false })
		: typeof prompt === "string"
		? tokenizer.encode(prompt)
		: [...prompt!];
	if (ids.length === 0 && tokenizer.bosId !== undefined) ids.push(tokenizer.bosId);
	if (ids.length === 0) {
		throw new UserError(
			`The prompt has no tokens, and "${files.name}" has none that begins a text; give a longer one`,
		);
	}
	return ids;
}

/**
 * The stop tokens of a model: those of generation_config.json or, without it, config.json; and the
 * tokenizer's.
 *
 * @throws {UserError} If `eos_token_id` is neither a token id nor a list of them.
 */
export function stopIdsOf(files: ModelFiles): number[] {
	const { source } = files;
	const own = source.file("generation_config.json");
	const generation = source.has("generation_config.json") ? readJson(own).eos_token_id : undefined;
	const found = generation ?? files.config.eos_token_id ?? [];
	const ids = Array.isArray(found) ? found : [found];
	if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0)) {
		throw new UserError(
			`"${(generation === undefined ? source.file("config.json") : own).path}": ` +
				`eos_token_id must be a token id or a list of them, found ${JSON.stringify(found)}`,
		);
	}
	const { eosId } = files.tokenizer;
	return [...new Set([...ids, ...(eosId === undefined ? [] : [eosId])])];
}
