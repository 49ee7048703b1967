import { z } from "zod";
import type { ZodObject, ZodType } from "../../base/schema.ts";
import { isRecord } from "../../base/record.ts";
import type { CachedFigure } from "../../models/metrics/figures.ts";
import type { ModelFiles } from "../../models/model_files.ts";
import type { Evaluation, Measured } from "../../pipeline/run/record.ts";
import { checkValue } from "../../pipeline/config/values.ts";
import type { ModelContext } from "../../pipeline/stage.ts";
import type { FigureKey } from "../figure_cache.ts";

/** A figure of a model, as stored in run.json. */
export interface Figure {
	/** The data set, as named in the pipeline file or on the hub. */
	dataset: string;
	/** Where it comes from, if not from this run. */
	cached?: CachedFigure;
}

/** The form of a {@link Figure} in a record; metrics add their numbers. */
export const figureForm = z.looseObject({
	dataset: z.string(),
	cached: z.looseObject({ measured: z.string(), adapter: z.string() }).optional(),
});

/** Figures of the original and of the packed model on the same data; one of them may be missing. */
export interface Pair<F> {
	/** Of the original. */
	before?: F;
	/** Of the packed model. */
	after?: F;
}

/** The original in the measurement of a packed model. */
export interface Reference<F> {
	/** The original. */
	model: ModelFiles;
	/** Its figures of the same entries. */
	figures: readonly F[];
	/** Like that of {@link Work}, for work on the original. */
	progress: Work["progress"];
}

/** The context of a measurement. */
export interface Work<F = unknown> {
	/** The context of `evaluate`. */
	context: ModelContext;
	/** The model to measure. */
	model: ModelFiles;
	/** The original, if the model is packed and the original was measured. */
	reference?: Reference<F>;
	/** Whether the model is the reference of a later measurement in this run. */
	isReference?: boolean;
	/** Tokens per batch. */
	batchTokens: number;
	/** A callback for each step of the work; it throws if the run was interrupted. */
	progress(what: string): (done: number, total: number) => Promise<void>;
}

/** A part of a measurement. */
export interface MetricPart {
	/** Its name in {@link Work.progress}. */
	what: string;
	/** Tokens that go through the decoder layers and the head. */
	tokens: number;
	/** Further tokens that go through the head. */
	headTokens?: number;
	/** Whether the original runs for it. */
	ofOriginal?: boolean;
}

/** A number of a metric event. */
export interface MetricValue {
	/** "perplexity" */
	name: string;
	/** The value. */
	value: number;
	/** The number and the data. */
	text: string;
}

/** A column of a table with one row per run. */
export interface Column<F> {
	/** Its heading. */
	head: string;
	/** Explanation of the heading, shown as its tooltip. */
	hint?: string;
	/** The cell of a run with some figures, possibly none. */
	text(pairs: readonly Pair<F>[]): string;
}

/** The vertical axis of a chart over the size of the weight files; less is better. */
export interface Chart<F> {
	/** The height of a figure; not finite if it is not charted. */
	value(figure: F): number;
	/** A value as text. */
	text(value: number): string;
	/** The label of a grid line. */
	tick(value: number): string;
	/** How a figure was measured, where that tells charts of one data set apart. */
	conditions?(figure: F): string;
}

/**
 * A metric of `evaluate`: its option, its measurement, and its presentation in tables and reports. An
 * entry is an item of the option, a figure is its result.
 */
// deno-lint-ignore no-explicit-any -- the table of metrics holds entries and figures of any kind
export interface Metric<Entry = any, F extends Figure = any> {
	/** The key of `evaluate` that lists the entries: "zero-shot". */
	option: string;
	/** Description of the list in JSON Schema. */
	description: string;
	/** Schema of an entry. */
	entry: ZodType<Entry>;
	/**
	 * Schema of a figure in a record, which may have been damaged; what it lets through, all functions below
	 * can present. If absent, figures are taken as they are.
	 */
	figure?: ZodObject;
	/** Name in sentences, in lower case: "zero-shot accuracy". */
	noun: string;
	/** The key of the record's `evaluation` with the figures; absent if they are the evaluation itself. */
	recordKey?: string;

