import { VERSION } from "../base/version.ts";
import type { TextTokenizer } from "../models/tokenizers/tokenizer.ts";
import type { TextEnd } from "./engine.ts";
import type { Job, ServedModel } from "./requests.ts";
import type { TokenPiece } from "./text_pieces.ts";

/** A text of a choice, or a part of one. */
export interface ChoiceText {
	index: number;
	text: string;
	tokens: readonly TokenPiece[];
	/** Set with the last part. */
	reason?: TextEnd["reason"];
}

/** The objects of OpenAI's API that answer a job. */
export class Answers {
	readonly #head: Record<string, unknown>;
	readonly #tokenizer: TextTokenizer;

	constructor(readonly job: Job, model: ServedModel) {
		const isChat = job.kind === "chat";
		this.#tokenizer = model.files.tokenizer;
		this.#head = {
			id: `${isChat ? "chatcmpl" : "cmpl"}-${crypto.randomUUID().replaceAll("-", "")}`,
			object: isChat ? `chat.completion${job.stream ? ".chunk" : ""}` : "text_completion",
			created: Math.floor(Date.now() / 1000),
			model: model.id,
			system_fingerprint: `billm-${VERSION}`,
		};
	}

	/** The whole response. */
	whole(choices: readonly ChoiceText[], ends: readonly TextEnd[]): unknown {
		const isChat = this.job.kind === "chat";
		return {
			...this.#head,
			choices: choices.map((choice) => ({
				index: choice.index,
				...isChat
					? { message: { role: "assistant", content: choice.text, refusal: null } }
					: { text: choice.text },
				logprobs: this.#logprobs(choice),
				finish_reason: choice.reason,
			})),
			usage: this.#usage(ends),
		};
	}

	/** The event that begins a choice; undefined if none does. */
	begin(index: number): unknown {
		if (this.job.kind === "chat") return this.#chunk(index, { role: "assistant", content: "" });
		const echo = this.job.echoes[index];
		return echo === "" ? undefined : this.part({ index, text: echo, tokens: [] });
	}

	/** The event for a part of a choice. */
	part(choice: ChoiceText): unknown {
		return this.#chunk(choice.index, { content: choice.text }, choice);
	}

	/** The event that ends a choice. */
	end(index: number, reason: TextEnd["reason"]): unknown {
		return this.#chunk(index, {}, { index, text: "", tokens: [], reason });
	}

	/** The last event of a stream with its usage. */
	usage(ends: readonly TextEnd[]): unknown {
		return { ...this.#head, choices: [], usage: this.#usage(ends) };
	}

	#chunk(index: number, delta: unknown, choice?: ChoiceText): unknown {
		const { kind, includeUsage } = this.job;
		const content = kind === "chat" ? { delta } : { text: choice?.text ?? "" };
		const logprobs = choice && choice.tokens.length > 0 ? this.#logprobs(choice) : null;
		const finish_reason = choice?.reason ?? null;
		return {
			...this.#head,
			choices: [{ index, ...content, logprobs, finish_reason }],
			...includeUsage && { usage: null },
		};
	}

	#usage(ends: readonly TextEnd[]): unknown {
		const { promptTokens, choices } = this.job;
		const completion = ends.reduce((sum, { tokens }) => sum + tokens, 0);
		// As the prompt, what was reused of it counts once for all of its choices.
		const reused = ends.filter((_, i) => i % choices === 0)
			.reduce((sum, { reusedTokens }) => sum + reusedTokens, 0);
		return {
			prompt_tokens: promptTokens,
			completion_tokens: completion,
			total_tokens: promptTokens + completion,
			prompt_tokens_details: { cached_tokens: reused },
		};
	}

	#logprobs({ index, tokens }: ChoiceText): unknown {
		if (this.job.texts[index].logprobs === undefined) return null;
		if (this.job.kind === "chat") {
			const content = tokens.map(({ id, logprobs }) => ({
				...this.#token(id, logprobs.logprob),
				top_logprobs: logprobs.top.map((top) => this.#token(top.id, top.logprob)),
			}));
			return { content, refusal: null };
		}
		const text = (id: number) => this.#token(id, 0).token;
		return {
			tokens: tokens.map(({ id }) => text(id)),
			token_logprobs: tokens.map(({ logprobs }) => logprobs.logprob),
			top_logprobs: tokens.map(({ logprobs: { top } }) =>
				// Of ids with one text, the most likely counts.
				Object.fromEntries(top.toReversed().map(({ id, logprob }) => [text(id), logprob]))
			),
			text_offset: tokens.map(({ start }) => start),
		};
	}

	#token(id: number, logprob: number) {
		const bytes = this.#tokenizer.bytesOf(id);
		return { token: new TextDecoder().decode(bytes), logprob, bytes: [...bytes] };
	}
}
