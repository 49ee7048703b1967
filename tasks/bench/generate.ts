import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bytesText } from "../../base/units.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { CacheDtype } from "../../gpu/kernels/attention/attention_decode.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import {
	continueTokens,
	type GenerationEnd,
	ResidentModel,
} from "../../models/generation/generation.ts";
import { cacheBytes } from "../../models/generation/kv_cache.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { scaledShapes, SHAPES } from "../../models/synthetic.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { tableText } from "../table.ts";
import { count, runCommand, usageErrors } from "../task.ts";
import { writeSyntheticModel } from "../write_synthetic.ts";
import { RANDOM_FORMS, writeRandomPacked } from "./random_packed.ts";

/** The plain model beside the packed ones. */
const PLAIN = "f16";

/** Names of forms, and what they are. */
const FORMS = [
	...Object.entries(RANDOM_FORMS).map(([name, { about }]) => [name, about]),
	[PLAIN, "plain matrices"],
];

const HELP = `Usage: deno task bench:generate MODEL... [options]
       deno task bench:generate --like NAME [options]

Measures the throughput of prefill and decode, and GPU memory, for packed or plain models with a
prompt of random tokens. The figures are those of the fastest of several runs.

With --like, it measures models of random bits in the shapes of a known one, in each form of linear
layers, and compares them. They are written to a temporary folder, one after the other: up to 13.5 GB
for a plain model of 7B.

Options
  --like NAME     Model whose shapes are used: ${Object.keys(SHAPES).join(", ")}
  --forms LIST    Forms to measure, separated by commas; all if absent:
${FORMS.map(([name, about]) => `                  ${name.padEnd(10)}${about}`).join("\n")}
  --layers N      Number of decoder layers; default that of the model
  --hidden-size N Width of the model; default that of the model
  --prompt N      Prompt tokens (512)
  --tokens N      Generated tokens (128)
  --runs N        Runs (3)
  --cache DTYPE   Type of the KV cache, f32 or f16 (f32)
  --json          Print the figures as JSON, one line per model
  --help          Print this
`;

const usageError = usageErrors("bench:generate");

const options = {
	like: { type: "string" },
	forms: { type: "string" },
	layers: { type: "string" },
	"hidden-size": { type: "string" },
	prompt: { type: "string" },
	tokens: { type: "string" },
	runs: { type: "string" },
	cache: { type: "string" },
	json: { type: "boolean" },
} as const;

await runCommand({ name: "bench:generate", help: HELP, options }, async (given) => {
	const { values, positionals, signal } = given;
	const { like } = values;
	if (positionals.length === 0 && !like) throw usageError("Give the folder of a model, or --like");
	if (positionals.length > 0 && like) throw usageError("Give either folders of models or --like");
	const { cache = "f32" } = values;
	if (cache !== "f32" && cache !== "f16") {
		throw usageError(`--cache must be f32 or f16, found "${cache}"`);
	}
	const prompt = count(usageError, "--prompt", values.prompt, 512);
	const tokens = count(usageError, "--tokens", values.tokens, 128);
	const runs = count(usageError, "--runs", values.runs, 3);
	const wanted = { prompt, tokens, runs, cache, signal } as const;
	const print = (figures: Figures) =>
		console.log(values.json ? JSON.stringify(figures) : textOf(figures));
	for (const folder of positionals) print(await measure(folder, wanted));
	if (!like) return;
	if (!Object.hasOwn(SHAPES, like)) {
		throw usageError(`--like must be one of ${Object.keys(SHAPES).join(", ")}, found "${like}"`);
	}
	const known = FORMS.map(([name]) => name);
	const forms = values.forms?.split(",") ?? known;
	const unknown = forms.find((form) => !known.includes(form));
	if (unknown !== undefined) {
		throw usageError(`--forms must be some of ${known.join(", ")}, found "${unknown}"`);
	}
	const layers = count(usageError, "--layers", values.layers, 0);
	const width = count(usageError, "--hidden-size", values["hidden-size"], 0);
	const config = {
		...(width > 0 ? scaledShapes(SHAPES[like], width) : SHAPES[like]),
		...(layers > 0 && { num_hidden_layers: layers }),
	};
	const all: Figures[] = [];
	for (const form of forms) {
		signal.throwIfAborted();
		const folder = mkdtempSync(join(tmpdir(), "billm-bench-"));
		try {
			if (form === PLAIN) writeSyntheticModel(folder, config, 0);
			else writeRandomPacked(folder, config, RANDOM_FORMS[form], 0);
			const figures = await measure(folder, wanted);
			all.push({ ...figures, model: form });
		} finally {
			rmSync(folder, { recursive: true });
		}
		print(all.at(-1)!);
	}
	if (!values.json) console.log(comparison(all));
});

interface Figures {
	model: string;
	adapter: string;
	/** Bytes of the weight files. */
	fileBytes: number;
	/** Bytes of the KV cache. */
	cacheBytes: number;
	/** GPU memory with the KV cache: the peak, and during decode. */
	peakBytes: number;
	generatingBytes: number;
	promptTokens: number;
	promptTokensPerSecond: number;
	/** Seconds of the GPU in the fastest of the same number of prompts; absent without timestamps. */
	promptGpuSeconds?: number;
	tokens: number;
	tokensPerSecond: number;
}

