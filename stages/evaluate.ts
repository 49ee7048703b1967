import { basename, extname } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { listed } from "../base/figures.ts";
import { tuningFolder } from "../hosts/deno_gpu.ts";
import { ModelFiles } from "../models/model_files.ts";
import type { PlanStep } from "../pipeline/run/events.ts";
import type { Evaluation, SampleText } from "../pipeline/run/record.ts";
import type { ModelContext, ModelStage } from "../pipeline/stage.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { evaluationWindows } from "./data.ts";
import { FigureCache, type FigureKey } from "./figure_cache.ts";
import type { Figure, Metric, Work } from "./metrics/metric.ts";
import { METRICS, warningsOf } from "./metrics/mod.ts";
import type { PerplexityEntry } from "./metrics/perplexity.ts";
import { continuation, samplePrompt } from "./sample.ts";
import { secondsPerToken } from "./run_needs.ts";

const common = {
	"original": z.boolean().default(true).describe("Also measure the original model"),
	"cache": z.boolean().default(true).describe(
		"Use cached figures of the original model from earlier runs",
	),
	"sample": z.boolean().default(true).describe(
		"Continue the beginning of the first text of perplexity with both models, for the report",
	),
	"batch-tokens": z.int().min(1).max(65535).default(8192).describe(
		"Tokens per batch",
	),
};

/** The options, with the entries of each requested metric under its option. */
type Options = z.output<z.ZodObject<typeof common>> & Record<string, unknown>;

function optionsOf(metrics: readonly Metric[]) {
	const lists = metrics.map(({ option, entry, description }) =>
		[option, z.array(entry).min(1).optional().describe(description)] as const
	);
	const names = metrics.map(({ option }) => `"${option}"`);
	const several = names.length > 2 ? "several" : "both";
	return z.strictObject({ ...Object.fromEntries(lists), ...common }).refine(
		(options: Record<string, unknown>) => metrics.some(({ option }) => options[option]),
		`must have ${names.join(", ")} or ${several}`,
	);
}

/** All metrics with their requested entries, possibly none. */
function asked(options: Options): { metric: Metric; entries: unknown[] }[] {
	return METRICS.map((metric) => ({
		metric,
		entries: options[metric.option] as unknown[] | undefined ?? [],
	}));
}

/** The entries that are measured together. */
function groupsOf(metric: Metric, entries: readonly unknown[]): (readonly unknown[])[] {
	if (entries.length === 0) return [];
	return metric.together ? [entries] : entries.map((entry) => [entry]);
}

/** The stage that measures quality loss: the metrics of the original and of the packed model. */
export const evaluate: ModelStage<Options> = {
	name: "evaluate",
	scope: "model",
	get summary() {
		const nouns = METRICS.map(({ noun }) => noun);
		return `Measure ${listed(nouns, "and")} of the original and the packed model`;
	},
	get options() {
		return optionsOf(METRICS);
	},
	needs: ["model-files"],
	gives: ["evaluation"],
	async inputs(context, options) {
		const files: string[] = [];
		for (const { metric, entries } of asked(options)) {
			for (const entry of entries) files.push(...await metric.inputs(context, entry));
		}
		return files;
	},

	async check(context, options) {
		for (const { metric, entries } of asked(options)) {
			for (const entry of entries) await metric.check(context, entry);
		}
	},

	async plan(context, options) {
		const model = context.get("model-files");
		const first = measurementOfOriginal(context, options, model);
		const steps = options.original ? await first.plan() : [];
		if (!context.stages.some(({ stage }) => stage.gives.includes("packed-model"))) return steps;
		const reference = options.original ? { measurement: first, figures: [] } : undefined;
		const packed = new Measurement(context, options, model, PACKED, { reference });
		return [...steps, ...await packed.plan()];
	},

	async run(context, options) {
		const originalFiles = context.get("model-files");
		const packedModel = context.find("packed-model");
		using packedFiles = packedModel && ModelFiles.open(denoFolder(packedModel.folder));
		const first = measurementOfOriginal(context, options, originalFiles, !!packedFiles);
		const original = options.original ? await first.run() : undefined;
		const packed = packedFiles &&
			await new Measurement(context, options, packedFiles, PACKED, {
				reference: original && { measurement: first, figures: original },
			}).run();
		const evaluation: Evaluation = { original: [] };
		for (const [i, { metric, entries }] of asked(options).entries()) {
			const measured = {
				original: original ? original[i] : [],
				...(packed && { packed: packed[i] }),
			};
			if (metric.recordKey === undefined) Object.assign(evaluation, measured);
			else if (entries.length > 0) evaluation[metric.recordKey] = measured;
		}
		if (options.sample && packedFiles) {
			const sample = await sampleOf(context, options, originalFiles, packedFiles);
			if (sample) evaluation.sample = sample;
		}
		context.set("evaluation", evaluation);
		for (const message of warningsOf(evaluation)) context.emit({ type: "warning", message });
	},
};

