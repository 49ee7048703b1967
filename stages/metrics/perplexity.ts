import { z } from "zod";
import {
	counted,
	decimal,
	growthText,
	isNumber,
	NONE,
	percent,
	plural,
} from "../../base/figures.ts";
import { percentText } from "../../base/units.ts";
import { DATASETS } from "../../data/datasets.ts";
import { divergence } from "../../models/metrics/divergence.ts";
import type { Perplexity } from "../../models/metrics/figures.ts";
import { FinalStates, spreadWindows } from "../../models/metrics/final_states.ts";
import { finalStates, perplexity as measure } from "../../models/metrics/perplexity.ts";
import type { ModelContext } from "../../pipeline/stage.ts";
import { datasetOption, evaluationWindows } from "../data.ts";
import {
	type Column,
	figureForm,
	figuresOf,
	lastOf,
	type Metric,
	type Pair,
	type Reference,
	type Work,
} from "./metric.ts";

const entry = z.strictObject({
	"dataset": datasetOption,
	"sequence-length": z.int().min(2).max(65535).default(2048).describe("Tokens per window"),
	"windows": z.int().min(1).optional().describe("Maximum number of windows; default all"),
	"kl-windows": z.union([z.int().min(0), z.literal("all")]).default(16).describe(
		"Windows on which the packed model's predictions are compared with the original's: a number, " +
			"evenly spread, or all; 0 for none",
	),
});

type Entry = z.output<typeof entry>;
export type { Entry as PerplexityEntry };

/** JSON has null for a perplexity that is not finite. */
const figure = figureForm.extend({
	sequenceLength: z.int().min(1),
	windows: z.int().min(1),
	loss: z.number().nullable(),
	perplexity: z.number().positive().nullable(),
	lnRatio: z.number().nullish(),
	divergence: z.looseObject({
		windows: z.int().min(1),
		kl: z.number(),
		agreement: z.number().min(0).max(1),
	}).optional(),
});

/** The ratio of perplexities beyond which a run warns. */
const MOST_GROWTH = 10;

/** Headings of reports, and their explanations. */
const RATIO = "Ratio";
const DELTA_LOSS = "Δ loss";
const KL = "KL, nats";
const AGREEMENT = "Same top token";
const HINTS = {
	[RATIO]: "Perplexity of the packed model over that of the original",
	[DELTA_LOSS]:
		"ln(perplexity / perplexity of the original): the loss added to each token, in nats",
	[KL]: "Mean KL divergence of the packed model's next-token distribution from the original's",
	[AGREEMENT]: "Predictions whose most likely token is that of the original",
};

/**
 * The perplexity over windows of a text, and for a packed model how far its predictions are from those
 * of the original.
 */
