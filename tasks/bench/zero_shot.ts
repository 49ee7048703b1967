import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { percentText } from "../../base/units.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { Activations } from "../../models/activations.ts";
import { paceBatches } from "../../models/calibration.ts";
import { Decoder } from "../../models/decoder.ts";
import type { LayerWeights } from "../../models/layer_weights.ts";
import { finishScored } from "../../models/metrics/log_likelihoods.ts";
import {
	batchPrompts,
	type Prompt,
	type PromptBatchOnGpu,
	uploadBatch,
} from "../../models/metrics/prompt_batch.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { scaledShapes, SHAPES, uniforms } from "../../models/synthetic.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { tableText } from "../table.ts";
import { count, runCommand, usageErrors } from "../task.ts";
import { writeSyntheticModel } from "../write_synthetic.ts";

const HELP = `Usage: deno task bench:zero-shot [--like NAME] [options]

Measures zero-shot requests on decoder layers of random weights and the head: questions with four
choices and the token lengths of HellaSwag with LLaMA's tokenizer, with and without sharing the
prefix of a question's choices, and windows of equal length for comparison. Prints tokens/s of a
layer, and an estimate for the whole model from its layers and head. NAME is one of
${Object.keys(SHAPES).join(", ")}.

Options
  --like NAME           Model whose shapes are used (llama-7b)
  --hidden-size N       Another hidden size; the other sizes scale with it
  --layers N            Decoder layers to run, the first as warm-up (3)
  --questions N         Questions (700)
  --sequence-length N   Tokens per window (2048)
  --batch-tokens N      Tokens per batch (8192)
  --json                Print the figures as JSON
  --help                Print this
`;

/** Tokens of HellaSwag's contexts and endings, at every tenth of the first thousand questions. */
const CONTEXT_TOKENS = [13, 27, 36, 46, 55, 60, 65, 69, 74, 82, 112];
const ENDING_TOKENS = [4, 11, 17, 25, 31, 35, 39, 43, 48, 54, 98];
const CHOICES = 4;

/** Batches of tokens to run through the layers. */
interface Workload {
	name: string;
	batches: number;
	/** Number of tokens. */
	tokens: number;
	/** Number of padding tokens among them. */
	filling: number;
	/** Number of tokens without shared prefixes. */
	separateTokens: number;
	questions?: number;
	activations: Activations;
	run(weights: LayerWeights, batch: number): Promise<void>;
	/** The final norm and the losses. */
	finish(): Promise<void>;
}

const usageError = usageErrors("bench:zero-shot");

const command = {
	name: "bench:zero-shot",
	help: HELP,
	options: {
		"like": { type: "string" },
		"hidden-size": { type: "string" },
		"layers": { type: "string" },
		"questions": { type: "string" },
		"sequence-length": { type: "string" },
		"batch-tokens": { type: "string" },
		"json": { type: "boolean" },
	},
	takesArguments: false,
} as const;

await runCommand(command, async ({ values, signal }) => {
	const { like = "llama-7b" } = values;
	if (!Object.hasOwn(SHAPES, like)) {
		throw usageError(`--like must be one of ${Object.keys(SHAPES).join(", ")}, found "${like}"`);
	}
	const number = (
		name: "layers" | "questions" | "sequence-length" | "batch-tokens",
		usual: number,
	) => count(usageError, `--${name}`, values[name], usual);
	const hiddenSize = count(usageError, "--hidden-size", values["hidden-size"], 0);
	const layers = number("layers", 3);
	const questions = number("questions", 700);
	const length = number("sequence-length", 2048);
	const batchTokens = number("batch-tokens", 8192);
	const shapes = hiddenSize > 0 ? scaledShapes(SHAPES[like], hiddenSize) : SHAPES[like];
	const folder = mkdtempSync(join(tmpdir(), "billm-bench-"));
	try {
		writeSyntheticModel(folder, { ...shapes, num_hidden_layers: layers }, 0);
		await using gpu = await openGpu();
		using model = ModelFiles.open(denoFolder(folder));
		using decoder = new Decoder(gpu, model);
		const groups = questionsLike(questions, shapes.vocab_size as number);
		const options = { tokens: batchTokens };
		const shared = await promptWorkload("shared", decoder, groups, { ...options, shares: true });
		const tokens = Math.max(length, shared.tokens - shared.tokens % length);
		const workloads = [
			await windowWorkload(decoder, { tokens, length, batchTokens }),
			shared,
			await promptWorkload("separate", decoder, groups, { ...options, shares: false }),
		];
		const seconds = await measure(decoder, workloads, layers, signal);
		const all = SHAPES[like].num_hidden_layers as number;
		const figures = workloads.map((workload, i) => figuresOf(workload, seconds[i], all));
		for (const { activations } of workloads) activations[Symbol.dispose]();
		const about = { adapter: gpu.name, deno: Deno.version.deno, like, layers: all };
		if (values.json) {
			console.log(JSON.stringify({ ...about, hiddenSize: shapes.hidden_size, figures }));
			return;
		}
		const width = hiddenSize ? ` ${hiddenSize} wide` : "";
		console.log(
			`${about.adapter}, Deno ${about.deno}: ${like}${width}, ${questions} questions, ` +
				`windows of ${length} tokens, batches of ${batchTokens}`,
		);
		console.log(report(figures, all));
	} finally {
		rmSync(folder, { recursive: true });
	}
});