const ORIGINAL = "original model";
const PACKED = "packed model";

function measurementOfOriginal(
	context: ModelContext,
	options: Options,
	model: ModelFiles,
	isReference = false,
): Measurement {
	return new Measurement(context, options, model, ORIGINAL, {
		cache: cacheOf(options),
		isReference,
	});
}

function cacheOf(options: Options): FigureCache {
	return new FigureCache(options.cache ? tuningFolder() : undefined);
}

/** Texts of both models; undefined without a text or a tokenizer, and if neither model gives one. */
async function sampleOf(
	context: ModelContext,
	options: Options,
	original: ModelFiles,
	packed: ModelFiles,
): Promise<SampleText | undefined> {
	const [text] = (options.perplexity ?? []) as PerplexityEntry[];
	if (!text) return undefined;
	const { dataset, windows, "sequence-length": length } = text;
	const ids = samplePrompt((await evaluationWindows(context, dataset, length, windows))[0]);
	let prompt: string;
	try {
		prompt = original.tokenizer.decode(ids);
	} catch (error) {
		if (error instanceof UserError) return undefined; // the texts are token ids
		throw error;
	}
	const key = { ...keyOf(context, "sample", original), prompt: ids };
	const cache = cacheOf(options);
	const ofOriginal = async () => {
		if (!options.original || context.hub.shards) return undefined;
		const known = cache.find<string>(key)?.figure;
		if (known !== undefined) return known;
		const found = await continuation(context, original, ids);
		if (found !== undefined) cache.keep(key, found, context.gpu.name);
		return found;
	};
	const [first, second] = [await ofOriginal(), await continuation(context, packed, ids)];
	if ((first ?? second) === undefined) return undefined;
	return {
		prompt,
		...(first !== undefined && { original: first }),
		...(second !== undefined && { packed: second }),
	};
}

/** What the cache key of any figure has. */
function keyOf(context: ModelContext, figure: string, { files }: ModelFiles): FigureKey {
	const model = Object.fromEntries(files.map((file) => [basename(file), context.sha256(file)]));
	return { figure, model, ...context.gpu.roundsProducts && { precision: "f16" } };
}

/** What else there is to the measurements of a model. */
interface Surroundings {
	/** The cache of its figures, if any. */
	cache?: FigureCache;
	isReference?: boolean;
	/** The measurements of the original, with its figures by metric. */
	reference?: { measurement: Measurement; figures: Figure[][] };
}

/** The measurements of one model. */
class Measurement {
	readonly cache?: FigureCache;

	constructor(
		readonly context: ModelContext,
		readonly options: Options,
		readonly model: ModelFiles,
		/** Its name in messages. */
		readonly label: string,
		readonly surroundings: Surroundings,
	) {
		this.cache = surroundings.cache;
	}

