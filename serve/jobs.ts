import type { Answers, ChoiceText } from "./answers.ts";
import type { ApiError } from "./api_error.ts";
import type { Engine, TextEnd } from "./engine.ts";
import { EventStream } from "./event_stream.ts";
import { LinkedSignal } from "./linked_signal.ts";
import type { Piece } from "./text_pieces.ts";

/** Who a job is done for. */
interface Visitor {
	client: string;
	/** Aborted when the job is to end. */
	signal: AbortSignal;
}

/**
 * Generates the texts of a job.
 *
 * @returns The response.
 * @throws The signal's reason, if it is aborted; what the engine throws.
 */
export async function runJob(
	engine: Engine,
	answers: Answers,
	client: string,
	signal: AbortSignal,
): Promise<unknown> {
	const { job } = answers;
	const choices = job.echoes.map((text, index): ChoiceText & { tokens: Piece["tokens"] } => ({
		index,
		text,
		tokens: [],
	}));
	const ends = await generateAll(engine, answers, { client, signal }, (index, { text, tokens }) => {
		choices[index].text += text;
		choices[index].tokens.push(...tokens);
	});
	for (const [i, { reason }] of ends.entries()) choices[i].reason = reason;
	return answers.whole(choices, ends);
}

/** Who a stream is for, and what to do with its errors. */
export interface StreamVisitor extends Visitor {
	/** Milliseconds that the client may take to read what waits for it. */
	patience: number;
	/** Called if the client goes away or takes longer; aborts the signal. */
	left: (reason: Error) => void;
	errorOf: (error: unknown) => ApiError;
	onEnd: () => void;
}

/** Generates the texts of a job, and sends each piece when it is there. */
export function streamJob(
	engine: Engine,
	answers: Answers,
	{ client, signal, patience, left, errorOf, onEnd }: StreamVisitor,
): ReadableStream<Uint8Array> {
	const events = new EventStream(patience, left);
	const send = async () => {
		const begun = new Set<number>();
		const begin = async (index: number) => {
			if (begun.has(index)) return;
			begun.add(index);
			const event = answers.begin(index);
			if (event !== undefined) await events.send(event);
		};
		const take = async (index: number, { text, tokens }: Piece) => {
			await begin(index);
			if (text !== "" || tokens.length > 0) {
				await events.send(answers.part({ index, text, tokens }));
			}
		};
		const end = async (index: number, { reason }: TextEnd) => {
			await begin(index);
			await events.send(answers.end(index, reason));
		};
		try {
			const ends = await generateAll(engine, answers, { client, signal }, take, end);
			if (answers.job.includeUsage) await events.send(answers.usage(ends));
			await events.send("[DONE]");
		} catch (error) {
			if (!signal.aborted) await events.send(errorOf(error).body);
		} finally {
			events.close();
			onEnd();
		}
	};
	void send();
	return events.body;
}

/**
 * Generates the texts of a job side by side. If one fails, the others end. The first choice for a prompt
 * runs it, and the others take over its KV cache.
 */
async function generateAll(
	engine: Engine,
	{ job }: Answers,
	{ client, signal }: Visitor,
	take: (index: number, piece: Piece) => void | Promise<void>,
	ended?: (index: number, end: TextEnd) => Promise<void>,
): Promise<TextEnd[]> {
	using any = new LinkedSignal(signal);
	const begun = job.texts.map(() => Promise.withResolvers<void>());
	const texts = job.texts.map(async (request, index) => {
		const first = index - index % job.choices;
		if (index > first) await begun[first].promise;
		const pieces = engine.text(request, client, any.signal);
		try {
			for (;;) {
				const { done, value } = await pieces.next();
				begun[index].resolve();
				if (!done) {
					await take(index, value);
					continue;
				}
				await ended?.(index, value);
				return value;
			}
		} catch (error) {
			any.abort(error);
			throw error;
		} finally {
			begun[index].resolve();
			await pieces.return(undefined!);
		}
	});
	const results = await Promise.allSettled(texts);
	any.signal.throwIfAborted();
	return results.map((result) => (result as PromiseFulfilledResult<TextEnd>).value);
}
