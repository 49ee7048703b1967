import { readdirSync, statSync } from "node:fs";
import { basename, extname, join, resolve } from "node:path";
import { didYouMean } from "../base/did_you_mean.ts";
import { plural } from "../base/figures.ts";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "../storage/folder.ts";
import { cropDocuments, type TokenSource } from "./document_crops.ts";
import { hasRows, readRows, ROW_EXTENSIONS } from "./rows.ts";
import { joinTexts } from "./texts.ts";
import { consecutiveWindows, randomWindows, readTokenIds } from "./windows.ts";

/**
 * A function that downloads files of a repository of the Hugging Face hub.
 *
 * @param paths Paths in the repository.
 * @returns The folder with these paths.
 */
export type FetchFiles = (
	repository: { type: "dataset"; id: string; revision: string },
	paths: string[],
) => Promise<string>;

/** The use of a data set. */
export type DatasetUse = "calibration" | "evaluation";

/** @internal */
export interface CalibrationOptions {
	/** Number of windows. */
	samples: number;
	/** Tokens per window. */
	length: number;
	/** Seed of Python's `random`: an integer of at most 53 bits. */
	seed: number;
	/** Called periodically; may throw to abort. */
	pause?: () => Promise<void>;
}

/** @internal */
export interface EvaluationOptions {
	/** Tokens per window. */
	length: number;
	/** Maximum number of windows; default all. */
	limit?: number;
}

/** A data set with local files, which are read on demand. */
export interface LocalDataset {
	/** Its name or path in the pipeline file. */
	name: string;
	/** All files that the windows come from. */
	files: string[];
	/**
	 * Calibration windows; a larger number only adds windows.
	 *
	 * @param tokenizer Not called if the data are token ids.
	 * @throws {UserError} If the data are damaged or insufficient.
	 */
	calibration(tokenizer: () => TokenSource, options: CalibrationOptions): Promise<Int32Array[]>;
	/**
	 * Evaluation windows: consecutive ones; an incomplete last window is dropped.
	 *
	 * @param tokenizer Not called if the data are token ids.
	 * @throws {UserError} If the data are damaged or shorter than one window.
	 */
	evaluation(tokenizer: () => TokenSource, options: EvaluationOptions): Promise<Int32Array[]>;
}

/** A split of a data set on the hub. */
interface Split {
	/** Path in the repository. */
	file: string;
	/**
	 * Source of windows: the text of all documents, joined with a separator; or single documents.
	 */
	windows: { joinedBy: string } | "within-documents";
	/** Maximum number of documents. */
	documents?: number;
	/** Maximum number of windows. */
	limit?: number;
}

/** A data set on the hub, with the preprocessing of published perplexities. */
export interface NamedDataset {
	/** Name of the repository. */
	id: string;
	revision: string;
	/** Column of the texts. */
	column: string;
	calibration: Split;
	evaluation: Split;
}

/**
 * The named data sets, read as in GPTQ and the released BiLLM program.
 *
 * @see https://github.com/Aaronhuang-778/BiLLM
 */
export const DATASETS: Readonly<Record<string, NamedDataset>> = {
	wikitext2: {
		id: "Salesforce/wikitext",
		revision: "main",
		column: "text",
		calibration: {
			file: "wikitext-2-raw-v1/train-00000-of-00001.parquet",
			windows: { joinedBy: " " },
		},
		evaluation: {
			file: "wikitext-2-raw-v1/test-00000-of-00001.parquet",
			windows: { joinedBy: "\n\n" },
		},
	},
	ptb: {
		id: "ptb-text-only/ptb_text_only",
		revision: "refs/convert/parquet", // the main branch has only a script
		column: "sentence",
		calibration: { file: "penn_treebank/train/0000.parquet", windows: { joinedBy: " " } },
		evaluation: { file: "penn_treebank/test/0000.parquet", windows: { joinedBy: " " } },
	},
	c4: {
		id: "allenai/c4",
		revision: "main",
		column: "text",
		calibration: { file: "en/c4-train.00000-of-01024.json.gz", windows: "within-documents" },
		evaluation: {
			file: "en/c4-validation.00000-of-00008.json.gz",
			windows: { joinedBy: " " },
			documents: 1100,
			limit: 256,
		},
	},
};

/**
 * The data set of a name or path. A name of {@link DATASETS} takes precedence over a file of this name;
 * write `./c4` for the file.
 *
 * A path is a file that {@link readRows} reads, a folder of such files (in the order of their
 * names, subfolders left out), or a safetensors file of token ids. Documents and files are joined
 * with an empty line between them.
 *
 * @param fetch Called for a named data set, with the file for this use.
 * @throws {UserError} If the name or path does not exist or contains no readable data.
 */
