import { styleText } from "node:util";
import { UserError } from "../base/errors.ts";
import { plural } from "../base/figures.ts";
import { bytesText } from "../base/units.ts";
import { visibleText } from "../base/visible_text.ts";
import type { CacheDtype } from "../gpu/kernels/attention/attention_decode.ts";
import { openGpu } from "../hosts/deno_gpu.ts";
import {
	generate,
	type GeneratedToken,
	type GenerateOptions,
	type GenerationEnd,
} from "../models/generation/generation.ts";
import { checkSampling } from "../models/generation/sampling.ts";
import { loadModel, openModel, terminalProgress } from "./open_model.ts";
import { count, runCommand, usageErrors, warnOf } from "./task.ts";

const HELP = `Usage: deno task generate MODEL --prompt TEXT [options]

Generates text. The text is streamed to the standard output, on a terminal after the prompt. MODEL
is a packed or plain model folder, the output folder of a run that packed one, or a name on the
Hugging Face hub. Ctrl-C stops.

Options
  --prompt TEXT            The prompt; - reads it from the standard input
  --chat                   Format the prompt as a message with the model's chat template
  --max-tokens N           Maximum number of generated tokens (256)
  --temperature X          Sampling temperature; 0 always takes the most likely token (0)
  --top-k N                Sample from the N most likely tokens only
  --top-p X                Sample from the most likely tokens with a total probability of X
  --repetition-penalty X   Penalty of tokens that already occur; 1 is none (1)
  --seed N                 Random seed: the same seed gives the same text (0)
  --cache DTYPE            Type of the KV cache: f32, or f16 in half the memory (f32)
  --json                   Print only one JSON object at the end
  --help                   Print this

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
`;

const usageError = usageErrors("generate");

const ENDS: Record<GenerationEnd["reason"], string> = {
	"stop-token": "ended by the model",
	"max-tokens": "--max-tokens reached",
	"max-length": "maximum length of the model reached",
	"interrupted": "interrupted",
};

const encoder = new TextEncoder();

const options = {
	"prompt": { type: "string" },
	"chat": { type: "boolean" },
	"max-tokens": { type: "string" },
	"temperature": { type: "string" },
	"top-k": { type: "string" },
	"top-p": { type: "string" },
	"repetition-penalty": { type: "string" },
	"seed": { type: "string" },
	"cache": { type: "string" },
	"json": { type: "boolean" },
} as const;

await runCommand({ name: "generate", help: HELP, options }, async (given) => {
	const { values, positionals, signal } = given;
	if (positionals.length !== 1) throw usageError(`Give one model, found ${positionals.length}`);
	if (values.prompt === undefined) {
		throw usageError('Give a --prompt, such as --prompt "Once upon a time"');
	}
	const options = readOptions();
	const prompt = values.prompt === "-" ? await readInput() : values.prompt;

	const progress = terminalProgress();
	using files = await openModel(positionals[0], signal, progress);
	warnOf(files);
	await using gpu = await openGpu();
	using model = await loadModel(gpu, files, signal, progress);

	const asked = values.chat
		? { messages: [{ role: "user" as const, content: prompt }] }
		: { prompt };
	// A terminal shows the prompt too; a file gets only the generated text.
	if (Deno.stdout.isTerminal() && !values.json && !values.chat) {
		print(styleText("dim", visibleText(prompt)));
	}
	const ids: number[] = [];
	let text = "";
	const end = await run(
		generate(model, { ...options, ...asked, signal }),
		({ id, text: added }) => {
			ids.push(id);
			text += added;
			return values.json || print(shown(added));
		},
	);
	const { current, pooled } = gpu.memory;
	const rates = {
		promptTokensPerSecond: rate(end.promptTokens, end.promptSeconds),
		tokensPerSecond: rate(end.tokens - 1, end.seconds), // the first one belongs to the prompt
	};
	if (values.json) {
		const { reusedTokens: _none, ...times } = end;
		const figures = { ...times, ...rates, gpuBytes: current + pooled, adapter: gpu.name };
		console.log(JSON.stringify({ model: files.name, prompt, text, ids, ...figures }));
	} else {
		if (!text.endsWith("\n")) print("\n");
		console.error(summary(end, rates, current + pooled));
	}
	if (end.reason === "interrupted") Deno.exitCode = 130;

	/** The options of generation from the arguments. */
	function readOptions(): GenerateOptions {
		const { cache = "f32" } = values;
		if (cache !== "f32" && cache !== "f16") {
			throw usageError(`--cache must be f32 or f16, found "${cache}"`);
		}
		const topK = values["top-k"] === undefined
			? undefined
			: count(usageError, "--top-k", values["top-k"], 0);
		const options = {
			maxTokens: count(usageError, "--max-tokens", values["max-tokens"], 256),
			temperature: number("--temperature", values.temperature),
			topK,
			topP: number("--top-p", values["top-p"]),
			repetitionPenalty: number("--repetition-penalty", values["repetition-penalty"]),
			seed: number("--seed", values.seed),
			cache: cache as CacheDtype,
		};
		try {
			checkSampling(options);
		} catch (error) {
			throw error instanceof UserError ? usageError(error.message) : error;
		}
		if (options.temperature) return options;
		for (const name of ["top-k", "top-p"] as const) {
			if (values[name] !== undefined) throw usageError(`--${name} needs a --temperature above 0`);
		}
		return options;
	}
});

function number(name: string, value: string | undefined): number | undefined {
	if (value === undefined) return undefined;
	if (value.trim() === "" || !Number.isFinite(Number(value))) {
		throw usageError(`${name} must be a number, found "${value}"`);
	}
	return Number(value);
}

/** The standard input without its trailing newline. */
async function readInput(): Promise<string> {
	const text = await new Response(Deno.stdin.readable).text();
	return text.replace(/\r?\n$/, "");
}

/** Passes tokens to `take` until the text ends or `take` returns false. */
async function run(
	tokens: AsyncGenerator<GeneratedToken, GenerationEnd, void>,
	take: (token: GeneratedToken) => boolean,
): Promise<GenerationEnd> {
	for (;;) {
		const { done, value } = await tokens.next();
		if (done) return value;
		if (!take(value)) Deno.exit(0);
	}
}

/** Writes to the standard output. @returns Whether it is still open. */
function print(text: string): boolean {
	const bytes = encoder.encode(text);
	try {
		for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
		return true;
	} catch (error) {
		if (error instanceof Deno.errors.BrokenPipe) return false; // as with `| head`
		throw error;
	}
}

/** A terminal obeys control characters, so it gets them written out; a file or a pipe gets the text itself. */
function shown(text: string): string {
	return Deno.stdout.isTerminal() ? visibleText(text) : text;
}

/** Tokens per second; null if nothing took time. */
function rate(tokens: number, seconds: number): number | null {
	return tokens > 0 && seconds > 0 ? tokens / seconds : null;
}

function summary(
	{ promptTokens, tokens, reason }: GenerationEnd,
	{ promptTokensPerSecond, tokensPerSecond }: Record<string, number | null>,
	gpuBytes: number,
): string {
	const at = (rate: number | null) => rate === null ? "" : ` at ${rate.toFixed(1)}/s`;
	return [
		`${promptTokens} prompt ${plural(promptTokens, "token")}${at(promptTokensPerSecond)}`,
		`${tokens} generated${at(tokensPerSecond)}`,
		`${bytesText(gpuBytes)} of GPU memory`,
		ENDS[reason],
	].join(", ");
}
