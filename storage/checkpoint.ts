import { distance } from "fastest-levenshtein";
import { UserError } from "../base/errors.ts";
import { type Folder, isSystemError, type SourceFile } from "./folder.ts";
import { readJson } from "./json.ts";
import { withMxfp4 } from "./mxfp4.ts";
import { readPytorch } from "./pytorch.ts";
import {
	isFloatDtype,
	partOf,
	readHeader,
	type StoredTensor,
	type TensorPart,
	TensorReader,
	toFloat32,
} from "./safetensors.ts";

/** A function that finds the tensors in a file; see {@link readHeader}. */
type FindTensors = (source: SourceFile) => Map<string, StoredTensor>;

/** The supported weight files of a folder; the first one found is used, as in transformers. */
const FORMATS: { index: string; single: string; find: FindTensors }[] = [
	{
		index: "model.safetensors.index.json",
		single: "model.safetensors",
		find: (source) => readHeader(source).tensors,
	},
	{ index: "pytorch_model.bin.index.json", single: "pytorch_model.bin", find: readPytorch },
];

/**
 * The weights of a model folder: `model.safetensors`, else the shards listed in
 * `model.safetensors.index.json`, else the equivalents of `pytorch_model.bin`. Tensors are read on demand.
 * Shards stay open until the checkpoint is disposed.
 */
export class Checkpoint implements Disposable {
	readonly #reader: TensorReader;
	/**
	 * The tensors by name, in the order of the index or, without one, of the file; those in MXFP4 as what
	 * their codes stand for, see {@link withMxfp4}.
	 */
	readonly tensors: Map<string, StoredTensor>;

	private constructor(
		/** The folder's name in messages. */
		readonly folder: string,
		/** The names of the weight files, the index (if any) first. */
		readonly files: string[],
		tensors: Map<string, StoredTensor>,
		sources: Iterable<SourceFile>,
		/** The shards of tensors that the index lists, but which are not there. */
		readonly missing: ReadonlyMap<string, string> = new Map(),
	) {
		this.tensors = withMxfp4(tensors);
		const byPath = new Map(Array.from(sources, (source) => [source.path, source]));
		this.#reader = new TensorReader((path) => byPath.get(path)!);
	}

	/**
	 * Opens a folder and checks the headers of all its weight files.
	 *
	 * Tensors that the index lists may be missing, as nobody may need them; {@link get} refuses them.
	 *
	 * @throws {UserError} If there are no weights, or a file is missing or damaged.
	 */
	static open(folder: Folder): Checkpoint {
		const names = namesIn(folder);
		for (const { index, single, find } of FORMATS) {
			if (names.includes(single)) {
				const source = folder.file(single);
				return new Checkpoint(folder.path, [single], find(source), [source]);
			}
			if (names.includes(index)) {
				const { tensors, shards, missing } = findInShards(folder, names, index, find);
				const files = [index, ...[...shards.keys()].sort()];
				return new Checkpoint(folder.path, files, tensors, shards.values(), missing);
			}
		}
		const known = FORMATS.map(({ single }) => `"${single}"`).join(" or ");
		throw new UserError(
			`Cannot open "${folder.path}": it has no weights as ${known}, nor an index of such files`,
		);
	}

	/** Opens a single safetensors file of any name. */
	static openFile(source: SourceFile): Checkpoint {
		const { path } = source;
		const [, folder = ".", name] = /^(?:(.*)[\\/])?(.*)$/.exec(path)!;
		return new Checkpoint(folder, [name], readHeader(source).tensors, [source]);
	}

	/** Whether there is a tensor of that name. */
	has(name: string): boolean {
		return this.tensors.has(name);
	}

	/**
	 * A tensor by its name.
	 *
	 * @throws {UserError} If there is no such tensor.
	 */
	get(name: string): StoredTensor {
		const tensor = this.tensors.get(name);
		if (tensor) return tensor;
		const shard = this.missing.get(name);
		if (shard !== undefined) {
			throw new UserError(
				`Cannot open "${this.folder}": "${shard}" has no tensor "${name}", which the index puts ` +
					`there; download both again`,
			);
		}
		const near = [...this.tensors.keys()]
			.map((known) => ({ known, edits: distance(known, name) }))
			.sort((a, b) => a.edits - b.edits)
			.slice(0, 3)
			.map(({ known }) => `"${known}"`);
		throw new UserError(
			`Cannot find tensor "${name}" in "${this.folder}"; ` +
				(near.length > 0 ? `the nearest names are ${near.join(", ")}` : "it has no tensors"),
		);
	}