export const perplexity: Metric<Entry, Perplexity> = {
	option: "perplexity",
	description: "Texts to measure perplexity on",
	entry,
	figure,
	noun: "perplexity",

	async inputs(context, { dataset }) {
		return (await context.dataset(dataset, "evaluation")).files;
	},

	async check(context, text) {
		await windowsOf(context, text);
	},

	dataset: ({ dataset }) => dataset,

	key(_context, { dataset, "sequence-length": sequenceLength, windows = null }, data) {
		return {
			// The name decides how rows are joined.
			dataset: Object.hasOwn(DATASETS, dataset) ? dataset : null,
			data,
			sequenceLength,
			windows,
		};
	},

	async parts(context, [text], cached) {
		const { dataset } = text;
		const windows = await windowsOf(context, text);
		const tokens = windows.length * windows[0].length;
		const compared = cached === undefined ? 0 : klWindows(text, windows).length * windows[0].length;
		if (compared === 0) return [{ what: dataset, tokens }];
		return [
			{ what: dataset, tokens },
			...(cached ? [{ what: forDivergence(dataset), tokens: compared, ofOriginal: true }] : []),
			{ what: divergenceOn(dataset), tokens: 0, headTokens: 2 * compared },
		];
	},

	async measure(work, [text]) {
		const { context, model, batchTokens, progress, reference, isReference } = work;
		const { dataset } = text;
		const windows = await windowsOf(context, text);
		const chosen = reference || isReference ? klWindows(text, windows) : [];
		const states = new FinalStates(chosen);
		const onProgress = progress(dataset);
		const figure = await measure(context.gpu, model, {
			windows,
			dataset,
			batchTokens,
			states,
			onProgress,
		});
		if (isReference && chosen.length > 0) statesOf(context).set(JSON.stringify(text), states);
		if (!reference) return [figure];
		return [{
			...figure,
			lnRatio: figure.loss - reference.figures[0].loss,
			...(chosen.length > 0 && { divergence: await compare(work, reference, text, states) }),
		}];
	},

	subject: ({ dataset, sequenceLength, windows }) =>
		JSON.stringify([dataset, sequenceLength, windows]),

	values(figure) {
		const { perplexity: value, dataset, windows, sequenceLength, divergence } = figure;
		const on = (windows: number) =>
			`on ${dataset}, ${windows} ${plural(windows, "window")} of ${sequenceLength} tokens`;
		const values = [{ name: "perplexity", value, text: `${terminalText(value)} ${on(windows)}` }];
		if (figure.lnRatio !== undefined) {
			const text = `${signed(figure.lnRatio)} ${on(windows)}`;
			values.push({ name: "ln ratio", value: figure.lnRatio, text });
		}
		if (divergence) {
			const { windows, kl, agreement } = divergence;
			values.push(
				{ name: "KL divergence", value: kl, text: `${kl.toFixed(4)} nats ${on(windows)}` },
				{
					name: "same top token",
					value: agreement,
					text: `${percentText(agreement, 2)} ${on(windows)}`,
				},
			);
		}
		return values;
	},

	warnings({ before, after }) {
		if (!before || !after || !(lnRatioOf({ before, after })! > Math.log(MOST_GROWTH))) return [];
		const [original, packed] = [before, after].map(({ perplexity }) => terminalText(perplexity));
		return [
			`The perplexity on ${after.dataset} is ${packed} after ${original} of the original, more ` +
			`than ${MOST_GROWTH} times as much: the packed model has lost most of what the original ` +
			"knew, so what this pipeline chose does not work for this model. Try more bits, the " +
			"default recipe instead of mode: reference, or the stages propagate-error and rotate",
		];
	},

	terminal: {
		name: "Perplexity",
		line(pair) {
			const values = figuresOf(pair).map(({ perplexity }) => terminalText(perplexity));
			const { dataset, divergence } = lastOf(pair);
			const ratio = lnRatioOf(pair);
			const growth = isNumber(ratio)
				? ` (${Math.exp(ratio).toFixed(2)} times, ln ratio ${signed(ratio)})`
				: "";
			return `${values.join(" -> ")}${growth} ` +
				`on ${dataset}` +
				(divergence
					? `; KL ${divergence.kl.toFixed(4)} nats, same top token ` +
						percentText(divergence.agreement, 2)
					: "");
		},
		columns: [
			{
				head: "perplexity",
				text: ([{ after } = {}]) => after ? terminalText(after.perplexity) : "",
			},
			{
				head: "before",
				text: ([{ before } = {}]) => before ? terminalText(before.perplexity) : "",
			},
			{
				head: "ln ratio",
				text([pair = {}]) {
					const ratio = lnRatioOf(pair);
					return isNumber(ratio) ? signed(ratio) : "";
				},
			},
			{
				head: "KL",
				text: ([{ after } = {}]) => after?.divergence?.kl.toFixed(4) ?? "",
			},
			{
				head: "same top",
				text: ([{ after } = {}]) =>
					after?.divergence ? percentText(after.divergence.agreement, 1) : "",
			},
		],
	},

	tile([pair]) {
		const { before, after } = pair;
		const ratio = lnRatioOf(pair);
		const { kl } = after?.divergence ?? {};
		return {
			value: figuresOf(pair).map(({ perplexity }) => perplexityText(perplexity)).join(" → "),
			note: before && after
				? [
					`${growthText(before.perplexity, after.perplexity)} on ${after.dataset}`,
					...(isNumber(ratio) ? [`Δ loss ${lnText(ratio)}`] : []),
					...(isNumber(kl) ? [`KL ${decimal(kl, 3)} nats`] : []),
				].join(", ")
				: `of the ${after ? "packed" : "original"} model on ${lastOf(pair).dataset}`,
		};
	},

	table(pairs) {
		const isCompared = pairs.some(({ after }) => after?.divergence);
		return {
			caption: "Perplexity before and after",
			head: [
				...["Text", "Windows", "Original", "Packed", RATIO, DELTA_LOSS],
				...(isCompared ? [KL, AGREEMENT, "Windows for KL"] : []),
			],
			hints: { ...HINTS, "Windows for KL": "The windows that KL and same top token come from" },
			rows: pairs.map((pair) => {
				const { before, after } = pair;
				const { dataset, windows, sequenceLength } = lastOf(pair);
				const compared = after?.divergence;
				return [
					dataset,
					`${windows} × ${sequenceLength}`,
					perplexityText(before?.perplexity),
					perplexityText(after?.perplexity),
					growthText(before?.perplexity, after?.perplexity),
					lnText(lnRatioOf(pair)),
					...(isCompared
						? [
							decimal(compared?.kl, 4),
							percent(compared?.agreement),
							compared ? counted(compared.windows, "window") : NONE,
						]
						: []),
				];
			}),
		};
	},

	columns(pairs) {
		const all = pairs.map(lastOf);
		const texts = [...new Map(all.map((text) => [perplexity.subject(text), text])).values()];
		return texts.flatMap((text): Column<Perplexity>[] => {
			const subject = perplexity.subject(text);
			const isOf = (pair: Pair<Perplexity>) => perplexity.subject(lastOf(pair)) === subject;
			const pairOf = (pairs: readonly Pair<Perplexity>[]) => pairs.find(isOf) ?? {};
			const comparedIn = (pairs: readonly Pair<Perplexity>[]) => pairOf(pairs).after?.divergence;
			return [
				{
					head: `Perplexity, ${shortText(text, texts)}`,
					text: (pairs) => perplexityText(pairOf(pairs).after?.perplexity),
				},
				{
					head: RATIO,
					hint: HINTS[RATIO],
					text(pairs) {
						const { before, after } = pairOf(pairs);
						return growthText(before?.perplexity, after?.perplexity);
					},
				},
				{
					head: DELTA_LOSS,
					hint: HINTS[DELTA_LOSS],
					text: (pairs) => lnText(lnRatioOf(pairOf(pairs))),
				},
				...(pairs.some((pair) => isOf(pair) && pair.after?.divergence)
					? [
						{
							head: KL,
							hint: HINTS[KL],
							text: (pairs: readonly Pair<Perplexity>[]) => decimal(comparedIn(pairs)?.kl, 4),
						},
						{
							head: AGREEMENT,
							hint: HINTS[AGREEMENT],
							text: (pairs: readonly Pair<Perplexity>[]) => percent(comparedIn(pairs)?.agreement),
						},
					]
					: []),
			];
		});
	},

	published(pairs) {
		const all = pairs.map(lastOf);
		const texts = [...new Map(all.map((text) => [perplexity.subject(text), text])).values()];
		return texts.map((text): Column<Perplexity> => {
			const subject = perplexity.subject(text);
			const isOf = ({ after }: Pair<Perplexity>) => after && perplexity.subject(after) === subject;
			return {
				head: shortText(text, texts),
				text: (pairs) => perplexityText(pairs.find(isOf)?.after?.perplexity),
			};
		});
	},

	chart: {
		value: ({ perplexity }) => perplexity,
		text: perplexityText,
		tick(value) {
			if (value >= 1e6) return value.toExponential(0);
			return decimal(value, value >= 10 || Number.isInteger(value) ? 0 : 1);
		},
		conditions: ({ windows, sequenceLength }) =>
			`${windows} ${plural(windows, "window")} of ${sequenceLength} tokens`,
	},
};