export async function openDataset(
	dataset: string,
	use: DatasetUse,
	fetch: FetchFiles,
): Promise<LocalDataset> {
	if (Object.hasOwn(DATASETS, dataset)) return await openNamed(dataset, use, fetch);
	let folder = false;
	try {
		folder = statSync(dataset).isDirectory();
	} catch (error) {
		const isMissing = (error as { code?: string }).code === "ENOENT";
		if (isMissing && !/[/\\]/.test(dataset) && extname(dataset) === "") throw unknown(dataset);
		throw new UserError(`Cannot read "${dataset}": ${reasonOf(error)}`);
	}
	const name = basename(resolve(dataset));
	if (folder) return openTexts(name, filesOf(dataset));
	if (dataset.toLowerCase().endsWith(".safetensors")) return openTokenIds(name, dataset);
	if (hasRows(dataset)) return openTexts(name, [dataset]);
	throw new UserError(
		`Cannot read "${dataset}": its name ends in none of ${ROW_EXTENSIONS.join(", ")} and ` +
			`.safetensors; let the name of a plain text end in .txt`,
	);
}

function unknown(dataset: string): UserError {
	const names = Object.keys(DATASETS);
	const guess = didYouMean(dataset, names);
	return new UserError(
		`Unknown dataset "${dataset}"${guess === undefined ? "" : `, did you mean "${guess}"`}; ` +
			`known are ${names.join(", ")}, and paths of files and folders`,
	);
}

async function openNamed(name: string, use: DatasetUse, fetch: FetchFiles): Promise<LocalDataset> {
	const { id, revision, column, [use]: split } = DATASETS[name];
	const folder = await fetch({ type: "dataset", id, revision }, [split.file]);
	const file = join(folder, split.file);
	const documents = () => first(readRows(file, column), split.documents);
	const encode = async (tokenizer: () => TokenSource): Promise<number[]> => {
		if (split.windows === "within-documents") throw new Error(`"${name}" is no text to join`);
		const separator = split.windows.joinedBy;
		return tokenizer().encode(await joinTexts(documents(), { separator, name }));
	};
	const check = (asked: DatasetUse) => {
		if (asked !== use) throw new Error(`"${name}" was opened for ${use}, not for ${asked}`);
	};
	return {
		name,
		files: [file],
		async calibration(tokenizer, { pause, ...options }) {
			check("calibration");
			if (split.windows === "within-documents") {
				return await cropDocuments(file, tokenizer(), { ...options, column, pause });
			}
			const { samples, length, seed } = options;
			return randomWindows(await encode(tokenizer), length, samples, seed, { name });
		},
		async evaluation(tokenizer, { length, limit = Infinity }) {
			check("evaluation");
			const most = Math.min(limit, split.limit ?? Infinity);
			return consecutiveWindows(await encode(tokenizer), length, { limit: most, name });
		},
	};
}

async function* first<Item>(items: AsyncIterable<Item>, count = Infinity): AsyncGenerator<Item> {
	if (count <= 0) return;
	for await (const item of items) {
		yield item;
		if (--count <= 0) return;
	}
}

function filesOf(folder: string): string[] {
	let files: string[] = [];
	try {
		const names = readdirSync(folder).filter((name) => !name.startsWith(".") && hasRows(name));
		files = names.sort().map((name) => join(folder, name));
		files = files.filter((file) => statSync(file).isFile());
	} catch (error) {
		throw new UserError(`Cannot read "${folder}": ${reasonOf(error)}`);
	}
	if (files.length > 0) return files;
	throw new UserError(
		`Cannot read "${folder}": the folder has no file that ends in ${ROW_EXTENSIONS.join(", ")}; ` +
			`its subfolders are not searched`,
	);
}

function openTexts(name: string, files: string[]): LocalDataset {
	const documents = async function* () {
		for (const file of files) yield* readRows(file);
	};
	const encode = async (tokenizer: () => TokenSource): Promise<number[]> =>
		tokenizer().encode(await joinTexts(documents(), { separator: "\n\n", name }));
	return {
		name,
		files,
		async calibration(tokenizer, { samples, length, seed }) {
			return randomWindows(await encode(tokenizer), length, samples, seed, { name });
		},
		async evaluation(tokenizer, { length, limit }) {
			return consecutiveWindows(await encode(tokenizer), length, { limit, name });
		},
	};
}

function openTokenIds(name: string, file: string): LocalDataset {
	const read = (length: number): Int32Array[] => {
		const windows = readTokenIds(file);
		if (windows[0].length < length) {
			throw new UserError(
				`The token windows of "${name}" have ${windows[0].length} ${
					plural(windows[0].length, "token")
				}, fewer than ` +
					`sequence-length ${length}; use a smaller sequence-length`,
			);
		}
		return windows.map((window) => window.subarray(0, length));
	};
	return {
		name,
		files: [file],
		async calibration(_tokenizer, { samples, length }) {
			const windows = read(length);
			if (windows.length < samples) {
				throw new UserError(
					`"${name}" holds ${windows.length} ${
						plural(windows.length, "window")
					}, fewer than samples ${samples}; ` +
						`use a smaller number of samples`,
				);
			}
			return windows.slice(0, samples);
		},
		evaluation: async (_tokenizer, { length, limit }) => read(length).slice(0, limit),
	};
}