	/**
	 * The bytes of a tensor, or of a part of it, row-major, in a fresh buffer. See
	 * {@link TensorReader.readBytes}.
	 */
	readBytes(name: string, part?: TensorPart): Uint8Array<ArrayBuffer> {
		const tensor = this.get(name);
		return this.#reader.readBytes(part ? partOf(tensor, part) : tensor);
	}

	/**
	 * The bytes of a tensor, or of a part of it, in pieces. See
	 * {@link TensorReader.readChunks}.
	 */
	readChunks(
		name: string,
		chunkBytes: number,
		part?: TensorPart,
	): Generator<Uint8Array<ArrayBuffer>> {
		const tensor = this.get(name);
		const wanted = part ? partOf(tensor, part) : tensor;
		return this.#reader.readChunks(wanted, chunkBytes);
	}

	/**
	 * The values of a tensor, or of a part of it, row-major, as f32.
	 *
	 * @throws {UserError} If it is not stored as F16, BF16, F32 or F64.
	 */
	readFloat32(name: string, part?: TensorPart): Float32Array<ArrayBuffer> {
		const { dtype, file } = this.get(name);
		if (!isFloatDtype(dtype)) {
			throw new UserError(
				`Cannot use tensor "${name}" of "${file}": it is stored as ${dtype}; ` +
					`F16, BF16, F32 and F64 are supported`,
			);
		}
		return toFloat32(this.readBytes(name, part), dtype);
	}

	/** Closes the files. */
	[Symbol.dispose](): void {
		this.#reader[Symbol.dispose]();
	}
}

function namesIn(folder: Folder): string[] {
	try {
		return folder.names();
	} catch (error) {
		if (!isSystemError(error)) throw error;
		const problem = error.code === "ENOENT"
			? "there is no such folder"
			: error.code === "ENOTDIR"
			? "it is not a folder"
			: error.message;
		throw new UserError(`Cannot open "${folder.path}": ${problem}`);
	}
}

/** The tensors listed in the index, in its order; `names` are the files in the folder. */
function findInShards(
	folder: Folder,
	names: string[],
	index: string,
	find: FindTensors,
): {
	tensors: Map<string, StoredTensor>;
	shards: Map<string, SourceFile>;
	missing: Map<string, string>;
} {
	const missing = new Map<string, string>();
	const found = new Map<string, Map<string, StoredTensor>>();
	const shards = new Map<string, SourceFile>();
	const tensors = new Map<string, StoredTensor>();
	for (const [name, shard] of Object.entries(readWeightMap(folder.file(index)))) {
		if (!names.includes(shard)) {
			throw new UserError(
				`Cannot open "${folder.path}": the index puts "${name}" in "${shard}", which is not there; ` +
					`download the missing file`,
			);
		}
		if (!shards.has(shard)) {
			const source = folder.file(shard);
			shards.set(shard, source);
			found.set(shard, find(source));
		}
		const tensor = found.get(shard)!.get(name);
		if (tensor) tensors.set(name, tensor);
		else missing.set(name, shard);
	}
	return { tensors, shards, missing };
}

/**
 * The file name of each tensor that an index lists.
 *
 * @throws {UserError} If the index cannot be read or lists anything but files in its own folder.
 */
export function readWeightMap(source: SourceFile): Record<string, string> {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${source.path}": ${problem}`);
	};
	const weightMap = readJson(source).weight_map;
	if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap)) {
		return refuse(`it has no object "weight_map"`);
	}
	for (const [name, file] of Object.entries(weightMap)) {
		if (typeof file !== "string" || file === "" || /[\\/:]|^\.\.?$/.test(file)) {
			refuse(
				`it puts "${name}" in ${
					JSON.stringify(file)
				}, which is not the name of a file in its folder`,
			);
		}
	}
	return weightMap as Record<string, string>;
}