/** Questions of random tokens, whose choices have the same context. */
function questionsLike(questions: number, vocabulary: number): Prompt[][] {
	const random = uniforms(1);
	const draw = (tenths: readonly number[], at: number) => {
		const place = Math.min(Math.max(at, 0), 0.999) * (tenths.length - 1);
		const tenth = Math.floor(place);
		return Math.round(tenths[tenth] + (place - tenth) * (tenths[tenth + 1] - tenths[tenth]));
	};
	const ids = (count: number) =>
		Int32Array.from({ length: count }, () => Math.floor(random() * vocabulary));
	return Array.from({ length: questions }, () => {
		const at = random(); // long contexts have long endings
		const context = ids(draw(CONTEXT_TOKENS, at));
		return Array.from({ length: CHOICES }, () => {
			const ending = ids(draw(ENDING_TOKENS, at + 0.2 * (random() - 0.5)));
			return { tokens: Int32Array.of(...context, ...ending), scored: ending.length };
		});
	});
}

async function windowWorkload(
	decoder: Decoder,
	{ tokens, length, batchTokens }: { tokens: number; length: number; batchTokens: number },
): Promise<Workload> {
	const { gpu, architecture: { vocabularySize, hiddenSize } } = decoder;
	const random = uniforms(2);
	const perBatch = Math.max(1, Math.floor(batchTokens / length));
	const window = () => Int32Array.from({ length }, () => Math.floor(random() * vocabularySize));
	const batches = Array.from(
		{ length: Math.ceil(tokens / length / perBatch) },
		() => Array.from({ length: perBatch }, window),
	);
	const total = batches.length * perBatch * length;
	const activations = new Activations(gpu, {
		tokens: batches.map(() => perBatch * length),
		width: hiddenSize,
	});
	await decoder.embedding.embedInto(activations, batches);
	return {
		name: "windows",
		batches: batches.length,
		tokens: total,
		filling: 0,
		separateTokens: total,
		activations,
		run: (weights, batch) => runBatch(decoder, activations, weights, batch, length),
		async finish() {
			await decoder.head.losses(async (batch) => {
				using last = (await activations.load(batch)).get("hidden")!;
				return await decoder.head.finish(last);
			}, batches);
		},
	};
}

async function promptWorkload(
	name: string,
	decoder: Decoder,
	groups: Prompt[][],
	options: { tokens: number; shares: boolean },
): Promise<Workload> {
	const { gpu, architecture: { hiddenSize } } = decoder;
	const batches = batchPrompts(groups, options);
	const onGpu = batches.map((batch) => uploadBatch(gpu, batch));
	const tokens = batches.map(({ ids }) => ids.length);
	const activations = new Activations(gpu, { tokens, width: hiddenSize });
	await decoder.embedding.embedPromptsInto(activations, batches);
	const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
	return {
		name,
		batches: batches.length,
		tokens: sum(tokens),
		filling: sum(batches.map(({ filling }) => filling)),
		separateTokens: sum(groups.flat().map(({ tokens }) => tokens.length - 1)),
		questions: groups.length,
		activations,
		run: (weights, batch) => runBatch(decoder, activations, weights, batch, onGpu[batch]),
		async finish() {
			const finished = (batch: number) => finishScored(decoder, batches[batch], batch, activations);
			await decoder.head.targetLosses(finished, batches.map(({ targets }) => targets));
		},
	};
}