	/** What takes long. */
	async plan(): Promise<PlanStep[]> {
		const { context, label } = this;
		const { layers, head } = await secondsPerToken(context.gpu, this.model);
		const steps: PlanStep[] = [];
		const original = this.surroundings.reference?.measurement;
		for (const { metric, entries } of asked(this.options)) {
			for (const group of groupsOf(metric, entries)) {
				const missing = [];
				for (const entry of group) if (!await this.#cached(metric, entry)) missing.push(entry);
				if (missing.length === 0) continue;
				const isCached = original && await original.#cached(metric, group[0]) !== undefined;
				const parts = await metric.parts?.(context, missing, isCached) ?? [];
				steps.push(...parts.map(({ what, tokens, headTokens = 0, ofOriginal }) => ({
					stage: "evaluate",
					text: `${ofOriginal ? ORIGINAL : label}, ${what}`,
					seconds: tokens * (layers + head) + headTokens * head,
				})));
			}
		}
		return steps;
	}

	async #cached(metric: Metric, entry: unknown): Promise<Figure | undefined> {
		return this.#find(await this.#key(metric, entry), metric.dataset(entry));
	}

	/** Figures by metric. */
	async run(): Promise<Figure[][]> {
		const all: Figure[][] = [];
		const { reference } = this.surroundings;
		for (const [i, { metric, entries }] of asked(this.options).entries()) {
			const figures: Figure[] = [];
			for (const group of groupsOf(metric, entries)) {
				const first = figures.length;
				const before = reference?.figures[i].slice(first, first + group.length);
				figures.push(...await this.#measure(metric, group, before));
			}
			all.push(figures);
		}
		return all;
	}

	/**
	 * Figures of some entries; those not in the cache are measured together.
	 *
	 * @param before Those of the original.
	 */
	async #measure(
		metric: Metric,
		entries: readonly unknown[],
		before?: readonly Figure[],
	): Promise<Figure[]> {
		const { context, model, surroundings: { reference, isReference } } = this;
		const places = [];
		for (const entry of entries) {
			const key = await this.#key(metric, entry);
			places.push({ entry, key, figure: this.#find(key, metric.dataset(entry)) });
		}
		const missing = places.filter(({ figure }) => !figure);
		if (missing.length > 0) {
			const work: Work = {
				context,
				model,
				isReference,
				// Nothing of a packed model is cached, so that none of its figures is missing here.
				reference: reference && {
					model: reference.measurement.model,
					figures: before!,
					progress: (what) => reference.measurement.#progress(what),
				},
				batchTokens: this.options["batch-tokens"],
				progress: (what) => this.#progress(what),
			};
			const measured = await metric.measure(work, missing.map(({ entry }) => entry));
			context.gpu.trim();
			context.checkInputs();
			for (const [i, place] of missing.entries()) {
				place.figure = measured[i] as Figure;
				if (place.key) this.cache?.keep(place.key, place.figure, context.gpu.name);
			}
		}
		return places.map(({ figure }) => {
			this.#report(metric, figure!);
			return figure!;
		});
	}

	#report(metric: Metric, figure: Figure): void {
		const origin = figure.cached ? " (cached from an earlier run)" : "";
		for (const { name, value, text } of metric.values(figure)) {
			this.context.emit({
				type: "metric",
				stage: "evaluate",
				name: `${name} of the ${this.label}`,
				value,
				text: text + origin,
			});
		}
	}

	#progress(what: string): (done: number, total: number) => Promise<void> {
		const { context, label } = this;
		const text = `${label}, ${what}`;
		return async (done, total) => {
			context.emit({ type: "progress", stage: "evaluate", done, total, text });
			await context.pause();
		};
	}

	/** A cached figure, with this run's name of the data set. */
	#find(key: FigureKey | undefined, dataset: string): Figure | undefined {
		const found = key && this.cache?.find<Figure>(key);
		return found && { ...found.figure, dataset, cached: found.cached };
	}

	async #key(metric: Metric, entry: unknown): Promise<FigureKey | undefined> {
		if (!this.cache) return undefined;
		const { context } = this;
		const data = this.#hashes(await metric.inputs(context, entry));
		const key = await metric.key(context, entry, data);
		return { ...keyOf(context, metric.option, this.model), ...key };
	}

	/** Content hashes and formats of data files; the names do not matter. */
	#hashes(files: readonly string[]): string[] {
		return files.map((file) => `${this.context.sha256(file)}${extname(file).toLowerCase()}`);
	}
}
