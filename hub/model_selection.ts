import { UserError } from "../base/errors.ts";
import { SMALL_FILES } from "../models/model_files.ts";
import { readWeightMap } from "../storage/checkpoint.ts";
import { denoFile } from "../storage/deno_folder.ts";

/** The weight files of a model in the selected format. */
export interface ModelWeights {
	/** The index of the shards, if any. */
	index?: string;
	/** The weight files; with an index, the files named like its shards. */
	files: string[];
}

/** File names of the supported formats, the preferred one first. */
const FORMATS = [
	{
		single: "model.safetensors",
		index: "model.safetensors.index.json",
		shard: /^model-\d+-of-\d+\.safetensors$/,
	},
	{
		single: "pytorch_model.bin",
		index: "pytorch_model.bin.index.json",
		shard: /^pytorch_model-\d+-of-\d+\.bin$/,
	},
];

/** File name extensions of unsupported weight formats. */
const FOREIGN_FORMATS: Record<string, string> = {
	gguf: "GGUF",
	onnx: "ONNX",
	h5: "TensorFlow",
	msgpack: "Flax",
	ot: "rust-bert",
	pth: "PyTorch under another name",
	pt: "PyTorch under another name",
	bin: "PyTorch under another name",
	safetensors: "safetensors under another name",
	npz: "NumPy",
	ckpt: "a checkpoint of TensorFlow or Lightning",
	mlmodel: "Core ML",
	tflite: "TensorFlow Lite",
};

/** The small files of a model among the names in a folder or repository. */
export function smallFiles(names: string[]): string[] {
	return SMALL_FILES.filter((name) => names.includes(name));
}

/**
 * The weights among the names in a folder or repository: safetensors if present, otherwise PyTorch. A
 * single file takes precedence over an index, as in transformers and when a folder is opened.
 */
export function modelWeights(names: string[]): ModelWeights | undefined {
	for (const { single, index, shard } of FORMATS) {
		if (names.includes(single)) return { files: [single] };
		if (names.includes(index)) return { index, files: names.filter((name) => shard.test(name)) };
	}
	return undefined;
}

/** The unsupported weight formats of a repository, for messages: 'GGUF ("a.gguf" and 3 more)'. */
export function foreignWeights(names: string[]): string | undefined {
	const byFormat = Map.groupBy(names, (name) => FOREIGN_FORMATS[name.split(".").at(-1)!]);
	const found = [...byFormat].filter(([format]) => format !== undefined);
	if (found.length === 0) return undefined;
	return found
		.map(([format, [first, ...others]]) =>
			`${format} ("${first}"${others.length > 0 ? ` and ${others.length} more` : ""})`
		)
		.join(", ");
}

/**
 * The sorted shards of an index.
 *
 * @throws {UserError} If the file cannot be read or does not list file names.
 */
export function shardsOf(index: string): string[] {
	const shards = [...new Set(Object.values(readWeightMap(denoFile(index))))].sort();
	if (shards.length > 0) return shards;
	throw new UserError(`Cannot read "${index}": its "weight_map" is empty`);
}
