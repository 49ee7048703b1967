import type { z } from "zod";
import type { CachedFigure } from "../../models/metrics/figures.ts";
import type { ModelFiles } from "../../models/model_files.ts";
import type { Evaluation, Measured } from "../../pipeline/run/record.ts";
import type { ModelContext } from "../../pipeline/stage.ts";
import type { FigureKey } from "../figure_cache.ts";

/** What a metric says of a model, as it stands in run.json. */
export interface Figure {
  /** What it was measured on, as the pipeline file or the hub calls it. */
  dataset: string;
  cached?: CachedFigure;
}

/** Figures of the original and of the packed model on the same data; one of them may be missing. */
export interface Pair<F> {
  before?: F;
  after?: F;
}

/** What a metric measures with. */
export interface Work {
  context: ModelContext;
  model: ModelFiles;
  /** Tokens that go through a layer together. */
  batchTokens: number;
  /** @returns What to call after each step of the work; throws if the run was interrupted. */
  progress(what: string): (done: number, total: number) => Promise<void>;
}

/** A number that a metric event tells. */
export interface MetricValue {
  /** "perplexity" */
  name: string;
  value: number;
  /** The number with what it was measured on. */
  text: string;
}

/** A column of a table with a row for each run. */
export interface Column<F> {
  head: string;
  /** @param pairs The figures of the row's run; none if it was not measured. */
  text(pairs: readonly Pair<F>[]): string;
}

/** The vertical axis of a chart over the size of the weight files; less is better. */
export interface Chart<F> {
  /** @returns No finite number if the figure has no place in the chart. */
  value(figure: F): number;
  text(value: number): string;
  /** The text at a line of the grid. */
  tick(value: number): string;
}

/**
 * What `evaluate` can measure: its option, its work and all that tables and reports show of it. An
 * entry is an item of the option, a figure what is measured for it.
 */
// deno-lint-ignore no-explicit-any -- the table of metrics holds entries and figures of any kind
export interface Metric<Entry = any, F extends Figure = any> {
  /** The key of `evaluate` that lists the entries: "zero-shot". */
  option: string;
  /** Says in JSON Schema what the list is for. */
  description: string;
  /** The form of an entry. */
  entry: z.ZodType<Entry>;
  /** What sentences call it, in lower case: "zero-shot accuracy". */
  noun: string;
  /** The key of the record's `evaluation` with the figures; absent if they are the evaluation itself. */
  recordKey?: string;

  /** The files that an entry names, on this machine. */
  inputs(context: ModelContext, entry: Entry): Promise<string[]>;
  /** Refuses, before any long work, what would fail hours later. */
  check(context: ModelContext, entry: Entry): Promise<void>;
  /** What a figure is said to be measured on. */
  dataset(entry: Entry): string;
  /**
   * All that a figure depends on beside the model's files. Figures that are kept count as long as these
   * fields stay the same: a metric that comes to measure otherwise needs another field, such as a version.
   *
   * @param data Hashes of the input files.
   */
  key(context: ModelContext, entry: Entry, data: readonly string[]): FigureKey | Promise<FigureKey>;
  /** Whether entries go through the model together; one after the other if absent. */
  together?: boolean;
  /** @param entries One, unless they go together. */
  measure(work: Work, entries: readonly Entry[]): Promise<F[]>;

  /** What it was measured on: figures of the same subject can be compared. */
  subject(figure: F): string;
  /** What metric events tell of a figure. */
  values(figure: F): MetricValue[];

  /** What the terminal shows. */
  terminal: {
    /** What a line of the summary begins with, at most eleven letters. */
    name: string;
    /** The rest of the line. */
    line(pair: Pair<F>): string;
    /** In the table of a grid's cells. */
    columns?: readonly Column<F>[];
  };
  /** What the report of a run shows large; as for `table`, there is at least one pair. */
  tile(pairs: readonly Pair<F>[]): { value: string; note: string };
  /** The table in the report of a run. */
  table(pairs: readonly Pair<F>[]): {
    caption: string;
    head: string[];
    rows: string[][];
    /** The last row sums up the others. */
    total?: boolean;
  };
  /**
   * The columns in the report of several runs.
   *
   * @param pairs Those of all runs, at least one.
   */
  columns(pairs: readonly Pair<F>[]): Column<F>[];
  /** A section of its own in reports; if absent, it has its place in the summary and among the runs. */
  section?: {
    heading: string;
    text: string;
    /** The caption of the table with the columns. */
    caption: string;
  };
  /** In the report of several runs; there is no chart if absent. */
  chart?: Chart<F>;
}

/** The figures of a metric in a record. */
export function measuredIn<F extends Figure>(
  { recordKey }: Metric<unknown, F>,
  evaluation: Evaluation | undefined,
): Measured<F> {
  const found = recordKey === undefined ? evaluation : evaluation?.[recordKey];
  return { original: [], ...found as Partial<Measured<F>> };
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

/** A figure of a pair: that of the packed model if there is one. */
export function lastOf<F>({ before, after }: Pair<F>): F {
  return (after ?? before)!;
}

/** The figures of a pair that are there. */
export function figuresOf<F>({ before, after }: Pair<F>): F[] {
  return [before, after].filter((figure) => figure !== undefined);
}
