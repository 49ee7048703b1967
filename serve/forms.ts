import { z } from "zod";
import { didYouMean } from "../base/did_you_mean.ts";
import { ApiError } from "./api_error.ts";

// The bodies of requests. Fields that change nothing here are taken; those that would change the text, but
// cannot, are refused unless they ask for what happens anyway.

/** The most answers to a request, of all its prompts together. */
export const MOST_CHOICES = 128;
const MOST_STOPS = 16;
const STOP_LENGTH = 1000;
/** The greatest seed; answers to one request have seeds that follow each other. */
const SEED = 2 ** 52;

/** A field that may be null, and one that may have these values only. */
const unsupported = (...neutral: unknown[]) =>
	z.unknown().refine(
		(value) =>
			value == null || neutral.some((one) => JSON.stringify(one) === JSON.stringify(value)),
		"is not supported by this server",
	).optional();
/** A field that changes nothing. */
const ignored = z.unknown().optional();

/** A text of whole characters: a stop text that begins in the middle of one would never be found. */
const wellFormed = z.string().refine((text) => text.isWellFormed(), "has half a surrogate pair");
const stop = wellFormed.min(1).max(STOP_LENGTH);

const common = {
	model: z.string(),
	frequency_penalty: unsupported(0),
	logit_bias: unsupported({}),
	max_tokens: z.int().min(1).nullish(),
	metadata: ignored,
	n: z.int().min(1).max(MOST_CHOICES).nullish(),
	presence_penalty: unsupported(0),
	repetition_penalty: z.number().min(0.01).max(100).nullish(),
	seed: z.int().min(-SEED).max(SEED).nullish(),
	service_tier: ignored,
	stop: z.union([stop, z.array(stop).max(MOST_STOPS)]).nullish(),
	stream: z.boolean().nullish(),
	stream_options: z.strictObject({
		include_usage: z.boolean().nullish(),
		include_obfuscation: ignored,
	}).nullish(),
	temperature: z.number().min(0).max(2).nullish(),
	top_k: z.int().min(-1).nullish(),
	top_p: z.number().min(0).max(1).nullish(),
	user: ignored,
};

const part = z.strictObject({ type: z.literal("text"), text: z.string() });
const content = z.union([z.string(), z.array(part)]);
const none = { name: unsupported(), cache_control: ignored };

const message = z.discriminatedUnion("role", [
	z.strictObject({ role: z.enum(["system", "developer", "user"]), content, ...none }),
	z.strictObject({
		role: z.literal("assistant"),
		content: content.nullish(),
		// What answers have, which clients send back.
		annotations: unsupported([]),
		audio: unsupported(),
		function_call: unsupported(),
		reasoning_content: unsupported(""),
		refusal: unsupported(),
		tool_calls: unsupported([]),
		...none,
	}),
]);

/** The body of /v1/chat/completions. */
export const chatForm = z.strictObject({
	...common,
	messages: z.array(message).min(1),
	audio: unsupported(),
	function_call: unsupported("none", "auto"),
	functions: unsupported([]),
	logprobs: z.boolean().nullish(),
	max_completion_tokens: z.int().min(1).nullish(),
	modalities: unsupported(["text"]),
	parallel_tool_calls: ignored,
	prediction: unsupported(),
	prompt_cache_key: ignored,
	prompt_cache_retention: ignored,
	reasoning_effort: unsupported("none"),
	response_format: unsupported({ type: "text" }),
	safety_identifier: ignored,
	store: unsupported(false),
	tool_choice: unsupported("none", "auto"),
	tools: unsupported([]),
	top_logprobs: z.int().min(0).max(20).nullish(),
	verbosity: unsupported("medium"),
	web_search_options: unsupported(),
});
export type ChatBody = z.output<typeof chatForm>;

const ids = z.array(z.int().min(0)).min(1);

/** The body of /v1/completions. */
export const completionForm = z.strictObject({
	...common,
	prompt: z.union([z.string(), ids, z.array(z.string()).min(1), z.array(ids).min(1)]),
	best_of: unsupported(1),
	echo: z.boolean().nullish(),
	logprobs: z.int().min(0).max(20).nullish(),
	suffix: unsupported(""),
});
export type CompletionBody = z.output<typeof completionForm>;

/**
 * The body of a request by its form.
 *
 * @throws {ApiError} If it does not have the form; it names the first field that has not.
 */
export function readForm<Form extends z.ZodObject>(form: Form, body: unknown): z.output<Form> {
	if (typeof body !== "object" || body === null || Array.isArray(body)) {
		throw new ApiError(400, "The body must be a JSON object");
	}
	const result = form.safeParse(body);
	if (result.success) return result.data;
	throw errorOf(form, deepest(result.error.issues[0]));
}

/** The seed of random numbers, where the client gives none. */
export function randomSeed(): number {
	return crypto.getRandomValues(new Uint32Array(1))[0];
}

type Issue = z.core.$ZodIssue;

/** Within a union, the issue of the alternative that went the furthest. */
function deepest(issue: Issue): Issue {
	if (issue.code !== "invalid_union" || issue.errors.length === 0) return issue;
	const inner = issue.errors.flatMap(([first]) => first ? [deepest(first)] : []);
	const found = inner.reduce((a, b) => b.path.length > a.path.length ? b : a, inner[0]);
	if (!found || found.path.length === 0) return issue;
	return { ...found, path: [...issue.path, ...found.path] };
}

function errorOf(form: z.ZodObject, issue: Issue): ApiError {
	const place = pathText(issue.path);
	if (issue.code === "unrecognized_keys") {
		const key = issue.keys[0].slice(0, 100);
		const guess = issue.path.length === 0 ? didYouMean(key, Object.keys(form.shape)) : undefined;
		const meant = guess === undefined ? "" : `; did you mean "${guess}"?`;
		const param = place ? `${place}.${key}` : key;
		return new ApiError(400, `Unrecognized request argument supplied: ${param}${meant}`, {
			param,
			code: "unknown_parameter",
		});
	}
	const isUnsupported = issue.code === "custom" && issue.message.startsWith("is not supported");
	return new ApiError(400, `Invalid value of "${place}": ${issue.message}`, {
		param: place,
		code: isUnsupported ? "unsupported_parameter" : "invalid_value",
	});
}

/** "messages[0].role" */
function pathText(path: readonly PropertyKey[]): string {
	return path.map((key, i) =>
		typeof key === "number" ? `[${key}]` : `${i > 0 ? "." : ""}${String(key)}`
	)
		.join("");
}
