import { setImmediate } from "node:timers/promises";
import { UserError } from "../base/errors.ts";
import { promptIds } from "../models/generation/generation.ts";
import { checkSampling } from "../models/generation/sampling.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { ChatMessage } from "../models/tokenizers/chat_template.ts";
import { renderChat } from "../models/tokenizers/chat_template.ts";
import { ApiError } from "./api_error.ts";
import type { TextRequest } from "./engine.ts";
import {
	type ChatBody,
	chatForm,
	type CompletionBody,
	completionForm,
	MOST_CHOICES,
	randomSeed,
	readForm,
} from "./forms.ts";

/** The model that a server offers. */
export interface ServedModel {
	files: ModelFiles;
	/** The name that requests give. */
	id: string;
	/** The most tokens of a text with its prompt. */
	context: number;
}

/** A request for texts. */
export interface Job {
	kind: "chat" | "completion";
	/** By index of the choice. */
	texts: TextRequest[];
	/** What precedes the text of each choice in the response; empty but for `echo`. */
	echoes: string[];
	/** Tokens of all prompts, each counted once. */
	promptTokens: number;
	/** Choices for each prompt. */
	choices: number;
	stream: boolean;
	/** Whether a stream ends with the usage. */
	includeUsage: boolean;
}

/**
 * Characters of a prompt per token of the context. A longer one is refused before it is encoded, for which
 * all other clients wait; texts have some four or five per token.
 */
const CHARACTERS_PER_TOKEN = 16;

/** What `max_tokens` of /v1/completions is by default, as in OpenAI's API. */
const COMPLETION_TOKENS = 16;

/** The body of /v1/chat/completions as a job. @throws {ApiError} If something of it cannot be done. */
export function chatJob(body: unknown, model: ServedModel): Job {
	const form = readForm(chatForm, body);
	checkModel(form.model, model);
	const { max_tokens: old, max_completion_tokens: most } = form;
	if (old != null && most != null && old !== most) {
		throw invalid("max_tokens", `is ${old}, but "max_completion_tokens" is ${most}; give one`);
	}
	if (form.top_logprobs != null && !form.logprobs) {
		throw invalid("top_logprobs", 'needs "logprobs": true');
	}
	const messages = form.messages.map(chatMessage);
	checkLength(messages, "messages", model);
	const prompt = refusing("messages", () => {
		const { source, tokenizer } = model.files;
		const text = renderChat(source, messages, model.id);
		checkLength([{ content: text }], "messages", model);
		return tokenizer.encode(text, { specialTokens: false });
	});
	if (prompt.length === 0) throw invalid("messages", "have no tokens");
	const logprobs = form.logprobs ? form.top_logprobs ?? 0 : undefined;
	const parts = { prompts: [prompt], echoes: [""], asked: most ?? old, logprobs };
	return job("chat", form, parts, model);
}

/** The body of /v1/completions as a job. @throws {ApiError} If something of it cannot be done. */
export async function completionJob(body: unknown, model: ServedModel): Promise<Job> {
	const form = readForm(completionForm, body);
	checkModel(form.model, model);
	const { logprobs = undefined, echo } = form;
	if (echo && logprobs != null) throw invalid("echo", 'cannot be combined with "logprobs"');
	const given = typeof form.prompt === "string" || typeof form.prompt[0] === "number"
		? [form.prompt as string | number[]]
		: form.prompt as (string | number[])[];
	const { files } = model;
	const { vocabularySize } = files.architecture;
	const prompts: number[][] = [];
	for (const prompt of given) {
		if (typeof prompt === "string") checkLength([{ content: prompt }], "prompt", model);
		else if (prompt.some((id) => id >= vocabularySize)) {
			throw invalid("prompt", `has a token id that is not below ${vocabularySize}`);
		}
		prompts.push(refusing("prompt", () => promptIds(files, { prompt })));
		await setImmediate(); // others need not wait for all of them
	}
	const echoes = given.map((prompt) =>
		!echo ? "" : typeof prompt === "string" ? prompt : files.tokenizer.decode(prompt)
	);
	const asked = form.max_tokens ?? COMPLETION_TOKENS;
	const parts = { prompts, echoes, asked, logprobs: logprobs ?? undefined };
	return job("completion", form, parts, model);
}

