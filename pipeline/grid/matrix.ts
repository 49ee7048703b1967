import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { isRecord } from "../../base/record.ts";
import { hint, type Issue, type Path, show } from "../config/values.ts";

/** A value that a cell of a grid sets in the pipeline. */
export interface Setting {
	/** Path as in `--set`: "stages.calibrate.samples". */
	name: string;
	/** Place in the file. */
	path: Path;
}

/** One combination of a matrix. */
export interface MatrixCell {
	/** Name: unique, stable, valid as a folder name: "tiny-llama,rtn-2". */
	name: string;
	/** Values of the axes and of additions by `include`; for a variant its name. */
	values: Record<string, unknown>;
	/** Settings, shorter paths first, so that longer ones apply within them. */
	settings: Setting[];
}

/** The keys of a pipeline that may vary between cells. */
export const VARIABLE_KEYS = ["model", "recipe", "seed", "mode", "gpu", "stages"];
/** Maximum number of combinations of a matrix. */
export const MAX_CELLS = 1000;
/** Maximum length of a cell name: file systems allow 255 bytes per folder, CI artifacts fewer. */
const MAX_NAME = 120;
const WORD = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
const WORD_TEXT = 'letters, digits, ".", "_" and "-", beginning with a letter or digit';

/** A value of an axis or of `include`. */
interface Value {
	/** The value used in comparisons; for a variant its name. */
	value: unknown;
	settings: Setting[];
	path: Path;
}

/** A key of the matrix with its values. */
interface Axis {
	name: string;
	/** Whether its values are maps with a name and several settings. */
	hasVariants: boolean;
	values: Value[];
}

/** A cell without a name: its values by axis, or by path for additions by `include`. */
interface CellDraft {
	values: Map<string, Value>;
	/** Place of the entry of `include` that created it. */
	included?: Path;
}

/**
 * The cells of a matrix, with the rules of GitHub Actions for `include` and `exclude`: a combination is
 * excluded if it has all values of an entry of `exclude`; an entry of `include` is added to each
 * combination whose values it does not change, and otherwise becomes a cell.
 *
 * @param matrix The value of `matrix` in the pipeline file.
 * @returns The cells in the order of the file, the first axis varying slowest, and the issues, whose paths
 *   begin with "matrix".
 * @see https://docs.github.com/actions/how-tos/write-workflows/choose-what-workflows-do/run-job-variations
 */
export function matrixCells(matrix: unknown): { cells: MatrixCell[]; issues: Issue[] } {
	const reader = new MatrixReader();
	return { cells: reader.read(matrix), issues: reader.issues };
}

class MatrixReader {
	readonly issues: Issue[] = [];
	#axes: Axis[] = [];