function windowsOf(
	context: ModelContext,
	{ dataset, windows: limit, "sequence-length": length }: Entry,
): Promise<Int32Array[]> {
	return evaluationWindows(context, dataset, length, limit);
}

/** Indices of the windows on which predictions are compared. */
function klWindows({ "kl-windows": count }: Entry, windows: readonly unknown[]): number[] {
	if (count === 0) return [];
	return spreadWindows(windows.length, count === "all" ? windows.length : count);
}

const forDivergence = (dataset: string) => `${dataset}, for the KL divergence`;
const divergenceOn = (dataset: string) => `${dataset}, KL divergence`;

/** States of the original by entry, until the packed model is compared with them. */
const kept = new WeakMap<ModelContext, Map<string, FinalStates>>();

function statesOf(context: ModelContext): Map<string, FinalStates> {
	const states = kept.get(context) ?? new Map();
	kept.set(context, states);
	return states;
}

/** Compares a model with the original, which runs for this only if its perplexity was cached. */
async function compare(
	{ context, model, batchTokens, progress }: Work,
	reference: Reference<Perplexity>,
	text: Entry,
	states: FinalStates,
) {
	const { gpu } = context;
	const { dataset } = text;
	const key = JSON.stringify(text);
	let before = statesOf(context).get(key);
	statesOf(context).delete(key);
	gpu.trim(); // what the perplexity took
	if (!before) {
		const windows = await windowsOf(context, text);
		const onProgress = reference.progress(forDivergence(dataset));
		const options = { windows, batchTokens, onProgress };
		before = await finalStates(gpu, reference.model, states.windows, options);
	}
	return await divergence(gpu, { model: reference.model, states: before }, { model, states }, {
		dataset,
		onProgress: progress(divergenceOn(dataset)),
	});
}