interface Parts {
	prompts: number[][];
	echoes: string[];
	/** The most tokens of each text; all that fit if absent. */
	asked?: number | null;
	logprobs?: number;
}

function job(
	kind: Job["kind"],
	form: ChatBody | CompletionBody,
	{ prompts, echoes, asked, logprobs }: Parts,
	{ context }: ServedModel,
): Job {
	const n = form.n ?? 1;
	if (n * prompts.length > MOST_CHOICES) {
		throw invalid("n", `and the prompts make ${n * prompts.length} choices of ${MOST_CHOICES}`);
	}
	if (form.stream_options && !form.stream) throw invalid("stream_options", 'needs "stream": true');
	const seed = form.seed ?? randomSeed();
	const stops = typeof form.stop === "string" ? [form.stop] : form.stop ?? [];
	const texts = prompts.flatMap((prompt) => {
		const maxTokens = tokensLeft(kind, prompt.length, asked, context);
		return Array.from({ length: n }, () => ({ prompt, maxTokens }));
	}).map(({ prompt, maxTokens }, choice): TextRequest => ({
		prompt,
		isAnswer: kind === "chat",
		maxTokens,
		sampling: {
			temperature: form.temperature ?? 1,
			topP: Math.max(form.top_p ?? 1, Number.MIN_VALUE),
			topK: form.top_k != null && form.top_k > 0 ? form.top_k : undefined,
			repetitionPenalty: form.repetition_penalty ?? undefined,
			seed: seed + choice,
		},
		stops,
		logprobs,
	}));
	refusing("temperature", () => checkSampling(texts[0].sampling));
	return {
		kind,
		texts,
		echoes: echoes.flatMap((echo) => new Array<string>(n).fill(echo)),
		promptTokens: prompts.reduce((sum, { length }) => sum + length, 0),
		choices: n,
		stream: form.stream ?? false,
		includeUsage: form.stream_options?.include_usage ?? false,
	};
}

/** The most tokens that may follow a prompt. */
function tokensLeft(
	kind: Job["kind"],
	promptTokens: number,
	asked: number | null | undefined,
	context: number,
): number {
	const left = context - promptTokens;
	if (left >= 1 && (asked ?? 1) <= left) return asked ?? left;
	const param = kind === "chat" ? "messages" : "prompt";
	const wanted = asked == null ? "" : `, and ${asked} more are asked for`;
	throw new ApiError(
		400,
		`The maximum context length is ${context} tokens; the ${param} ` +
			`${kind === "chat" ? "have" : "has"} ${promptTokens}${wanted}. Reduce one of them`,
		{ param, code: "context_length_exceeded" },
	);
}

/** @throws {ApiError} If texts are far too long for the context, or too many. */
function checkLength(
	texts: readonly { content: string }[],
	param: "messages" | "prompt",
	{ context }: ServedModel,
): void {
	const most = CHARACTERS_PER_TOKEN * context;
	const characters = texts.reduce((sum, { content }) => sum + content.length, 0);
	if (characters <= most && texts.length <= context) return;
	const found = characters > most ? `${characters} characters` : `${texts.length} messages`;
	throw new ApiError(
		400,
		`The maximum context length is ${context} tokens, for which ${found} are too many`,
		{ param, code: "context_length_exceeded" },
	);
}

function checkModel(asked: string, { id }: ServedModel): void {
	if (asked === id) return;
	throw new ApiError(
		404,
		`The model "${asked.slice(0, 200)}" is not here; this server has "${id}"`,
		{
			param: "model",
			code: "model_not_found",
		},
	);
}

/** A message as templates know it: with a text, and without roles of later APIs. */
function chatMessage({ role, content }: ChatBody["messages"][number]): ChatMessage {
	const text = typeof content === "string"
		? content
		: (content ?? []).map(({ text }) => text).join("\n");
	return { role: role === "developer" ? "system" : role, content: text };
}

function invalid(param: string, problem: string): ApiError {
	return new ApiError(400, `Invalid value of "${param}": "${param}" ${problem}`, {
		param,
		code: "invalid_value",
	});
}

/** Does work on a field whose errors are the client's. */
function refusing<Result>(param: string, work: () => Result): Result {
	try {
		return work();
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		throw new ApiError(400, error.message, { param, code: "invalid_value" });
	}
}