	read(matrix: unknown): MatrixCell[] {
		const form = 'a map of lists, such as "model: [a, b]"';
		if (!isRecord(matrix)) {
			return this.#fail(["matrix"], `matrix must be ${form}, found ${show(matrix)}`);
		}
		const { include = [], exclude = [], ...axes } = matrix;
		for (const [name, values] of Object.entries(axes)) this.#readAxis(name, values);
		const excluded = this.#readEntries("exclude", exclude);
		const included = this.#readEntries("include", include);
		if (this.issues.length > 0) return [];

		const count = this.#axes.reduce((product, { values }) => product * values.length, 1);
		if (count > MAX_CELLS) {
			return this.#fail(
				["matrix"],
				`matrix has ${count} combinations; at most ${MAX_CELLS} can be run`,
			);
		}
		const drafts = this.#combinations()
			.filter((draft) => !excluded.some((entry) => holds(draft, entry)));
		const all = this.#include(drafts, included);
		if (all.length === 0) {
			const why = this.#axes.length > 0 ? "exclude leaves no combination" : "it has no values";
			return this.#fail(["matrix"], `matrix gives no cell: ${why}`);
		}
		const names = this.#names(all);
		return all.map((draft, i) => ({
			name: names[i],
			values: Object.fromEntries([...draft.values].map(([key, { value }]) => [key, value])),
			settings: this.#settings(draft, names[i]),
		}));
	}

	#fail(path: Path, message: string, part: Issue["part"] = "value"): [] {
		this.issues.push({ path, part, message });
		return [];
	}

	#readAxis(name: string, list: unknown): void {
		const path = ["matrix", name];
		if (isSetting(name)) {
			if (!this.#isFullList(path, list)) return;
			const values = list.map((value, i): Value => ({
				value,
				path: [...path, i],
				settings: [{ name, path: [...path, i] }],
			}));
			for (const [i, { value, path }] of values.entries()) {
				if (!values.slice(0, i).some((other) => isDeepStrictEqual(other.value, value))) continue;
				this.#fail(path, `matrix.${name} has ${show(value)} twice`);
			}
			this.#axes.push({ name, hasVariants: false, values });
			return;
		}
		const items = Array.isArray(list) ? list : [];
		const haveNames = items.some((item) => isRecord(item) && "name" in item);
		if (!WORD.test(name) || name.includes(".") || isTaken(name) || !haveNames) {
			this.#fail(path, this.#unknownKey(name, "matrix", ["include", "exclude"]), "key");
			return;
		}
		if (!this.#isShort(path, items)) return;
		const values: Value[] = [];
		for (const [i, item] of items.entries()) {
			const variant = this.#readVariant(item, [...path, i], `matrix.${name}.${i}`);
			if (!variant) continue;
			if (values.some((other) => sameName(other.value, variant.value))) {
				this.#fail([...path, i, "name"], `matrix.${name} has the name "${variant.value}" twice`);
			}
			values.push(variant);
		}
		this.#axes.push({ name, hasVariants: true, values });
	}

	#isFullList(path: Path, list: unknown): list is unknown[] {
		const name = path.join(".");
		if (!Array.isArray(list)) {
			this.#fail(path, `${name} must be a list of values, found ${show(list)}`);
		} else if (list.length === 0) this.#fail(path, `${name} must not be empty, found []`);
		return Array.isArray(list) && list.length > 0 && this.#isShort(path, list);
	}

	/** Whether a list has no more items than there can be cells. */
	#isShort(path: Path, list: readonly unknown[]): boolean {
		if (list.length <= MAX_CELLS) return true;
		const name = path.join(".");
		this.#fail(path, `${name} has ${list.length} values; at most ${MAX_CELLS} can be run`);
		return false;
	}

	/** A map of settings under a name. */
	#readVariant(item: unknown, path: Path, title: string): Value | undefined {
		if (!isRecord(item)) {
			const form = 'a map with a "name" and the values that it sets';
			this.#fail(path, `${title} must be ${form}, found ${show(item)}`);
			return;
		}
		const { name, ...fields } = item;
		const settings: Setting[] = [];
		for (const key of Object.keys(fields)) {
			if (isSetting(key)) settings.push({ name: key, path: [...path, key] });
			else this.#fail([...path, key], this.#unknownKey(key, title, ["name"]), "key");
		}
		if (name === undefined) this.#fail(path, `${title} lacks "name": what its cells are called`);
		else if (typeof name !== "string" || !WORD.test(name)) {
			this.#fail([...path, "name"], `${title}.name must be ${WORD_TEXT}, found ${show(name)}`);
		} else return { value: name, settings, path };
	}

	/** Entries of `include` or `exclude`: their values by axis or path. */
	#readEntries(key: "include" | "exclude", list: unknown): CellDraft[] {
		const entries: CellDraft[] = [];
		if (!Array.isArray(list)) {
			return this.#fail(
				["matrix", key],
				`matrix.${key} must be a list of maps, found ${show(list)}`,
			);
		}
		if (!this.#isShort(["matrix", key], list)) return [];
		for (const [i, entry] of list.entries()) {
			const path = ["matrix", key, i];
			const title = `matrix.${key}.${i}`;
			if (!isRecord(entry) || Object.keys(entry).length === 0) {
				this.#fail(path, `${title} must be a map of values, found ${show(entry)}`);
				continue;
			}
			const values = new Map<string, Value>();
			for (const [name, value] of Object.entries(entry)) {
				const read = this.#readEntryValue(key, name, value, [...path, name], title);
				if (read) values.set(name, read);
			}
			entries.push({ values, included: path });
		}
		return entries;
	}

	#readEntryValue(
		key: "include" | "exclude",
		name: string,
		value: unknown,
		path: Path,
		title: string,
	): Value | undefined {
		const axis = this.#axes.find((axis) => axis.name === name);
		const known = axis?.values.find((other) => isDeepStrictEqual(other.value, value));
		if (known) return known;
		const names = this.#axes.map(({ name }) => name);
		if (!axis && (key === "exclude" || !isSetting(name))) {
			this.#fail(
				path,
				key === "include"
					? this.#unknownKey(name, title, names)
					: `${title} names "${name}", which is no key of matrix${hint(name, names, "its keys")}`,
				"key",
			);
			return;
		}
		if (axis && (key === "exclude" || (axis.hasVariants && !isRecord(value)))) {
			const choices = axis.values.map(({ value }) =>
				typeof value === "string" ? value : show(value)
			);
			const rest = hint(String(value), choices, "they are");
			this.#fail(
				path,
				`${title}.${name} is none of the values of matrix.${name}, found ${show(value)}${rest}`,
			);
			return;
		}
		if (!axis?.hasVariants) return { value, path, settings: [{ name, path }] };
		const variant = this.#readVariant(value, path, `${title}.${name}`);
		if (!variant || !axis.values.some((other) => sameName(other.value, variant.value))) {
			return variant;
		}
		const message = `${title}.${name} has the name "${variant.value}" of another; ` +
			`write "${name}: ${variant.value}" to mean that one`;
		this.#fail([...path, "name"], message);
	}

	#unknownKey(name: string, title: string, others: string[]): string {
		const [first] = name.split(".");
		if (name.split(".").includes("") && first !== "") {
			return `Key "${name}" in ${title} must be a path such as "stages.calibrate.samples"`;
		}
		if (isTaken(first)) return `"${first}" cannot vary: every cell has the grid's own`;
		const known = [...new Set([...VARIABLE_KEYS, ...others])];
		// The hint is about the first word of the path.
		const text = `Unknown key "${name}" in ${title}${hint(first, known, "known keys")}`;
		return title === "matrix" && !name.includes(".")
			? `${text} (a key of your own must have a list of maps, each with a "name")`
			: text;
	}

	#combinations(): CellDraft[] {
		if (this.#axes.length === 0) return [];
		let drafts: CellDraft[] = [{ values: new Map() }];
		for (const { name, values } of this.#axes) {
			drafts = drafts.flatMap((draft) =>
				values.map((value) => ({ values: new Map([...draft.values, [name, value]]) }))
			);
		}
		return drafts;
	}

	#include(drafts: CellDraft[], entries: CellDraft[]): CellDraft[] {
		const added: CellDraft[] = [];
		for (const entry of entries) {
			const isOfAxis = ([name]: [string, Value]) => this.#axes.some((axis) => axis.name === name);
			const own = { values: new Map([...entry.values].filter(isOfAxis)) };
			const matching = drafts.filter((draft) => holds(draft, own));
			// Additions of earlier entries may be replaced, values of the matrix may not.
			for (const draft of matching) {
				entry.values.forEach((value, name) => draft.values.set(name, value));
			}
			if (matching.length > 0) continue;
			const same = added.findIndex((other) =>
				other.values.size === entry.values.size && holds(other, entry)
			);
			if (same >= 0) {
				const first = added[same].included!.join(".");
				this.#fail(entry.included!, `${entry.included!.join(".")} is the same cell as ${first}`);
			} else added.push(entry);
		}
		return [...drafts, ...added];
	}

	/** The names of the cells. */
	#names(drafts: CellDraft[]): string[] {
		const keys = [
			...new Set([
				...this.#axes.map(({ name }) => name),
				...drafts.flatMap(({ values }) => [...values.keys()]),
			]),
		];
		const labels = new Map(keys.map((key) => {
			const axis = this.#axes.find(({ name }) => name === key);
			const given = drafts.flatMap(({ values }) => values.get(key) ?? []);
			const values = distinct([...axis?.values ?? [], ...given].map(({ value }) => value));
			const prefix = axis?.hasVariants || key === "model" ? "" : `${shortKey(key, keys)}-`;
			return [key, { values, texts: labelsOf(values).map((label) => prefix + label) }];
		}));
		const label = (key: string, { value }: Value) => {
			const { values, texts } = labels.get(key)!;
			return texts[values.findIndex((other) => isDeepStrictEqual(other, value))];
		};
		const names: string[] = [];
		for (const { values, included } of drafts) {
			// Additions do not distinguish combinations.
			const named = keys.filter((key) =>
				values.has(key) && (included || this.#axes.some((axis) => axis.name === key))
			);
			const name = cut(named.map((key) => label(key, values.get(key)!)).join(","));
			let unique = name;
			for (let i = 2; names.some((other) => sameName(other, unique)); i++) unique = `${name}-${i}`;
			names.push(unique);
		}
		return names;
	}

	#settings({ values }: CellDraft, cell: string): Setting[] {
		const settings = [...values.values()].flatMap(({ settings }) => settings)
			.toSorted((a, b) => a.name.split(".").length - b.name.split(".").length);
		for (const [i, { name, path }] of settings.entries()) {
			if (!settings.slice(0, i).some((other) => other.name === name)) continue;
			this.#fail(path, `Cell "${cell}" has "${name}" set twice; leave one of them out`);
		}
		return settings;
	}
}

