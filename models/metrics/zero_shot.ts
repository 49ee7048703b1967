import { UserError } from "../../base/errors.ts";
import {
	type Question,
	type Questions,
	type ScoreRequest,
	trailingSpace,
	type ZeroShotTask,
} from "../../data/zero_shot_tasks.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { ZeroShot } from "./figures.ts";
import type { ModelFiles } from "../model_files.ts";
import type { TextTokenizer } from "../tokenizers/tokenizer.ts";
import { logLikelihoods } from "./log_likelihoods.ts";
import type { Prompt } from "./prompt_batch.ts";

/**
 * The part of a tokenizer that encodes requests.
 *
 * @internal
 */
export type RequestTokenizer = Pick<TextTokenizer, "encode" | "bosId" | "eosId">;

/**
 * The options of encoding requests.
 *
 * @internal
 */
export interface EncodeOptions {
	/** Whether each context begins with the tokenizer's special tokens. */
	specialTokens: boolean;
	/** The model's maximum length in tokens. */
	maxLength: number;
}

/** The encoded questions of a task. */
export interface PreparedTask {
	/** The task. */
	task: ZeroShotTask;
	/** Name of the data, for the record. */
	dataset: string;
	/** Whether the tokenizer adds special tokens. */
	specialTokens: boolean;
	/** The requested limit on the number of questions. */
	limit?: number;
	/** Whether the file already had requests. */
	prepared: boolean;
	/** The questions. */
	questions: Question[];
	/** One prompt per choice of each question. */
	prompts: Prompt[][];
	/** The number of prompts whose contexts were truncated at the front. */
	truncated: number;
}

/**
 * An encoder of requests by the rules of lm-evaluation-harness: trailing white space of a context moves
 * to the continuation; the continuation's tokens are those of the whole text beyond the context's. An
 * empty context becomes the tokenizer's BOS token, or else its EOS token. Requests that are too long are
 * truncated at the front.
 */
export class RequestEncoder {
	#known?: { context: string; ids: number[] };

	constructor(readonly tokenizer: RequestTokenizer, readonly options: EncodeOptions) {}

	/** @throws {UserError} If there are no tokens to score, or no token to begin with. */
	encode({ context, continuation }: ScoreRequest): Prompt & { isTruncated: boolean } {
		const { tokenizer, options: { maxLength, specialTokens } } = this;
		const space = trailingSpace(context);
		const before = context.slice(0, context.length - space.length);
		const after = space + continuation;
		let start = this.#encodeContext(before);
		let ids: number[];
		if (start.length === 0) {
			start = [this.#firstToken()];
			ids = [...start, ...tokenizer.encode(after, { specialTokens: false })];
		} else ids = tokenizer.encode(before + after, { specialTokens });
		const scored = ids.length - start.length;
		if (scored < 1) {
			throw new UserError(`The tokenizer gives the continuation "${continuation}" no token`);
		}
		if (scored > maxLength) {
			throw new UserError(
				`A continuation has ${scored} tokens, but the model takes at most ${maxLength}`,
			);
		}
		const isTruncated = ids.length > maxLength + 1; // the last token is not read
		return { tokens: Int32Array.from(ids.slice(-(maxLength + 1))), scored, isTruncated };
	}

	/** Caches the last context, as the choices of a question usually share it. */
	#encodeContext(context: string): number[] {
		if (this.#known?.context !== context) {
			const { tokenizer, options: { specialTokens } } = this;
			const ids = context === "" ? [] : tokenizer.encode(context, { specialTokens });
			this.#known = { context, ids };
		}
		return this.#known.ids;
	}

	#firstToken(): number {
		const { bosId, eosId } = this.tokenizer;
		const id = bosId ?? eosId;
		if (id !== undefined) return id;
		throw new UserError("A context is empty, and the tokenizer has no token to begin a text with");
	}
}

/**
 * Encodes the questions of a task.
 *
 * @param pause Called periodically; an error that it throws ends the work.
 * @throws {UserError} If a request cannot be encoded.
 */
export async function prepareTask(
	tokenizer: RequestTokenizer,
	{ questions, prepared }: Questions,
	{ pause, maxLength, ...about }:
		& EncodeOptions
		& Pick<PreparedTask, "task" | "dataset" | "limit">
		& { pause?: () => Promise<void> },
): Promise<PreparedTask> {
	const { specialTokens } = about;
	const encoder = new RequestEncoder(tokenizer, { specialTokens, maxLength });
	const prompts: Prompt[][] = [];
	let truncated = 0;
	for (const [i, { requests }] of questions.entries()) {
		prompts.push(requests.map((request) => {
			const { isTruncated, ...prompt } = encoder.encode(request);
			if (isTruncated) truncated++;
			return prompt;
		}));
		if (i % 100 === 0) await pause?.();
	}
	return { ...about, prepared, questions, prompts, truncated };
}

/** The options of {@link zeroShot}. */
export interface ZeroShotOptions {
	/** Tokens that go through a layer together. */
	batchTokens?: number;
	/** Called after each batch of each layer. */
	onProgress?(done: number, total: number): Promise<void>;
}

/**
 * The zero-shot accuracies of a model: how often the right choice has the greatest log-likelihood. All
 * tasks run through the layers together.
 *
 * @throws {UserError} If the model cannot be read or its log-likelihoods are NaN or infinite.
 */
export async function zeroShot(
	gpu: Gpu,
	model: ModelFiles,
	tasks: readonly PreparedTask[],
	options: ZeroShotOptions = {},
): Promise<ZeroShot[]> {
	const all = await logLikelihoods(gpu, model, tasks.flatMap(({ prompts }) => prompts), options);
	let first = 0;
	return tasks.map((prepared) => {
		const own = all.slice(first, first += prepared.questions.length);
		return scoreTask(prepared, own);
	});
}

/**
 * The accuracies computed from log-likelihoods.
 *
 * @param logLikelihoods One per choice of each question, in nats.
 */
export function scoreTask(
	{ task, dataset, prepared, specialTokens, limit, questions, truncated }: PreparedTask,
	logLikelihoods: readonly (readonly number[])[],
): ZeroShot {
	const isRight = questions.map(({ gold }, i) => argmax(logLikelihoods[i]) === gold);
	const { mean: acc, standardError: accStderr } = meanOf(isRight);
	const isRightPerCharacter = questions.map(({ gold, lengths }, i) =>
		argmax(logLikelihoods[i].map((sum, choice) => sum / lengths[choice])) === gold
	);
	const { mean: accNorm, standardError: accNormStderr } = meanOf(isRightPerCharacter);
	return {
		task: task.name,
		version: task.version,
		dataset,
		prepared,
		specialTokens,
		questions: questions.length,
		...(limit !== undefined && { limit }),
		truncated,
		acc,
		accStderr,
		...(task.isNormalized && { accNorm, accNormStderr }),
	};
}

/** The index of the greatest value, the first one of several. */
function argmax(values: readonly number[]): number {
	return values.indexOf(Math.max(...values));
}

/** The mean of hits, and its standard error from the sample deviation; 0 for a single value. */
function meanOf(hits: readonly boolean[]): { mean: number; standardError: number } {
	const n = hits.length;
	const mean = hits.filter(Boolean).length / n;
	const standardError = n > 1 ? Math.sqrt(mean * (1 - mean) / (n - 1)) : 0;
	return { mean, standardError };
}