interface Wanted {
	prompt: number;
	tokens: number;
	runs: number;
	cache: CacheDtype;
	signal: AbortSignal;
}

async function measure(
	folder: string,
	{ prompt, tokens, runs, cache, signal }: Wanted,
): Promise<Figures> {
	await using gpu = await openGpu();
	using files = ModelFiles.open(denoFolder(folder));
	using model = await ResidentModel.load(gpu, files, { signal });
	const { architecture } = files;
	const ids = Array.from(
		{ length: prompt },
		(_, i) => (i * 7919 + 13) % architecture.vocabularySize,
	);
	const capacity = Math.min(architecture.maxLength, prompt + tokens - 1);
	let fastest: Pick<GenerationEnd, "promptSeconds" | "seconds"> = {
		promptSeconds: Infinity,
		seconds: Infinity,
	};
	let generatingBytes = 0;
	gpu.resetPeak();
	for (let run = 0; run < runs; run++) {
		const texts = continueTokens(model, ids, { maxTokens: tokens, cache, signal });
		let next = await texts.next();
		while (!next.done) {
			const { current, pooled } = gpu.memory;
			generatingBytes = Math.max(generatingBytes, current + pooled);
			next = await texts.next();
		}
		signal.throwIfAborted();
		const { promptSeconds, seconds } = next.value;
		fastest = {
			promptSeconds: Math.min(fastest.promptSeconds, promptSeconds),
			seconds: Math.min(fastest.seconds, seconds),
		};
	}
	const promptGpuSeconds = await gpuSeconds(gpu, runs, async () => {
		const texts = continueTokens(model, ids, { maxTokens: 1, cache, signal });
		while (!(await texts.next()).done);
	});
	signal.throwIfAborted();
	return {
		model: folder,
		adapter: gpu.name,
		fileBytes: readdirSync(folder)
			.filter((name) => name.endsWith(".safetensors") && name !== "token_ids.safetensors")
			.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0),
		cacheBytes: cacheBytes(architecture, capacity, cache),
		peakBytes: gpu.memory.peak,
		generatingBytes,
		promptTokens: prompt,
		promptTokensPerSecond: prompt / fastest.promptSeconds,
		...(promptGpuSeconds !== undefined && { promptGpuSeconds }),
		tokens,
		tokensPerSecond: (tokens - 1) / fastest.seconds,
	};
}

/** GPU seconds of the fastest of some runs; undefined without timestamps. */
async function gpuSeconds(
	gpu: Gpu,
	runs: number,
	work: () => Promise<void>,
): Promise<number | undefined> {
	if (!gpu.isTimed) return undefined;
	let least = Infinity;
	let before = 0;
	for (let run = 0; run < runs; run++) {
		gpu.section({ name: "prompt" });
		await work();
		gpu.section(undefined);
		const { prompt } = await gpu.sectionSeconds();
		least = Math.min(least, prompt - before);
		before = prompt;
	}
	return least;
}

/** The throughput of all models, relative to the first and the last one. */
function comparison(all: readonly Figures[]): string {
	const [first, last] = [all[0], all.at(-1)!];
	const relative = (key: "tokensPerSecond" | "promptTokensPerSecond", own: Figures, to: Figures) =>
		`${own[key].toFixed(1)} (${(own[key] / to[key]).toFixed(2)})`;
	const rows = all.map((own) => [
		own.model,
		relative("tokensPerSecond", own, first),
		relative("promptTokensPerSecond", own, last),
		bytesText(own.generatingBytes),
	]);
	const head = ["", `tokens/s (of ${first.model})`, `prompt (of ${last.model})`, "GPU memory"];
	return tableText(head, rows, 1);
}

function textOf(figures: Figures): string {
	const { fileBytes, cacheBytes, generatingBytes, peakBytes } = figures;
	const { promptTokens, promptTokensPerSecond, promptGpuSeconds } = figures;
	const share = 100 * (generatingBytes / (fileBytes + cacheBytes) - 1);
	return [
		`${figures.model} on ${figures.adapter}`,
		`  prefill     ${promptTokens} tokens at ${promptTokensPerSecond.toFixed(1)}/s` +
		(promptGpuSeconds === undefined
			? ""
			: `, ${(1000 * promptTokens / promptTokensPerSecond).toFixed(1)} ms of which ` +
				`${(1000 * promptGpuSeconds).toFixed(1)} ms are GPU time`),
		`  decode      ${figures.tokens} tokens at ${figures.tokensPerSecond.toFixed(1)}/s`,
		`  GPU memory  ${bytesText(generatingBytes)} during decode, peak ${bytesText(peakBytes)}; ` +
		`files ${bytesText(fileBytes)}, KV cache ${bytesText(cacheBytes)} (${share.toFixed(1)} % more)`,
	].join("\n");
}