async function runBatch(
	decoder: Decoder,
	activations: Activations,
	weights: LayerWeights,
	batch: number,
	window: number | PromptBatchOnGpu,
): Promise<void> {
	const registers = await activations.load(batch);
	await decoder.run(weights, registers, window);
	await activations.keep(batch, 0, registers);
}

/** Seconds of a layer and of the head, for each workload: the median of the layers after the first. */
async function measure(
	decoder: Decoder,
	workloads: readonly Workload[],
	layers: number,
	signal: AbortSignal,
): Promise<{ layer: number; head: number }[]> {
	const { gpu } = decoder;
	const time = async (work: () => Promise<void>) => {
		await gpu.idle();
		const start = performance.now();
		await work();
		await gpu.idle();
		return (performance.now() - start) / 1000;
	};
	const times = workloads.map((): number[] => []);
	for (let layer = 0; layer < layers; layer++) {
		const weights = await decoder.loadLayer(layer, { packed: true });
		for (const [i, workload] of workloads.entries()) {
			times[i].push(
				await time(async () => {
					for (let batch = 0; batch < workload.batches; batch++) {
						await workload.run(weights, batch);
						await paceBatches(gpu, batch + 1);
						signal.throwIfAborted();
					}
				}),
			);
		}
		weights[Symbol.dispose]();
	}
	const results: { layer: number; head: number }[] = [];
	for (const [i, workload] of workloads.entries()) {
		await workload.finish(); // to warm up
		results.push({
			layer: median(times[i].slice(layers > 1 ? 1 : 0)),
			head: await time(workload.finish),
		});
		signal.throwIfAborted();
	}
	return results;
}

function median(values: number[]): number {
	const sorted = values.toSorted((a, b) => a - b);
	const middle = sorted.length >> 1;
	return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function figuresOf(workload: Workload, seconds: { layer: number; head: number }, layers: number) {
	const { name, batches, tokens, filling, separateTokens, questions } = workload;
	const ofModel = layers * seconds.layer + seconds.head;
	return {
		name,
		batches,
		tokens,
		filling,
		separateTokens,
		secondsOfLayer: seconds.layer,
		secondsOfHead: seconds.head,
		tokensPerSecondOfLayer: tokens / seconds.layer,
		tokensPerSecond: tokens / ofModel,
		separateTokensPerSecond: separateTokens / ofModel,
		questionsPerSecond: questions === undefined ? undefined : questions / ofModel,
	};
}

function report(figures: ReturnType<typeof figuresOf>[], layers: number): string {
	const [plain] = figures;
	const row = (
		text: string,
		figure: (of: typeof plain) => string,
	) => [text, ...figures.map(figure)];
	const whole = (value: number) => value.toFixed(0);
	return tableText(["", ...figures.map(({ name }) => name)], [
		row("tokens run", ({ tokens }) => whole(tokens)),
		row("of them to fill batches up", ({ filling, tokens }) => percentText(filling / tokens)),
		row("tokens of all requests", ({ separateTokens }) => whole(separateTokens)),
		row("a layer, s", ({ secondsOfLayer }) => secondsOfLayer.toFixed(3)),
		row("norm, head and losses, s", ({ secondsOfHead }) => secondsOfHead.toFixed(3)),
		row("tokens/s of a layer", ({ tokensPerSecondOfLayer }) => whole(tokensPerSecondOfLayer)),
		row(
			"relative to windows",
			({ tokensPerSecondOfLayer }) =>
				percentText(tokensPerSecondOfLayer / plain.tokensPerSecondOfLayer),
		),
		row(`tokens/s of ${layers} layers and head`, ({ tokensPerSecond }) => whole(tokensPerSecond)),
		row(
			"relative to windows",
			({ tokensPerSecond }) => percentText(tokensPerSecond / plain.tokensPerSecond),
		),
		row(
			"request tokens/s",
			({ separateTokensPerSecond }) => whole(separateTokensPerSecond),
		),
		row(
			"questions/s",
			({ questionsPerSecond }) => questionsPerSecond?.toFixed(1) ?? "",
		),
	], 1);
}