	/** The files that an entry names, on this machine. */
	inputs(context: ModelContext, entry: Entry): Promise<string[]>;
	/** Early check: throws before any long work on what would fail later. */
	check(context: ModelContext, entry: Entry): Promise<void>;
	/** Name of the data set. */
	dataset(entry: Entry): string;
	/**
	 * Cache key of a figure, in addition to the model's files. Cached figures are valid while these fields
	 * are equal: a change of the measurement needs another field, such as a version.
	 *
	 * @param data Hashes of the input files.
	 */
	key(context: ModelContext, entry: Entry, data: readonly string[]): FigureKey | Promise<FigureKey>;
	/** Whether entries are measured together; one after another if absent. */
	together?: boolean;
	/**
	 * The parts of a measurement, for the time that is left; without them it counts as none.
	 *
	 * @param entries One, unless `together`.
	 * @param cached In the measurement of a packed model whose original is measured: whether figures of the
	 *   original are cached.
	 */
	parts?(context: ModelContext, entries: readonly Entry[], cached?: boolean): Promise<MetricPart[]>;
	/**
	 * The figures of some entries, of each in order.
	 *
	 * @param entries One, unless `together`.
	 */
	measure(work: Work<F>, entries: readonly Entry[]): Promise<F[]>;

	/** The subject of a figure; figures with equal subjects are comparable. */
	subject(figure: F): string;
	/** Values for metric events. */
	values(figure: F): MetricValue[];
	/** Warnings about a run's figures, if any; shown by the run and in its report. */
	warnings?(pair: Pair<F>): string[];

	/** Presentation in the terminal. */
	terminal: {
		/** Label of a line of the summary, at most 16 characters. */
		name: string;
		/** The rest of the line. */
		line(pair: Pair<F>): string;
		/** Columns of the table of a grid's cells. */
		columns?: readonly Column<F>[];
	};
	/** Tile in the report of a run; `pairs` is not empty, as for `table`. */
	tile(pairs: readonly Pair<F>[]): { value: string; note: string };
	/** Table in the report of a run. */
	table(pairs: readonly Pair<F>[]): {
		caption: string;
		head: string[];
		rows: string[][];
		/** Explanations of headings, shown as their tooltips. */
		hints?: Record<string, string>;
		/** The last row sums up the others. */
		total?: boolean;
	};
	/**
	 * Columns in the report of several runs.
	 *
	 * @param pairs Pairs of all runs, at least one.
	 */
	columns(pairs: readonly Pair<F>[]): Column<F>[];
	/**
	 * Columns in a table as papers print it, of the figures after quantization alone; none if absent.
	 *
	 * @param pairs Pairs of all runs, at least one.
	 */
	published?(pairs: readonly Pair<F>[]): Column<F>[];
	/** A separate section in reports; if absent, the metric is in the summary and the table of runs. */
	section?: {
		heading: string;
		text: string;
		/** The caption of the table with the columns. */
		caption: string;
	};
	/** Chart in the report of several runs, if any. */
	chart?: Chart<F>;
}

/** The figures of a metric in a record whose figures {@link figureProblem} has nothing to say about. */
export function measuredIn<F extends Figure>(
	{ recordKey }: Metric<unknown, F>,
	evaluation: Evaluation | undefined,
): Measured<F> {
	const found = recordKey === undefined ? evaluation : evaluation?.[recordKey];
	return { original: [], ...found as Partial<Measured<F>> };
}

/** What is wrong with the figures of a metric in a record that was read from a file; undefined if nothing is. */
export function figureProblem(
	{ recordKey, figure = figureForm }: Metric,
	evaluation: Evaluation | undefined,
): string | undefined {
	const found = recordKey === undefined ? evaluation : evaluation?.[recordKey];
	if (found === undefined) return undefined;
	const figures = z.array(figure);
	const form = z.looseObject({ original: figures.optional(), packed: figures.optional() });
	const title = ["evaluation", ...(recordKey === undefined ? [] : [recordKey])].join(".");
	if (!isRecord(found)) return `${title} must be a map`;
	return checkValue(form, found, title).issues[0]?.message;
}

/** The figures of a metric by subject, in the order of the pipeline file. */
export function pairsIn<F extends Figure>(
	metric: Metric<unknown, F>,
	evaluation: Evaluation | undefined,
): Pair<F>[] {
	const { original, packed = [] } = measuredIn(metric, evaluation);
	const isSame = (a: F, b: F) => metric.subject(a) === metric.subject(b);
	const pairs = packed.map((after): Pair<F> => ({
		before: original.find((before) => isSame(before, after)),
		after,
	}));
	const alone = original.filter((before) => !packed.some((after) => isSame(before, after)));
	return [...pairs, ...alone.map((before) => ({ before }))];
}

/** The figure of the packed model, otherwise of the original. */
export function lastOf<F>({ before, after }: Pair<F>): F {
	return (after ?? before)!;
}

/** The figures of a pair that exist. */
export function figuresOf<F>({ before, after }: Pair<F>): F[] {
	return [before, after].filter((figure) => figure !== undefined);
}