/** ln of the ratio of the perplexities; undefined unless both are known. */
function lnRatioOf({ before, after }: Pair<Perplexity>): number | undefined {
	if (!isNumber(before?.loss) || !isNumber(after?.loss)) return undefined;
	return after.loss - before.loss;
}

/** A logarithm with its sign, in a terminal. */
function signed(value: number): string {
	return `${value < 0 ? "" : "+"}${value.toFixed(3)}`;
}

/** A logarithm with its sign, in a report. */
function lnText(value: number | undefined): string {
	return value === undefined ? NONE : signed(value).replace("-", "−");
}

/** The heading of a text's column, with its windows where that is needed to tell texts apart. */
function shortText(text: Perplexity, texts: readonly Perplexity[]): string {
	const { dataset, windows, sequenceLength } = text;
	const isAlone = texts.filter((other) => other.dataset === dataset).length === 1;
	const name = dataset.slice(dataset.lastIndexOf("/") + 1);
	return isAlone ? name : `${name}, ${windows} × ${sequenceLength}`;
}

/** A perplexity in a terminal; an infinite one is null in JSON. */
function terminalText(value: number | null): string {
	return value === null || !Number.isFinite(value) ? "infinite" : value.toFixed(2);
}

/** A perplexity in a report: large ones of broken models need no decimals. */
export function perplexityText(value: number | null | undefined): string {
	if (value === undefined) return NONE;
	if (!isNumber(value)) return "not finite";
	if (value >= 1e6) return value.toExponential(2);
	return decimal(value, value < 1000 ? 2 : 0);
}
