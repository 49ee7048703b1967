import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { denoFile } from "../../storage/deno_folder.ts";
import { readJson } from "../../storage/json.ts";
import { checkValue } from "../config/values.ts";
import type { LayerRecord } from "./events.ts";
import { CELL_RECORD, type CellRecord, moduleOf, RUN_RECORD, type RunRecord } from "./record.ts";

// The forms of records, of whatever version of this program. Keys that they do not name may have any value.
// No number in them can make a sum or a quotient of a report infinite, and none sizes a loop.

const MOST = 1e15;

/** A word that may be the key of an object: not "constructor". */
const key = z.string().refine(
	(word) => !(word in {}),
	"must not be a word of JavaScript's objects",
);
const count = z.int().min(0);
const size = z.int().min(1).max(2 ** 31);
/** Bytes or seconds. */
const amount = z.number().min(0).max(MOST);
const amounts = z.record(key, amount);
const hash = z.string().regex(/^[0-9a-f]{64}$/);
/** JSON has null for a number that is not finite. */
const figure = z.number().min(-MOST).max(MOST).nullish();
const fraction = z.number().min(0).max(1);
const bits = z.number().min(0).max(MOST);

const linearForm = z.looseObject({
	name: z.string(),
	rows: size,
	cols: size,
	relativeOutputError: figure,
	correction: figure,
	method: z.string().optional(),
	dense: z.boolean().optional(),
	exponent: z.int().optional(),
	tokens: count.optional(),
	pooled: z.boolean().optional(),
	storedBytes: amounts,
	paperBits: bits,
	salientColumns: z.array(count),
	salientFraction: fraction.optional(),
	highFraction: fraction,
});

/** The form of the record of a decoder layer, in `layers/` and in run.json. */
export const layerForm = z.looseObject({
	layer: z.int().min(0).max(2 ** 31),
	seconds: amount,
	secondsByStage: amounts.optional(), // not in the first versions
	peakGpuBytes: amount,
	peakGpuBytesByStage: amounts.optional(),
	file: z.string(),
	bytes: amount,
	sha256: z.string(),
	linears: z.array(linearForm),
});

/** The most linear layers of a record, and the most fields of a table of decoder layers and modules. */
const MOST_FIELDS = 100_000;

/** Why a record has too many parts for tables; undefined if it has not. */
function tooLarge(layers: readonly LayerRecord[]): string | undefined {
	const linears = layers.flatMap(({ linears }) => linears);
	const modules = new Set(linears.map(({ name }) => moduleOf(name))).size;
	if (linears.length <= MOST_FIELDS && layers.length * modules <= MOST_FIELDS) return undefined;
	return `must have at most ${MOST_FIELDS} linear layers, and as many products of layers and modules`;
}

const runForm = z.looseObject({
	status: z.enum(["running", "done"]),
	identity: hash,
	billm: z.string(),
	deno: z.string(),
	adapter: z.string(),
	commit: z.string().optional(),
	system: z.string().optional(),
	driver: z.string().optional(),
	backend: z.string().optional(),
	precision: z.string().optional(),
	name: z.string().min(1),
	model: z.string(),
	mode: z.string(),
	seed: count,
	stages: z.array(z.looseObject({ name: key, options: z.looseObject({}) })).min(1),
	inputs: z.record(z.string(), hash),
	commits: z.record(z.string(), z.string()).optional(),
	started: z.string(),
	finished: z.string().optional(),
	seconds: amount.optional(),
	secondsByStage: amounts.optional(),
	peakGpuBytes: amount.optional(),
	peakGpuBytesByStage: amounts.optional(),
	layers: z.array(layerForm).optional().superRefine((layers, { addIssue }) => {
		const message = tooLarge((layers ?? []) as LayerRecord[]);
		if (message !== undefined) addIssue(message);
	}),
	allocation: z.record(z.string(), z.looseObject({})).optional(),
	packed: z.looseObject({
		folder: z.string(),
		files: z.array(z.looseObject({ name: z.string(), bytes: amount, sha256: hash })),
		bytes: amount,
		originalBytes: amount,
		weights: amount,
		paperBits: bits,
		storedBits: bits,
		storedBitsByPart: z.record(key, bits),
	}).optional(),
	// The figures of metrics are checked by the metrics.
	evaluation: z.looseObject({
		original: z.array(z.unknown()).optional(),
		packed: z.array(z.unknown()).optional(),
		sample: z.looseObject({
			prompt: z.string(),
			original: z.string().optional(),
			packed: z.string().optional(),
		}).optional(),
	}).optional(),
});

/** More cells than a grid can have; those that are missing are listed. */
const MOST_CELLS = 10_000;

const cellForm = z.looseObject({
	grid: z.string(),
	cell: z.string().min(1),
	index: z.int().min(1),
	cells: z.int().min(1).max(MOST_CELLS),
	values: z.record(key, z.unknown()).optional(),
	status: z.enum(["done", "failed"]),
	error: z.string().optional(),
	started: z.string().optional(),
	finished: z.string().optional(),
});

/** The record of a grid's cell as it may be found, possibly without times. */
export type FoundCell =
	& Omit<CellRecord, "started" | "finished">
	& Partial<Pick<CellRecord, "started" | "finished">>;

/**
 * Reads the run.json of a folder.
 *
 * @throws {UserError} If it cannot be read, or is not a record of this program in each of its parts. The
 *   figures in `evaluation` are left to their metrics.
 */
export function readRunRecord(folder: string): RunRecord {
	return readAs<RunRecord>(join(folder, RUN_RECORD), RUN_RECORD, runForm);
}

/**
 * Reads the cell.json of a folder.
 *
 * @throws {UserError} If it cannot be read, or is not the record of a cell in each of its parts.
 */
export function readCellRecord(folder: string): FoundCell {
	const path = join(folder, CELL_RECORD);
	const cell = readAs<FoundCell>(path, CELL_RECORD, cellForm);
	if (cell.index <= cell.cells) return { ...cell, values: cell.values ?? {} };
	throw new UserError(
		`"${path}" is not a record of this program: it has the index ${cell.index} of ${cell.cells} cells`,
	);
}

/** Whether a value is the record of a decoder layer. */
export function isLayerRecord(value: unknown): value is LayerRecord {
	return layerForm.safeParse(value).success;
}

function readAs<T>(path: string, title: string, form: z.ZodObject): T {
	const value = readJson(denoFile(path));
	const [issue] = checkValue(form, value, title).issues;
	if (issue) throw new UserError(`"${path}" is not a record of this program: ${issue.message}`);
	return value as T;
}