/** Whether a cell has all values of an entry. */
function holds(draft: CellDraft, entry: CellDraft): boolean {
	return [...entry.values].every(([name, { value }]) =>
		draft.values.has(name) && isDeepStrictEqual(draft.values.get(name)!.value, value)
	);
}

/** Whether a key is a path below one of {@link VARIABLE_KEYS}. */
function isSetting(name: string): boolean {
	const keys = name.split(".");
	return VARIABLE_KEYS.includes(keys[0]) && !keys.includes("");
}

/** Whether a key is shared by all cells. */
function isTaken(name: string): boolean {
	return ["name", "output", "matrix"].includes(name);
}

/** Whether names are equal on file systems that ignore case. */
function sameName(a: unknown, b: unknown): boolean {
	return String(a).toLowerCase() === String(b).toLowerCase();
}

// --- Names --------------------------------------------------------------------------------------

/** The shortest suffix of a path that no other path has, as a word. */
function shortKey(key: string, keys: readonly string[]): string {
	const parts = key.split(".");
	for (let count = 1; count < parts.length; count++) {
		const end = parts.slice(-count).join(".");
		if (!keys.some((other) => other !== key && `.${other}`.endsWith(`.${end}`))) return slug(end);
	}
	return slug(key);
}

/** A label for each value of a key: the end of a path, a number, or the position in the list. */
function labelsOf(values: readonly unknown[]): string[] {
	const choices = values.map((value, i) => {
		const place = String(i + 1);
		if (typeof value !== "string") {
			return [Object(value) === value ? place : String(value).replace("+", "")];
		}
		return [slug(value.split("/").findLast((part) => part !== "") ?? ""), slug(value), place]
			.filter((text) => text !== "");
	});
	return choices.map((options, i) => {
		// A short label must be unambiguous.
		const label = options.find((option) =>
			!choices.some((other, j) => j !== i && other.some((text) => sameName(text, option)))
		);
		return label ?? `${options[0]}-${i + 1}`;
	});
}

function distinct(values: readonly unknown[]): unknown[] {
	return values.filter((value, i) =>
		values.findIndex((other) => isDeepStrictEqual(other, value)) === i
	);
}

/** A text reduced to characters that are safe in file systems and shells. */
function slug(text: string): string {
	return text.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+|[.-]+$/g, "");
}

/** A name cut to {@link MAX_NAME} characters, with a hash to keep it unique. */
function cut(name: string): string {
	if (name.length <= MAX_NAME) return name;
	const hash = createHash("sha256").update(name).digest("hex").slice(0, 8);
	return `${name.slice(0, MAX_NAME - 9)}-${hash}`;
}
