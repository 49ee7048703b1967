import { UserError } from "../base/errors.ts";
import { isPackedEmbedding } from "../codecs/embedding/embedding.ts";
import {
	type QuantizationConfig,
	readQuantizationConfig,
	type RotationConfig,
	type StackConfig,
} from "../codecs/quantization_config.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { type FileFetcher, type Folder, isSystemError } from "../storage/folder.ts";
import { readJson, readJsonToWrite } from "../storage/json.ts";
import { filesOf } from "../storage/mxfp4.ts";
import { FORMAT_VERSION } from "../storage/packed_metadata.ts";
import type { Architecture } from "./architectures/architecture.ts";
import { ARCHITECTURES, readArchitecture } from "./architectures/mod.ts";
import { LayerPlan } from "./layer_plan.ts";
import { requirePackedFiles, unreadTensors } from "./required_tensors.ts";
import { TextTokenizer, TOKENIZER_FILES } from "./tokenizers/tokenizer.ts";

/** The files of a model besides its weights, as far as they exist. */
export const SMALL_FILES = ["config.json", "generation_config.json", ...TOKENIZER_FILES];

/** A model in a folder: its configuration, weights and tokenizer. */
export class ModelFiles implements Disposable {
	#tokenizer?: TextTokenizer;

	private constructor(
		readonly source: Folder,
		/** The model's name in messages. */
		readonly name: string,
		/** The content of config.json. */
		readonly config: Record<string, unknown>,
		readonly architecture: Architecture,
		readonly checkpoint: Checkpoint,
		/** The `quantization_config` of a packed model; undefined for a plain one. */
		readonly quantization: QuantizationConfig | undefined,
		/** Whether the weights are not those of the folder. */
		readonly hasOtherWeights = false,
	) {}

	/**
	 * Opens a model folder in the layout of transformers, plain or packed.
	 *
	 * @param name The model's name in messages; the folder if absent.
	 * @throws {UserError} If a file is missing, damaged or not supported.
	 */
	static open(folder: Folder, name = folder.path): ModelFiles {
		if (!isThere(folder)) {
			throw new UserError(
				`Cannot open the model "${folder.path}": there is no such folder; ` +
					`give the folder that holds config.json and the weights, ` +
					`or a name on the hub such as facebook/opt-125m`,
			);
		}
		const { config, architecture, quantization } = readConfig(folder, name);
		const checkpoint = Checkpoint.open(folder);
		try {
			if (quantization) requirePackedFiles(checkpoint, quantization);
			const named = withNamesOf(checkpoint, architecture);
			const untied = withOtherHead(checkpoint, named, folder.fetcher !== undefined);
			const model = new ModelFiles(
				folder,
				name,
				untied ? { ...config, tie_word_embeddings: false } : config,
				untied ?? named,
				checkpoint,
				quantization,
			);
			if (untied) {
				model.warnings.push(
					`"${name}": config.json ties the head to the embedding, but the files hold another ` +
						`"lm_head.weight"; it is used, as in version 5 of transformers`,
				);
			}
			const unread = unreadTensors(model);
			if (unread !== undefined) model.warnings.push(`"${name}": ${unread}`);
			return model;
		} catch (error) {
			checkpoint[Symbol.dispose]();
			throw error;
		}
	}

	/** Contradictions between config.json and the weights, to be told to the user. */
	readonly warnings: string[] = [];

	/** The folder's name in messages; its path if it is on disk. */
	get folder(): string {
		return this.source.path;
	}

	/** The content of config.json for a file that is made of it, its numbers spelled as they are there. */
	configToWrite(): Record<string, unknown> {
		const isUntied = this.config.tie_word_embeddings === false;
		return {
			...readJsonToWrite(this.source.file("config.json")),
			...(isUntied && { tie_word_embeddings: false }),
		};
	}

	/**
	 * The `quantization_config` of this model after packing.
	 *
	 * @param version The version of the packed format.
	 * @param method The stage that quantized the linear layers; absent for BiLLM's own method.
	 * @param rotation The rotation of their inputs, if any.
	 */
	packedConfig(
		blockSize: number,
		version = FORMAT_VERSION,
		method?: string,
		rotation?: RotationConfig,
	): QuantizationConfig {
		const { architecture } = this;
		const columns: Record<string, number> = {};
		const fused: Record<string, string[]> = {};
		const stacked: Record<string, StackConfig> = {};
		for (let i = 0; i < architecture.layers; i++) {
			const own: Record<string, string[]> = {};
			for (const { linears, cols, fused: name, stack } of new LayerPlan(architecture, i).groups) {
				const modules = linears.map(({ module }) => module);
				if (name) (own[name] ??= []).push(...modules);
				if (name && stack) {
					stacked[name] = { matrices: stack.of, ...(stack.columns && { columns: true }) };
				}
				for (const module of modules) {
					if ((columns[module] ??= cols) !== cols) {
						columns[architecture.names.layer(i) + module] = cols;
					}
				}
			}
			Object.assign(fused, own);
		}
		return {
			quant_method: "billm",
			...(method && { method }),
			format_version: version,
			block_size: blockSize,
			columns,
			...(Object.keys(fused).length > 0 && { fused }),
			...(Object.keys(stacked).length > 0 && { stacked }),
			...(rotation && { rotation }),
		};
	}

	/** The same model with other weights, such as a part of its packed form. */
	withWeights(checkpoint: Checkpoint, quantization: QuantizationConfig): ModelFiles {
		const { source, name, config, architecture } = this;
		return new ModelFiles(source, name, config, architecture, checkpoint, quantization, true);
	}

	/**
	 * Waits until the tensors of a decoder layer can be read, where files are fetched when they are needed.
	 * Those of the next layer that has others, or those behind the last one, are fetched meanwhile. Files that
	 * neither has are removed, unless they hold tensors outside the layers.
	 *
	 * @param isAlone Whether later layers are not needed.
	 * @throws {UserError} If a file cannot be fetched.
	 */
	async fetchLayer(layer: number, isAlone = false): Promise<void> {
		const files = this.#files;
		if (!files) return;
		const { layers, outside } = files;
		const now = layers[layer];
		const isOther = (files: Set<string>) => files.size !== now.size || !files.isSubsetOf(now);
		const next = isAlone ? [] : layers.slice(layer + 1).find(isOther) ?? outside;
		await this.#fetcher!.fetch(now, { next, kept: outside });
	}

	/** Whether the tensors of a decoder layer can be read without waiting. */
	isLayerThere(layer: number): boolean {
		const files = this.#files;
		return !files || this.#fetcher!.isThere(files.layers[layer]);
	}

	/**
	 * Waits until some tensors can be read, where files are fetched when they are needed; all those outside
	 * the layers if no names are given.
	 *
	 * @throws {UserError} If a file cannot be fetched.
	 */
	async fetchTensors(names?: Iterable<string>): Promise<void> {
		const files = this.#files;
		if (!files) return;
		const fileOf = (name: string) => {
			const tensor = this.checkpoint.tensors.get(name);
			return tensor ? filesOf(tensor) : [];
		};
		const paths = names ? [...names].flatMap(fileOf) : files.outside;
		await this.#fetcher!.fetch(paths);
	}

	/**
	 * The sets of files, by path, that are there at a time, where they are fetched when they are needed: those
	 * of two adjacent layers, and those with tensors outside the layers.
	 */
	get fetchedTogether(): Set<string>[] {
		const { layers = [], outside = [] } = this.#files ?? {};
		return layers.map((files, i) => new Set([...files, ...layers[i + 1] ?? [], ...outside]));
	}

	get #fetcher(): FileFetcher | undefined {
		// Other weights than those of the folder are there.
		return this.hasOtherWeights ? undefined : this.source.fetcher;
	}

	#knownFiles?: { layers: Set<string>[]; outside: Set<string> };

	/** The files that the tensors of each decoder layer, and those outside, are in; undefined if all are there. */
	get #files() {
		if (!this.#fetcher) return undefined;
		return this.#knownFiles ??= filesByLayer(this);
	}

	/** The model's tokenizer, loaded when first asked for. */
	get tokenizer(): TextTokenizer {
		return this.#tokenizer ??= TextTokenizer.load(this.source);
	}

	/** Paths of the model's existing files, the weights last. */
	get files(): string[] {
		const { source, checkpoint } = this;
		const small = SMALL_FILES.filter((name) => source.has(name));
		return [...small, ...checkpoint.files].map((name) => source.file(name).path);
	}

	/** Closes the files. */
	[Symbol.dispose](): void {
		this.checkpoint[Symbol.dispose]();
	}
}

/**
 * Reads config.json of a folder; the weights need not exist yet.
 *
 * @param name The folder's name in messages.
 * @throws {UserError} If it is missing, damaged or describes an unsupported model.
 */
export function readConfig(folder: Folder, name = folder.path): {
	config: Record<string, unknown>;
	architecture: Architecture;
	quantization: QuantizationConfig | undefined;
} {
	const config = readJson(folder.file("config.json"));
	const file = `${name}/config.json`;
	const quantization = readQuantizationConfig(config, file);
	return { config, quantization, architecture: readArchitecture(config, file) };
}

/**
 * Whether config.json names a family that the program knows.
 *
 * @throws {UserError} If it is damaged.
 */
export function isKnownModel(folder: Folder): boolean {
	if (!folder.has("config.json")) return false;
	const { model_type: type } = readJson(folder.file("config.json"));
	return typeof type === "string" && Object.hasOwn(ARCHITECTURES, type);
}

function isThere(folder: Folder): boolean {
	try {
		folder.names();
		return true;
	} catch (error) {
		if (isSystemError(error) && ["ENOENT", "ENOTDIR"].includes(error.code)) return false;
		throw error;
	}
}

/**
 * Adapts an architecture to checkpoints without the "model." prefix, such as facebook/opt-*, and to those
 * that store the head of a tied pair instead of the embedding, and to text models in multimodal ones.
 */
function withNamesOf(checkpoint: Checkpoint, architecture: Architecture): Architecture {
	const { names } = architecture;
	const isThere = (name: string) =>
		checkpoint.has(`${name}.weight`) || isPackedEmbedding(checkpoint, name);
	if (isThere(names.embedding)) return architecture;
	const prefix = NESTED.find((prefix) => isThere(prefix + bare(names.embedding)));
	if (prefix) return renamed(architecture, (name) => prefix + bare(name));
	if (!isThere(bare(names.embedding))) {
		if (names.head || !isThere(HEAD)) return architecture;
		const headed = { ...architecture, names: { ...names, embedding: HEAD } };
		const isBare = !has(checkpoint, names.layer(0)) && has(checkpoint, bare(names.layer(0)));
		return isBare ? renamed(headed, bare) : headed;
	}
	return renamed(architecture, bare);
}

/** What the names of a text model inside a multimodal one begin with, instead of "model.". */
const NESTED = ["language_model.model.", "model.language_model."];

/** The module of a head that is not tied. */
const HEAD = "lm_head";

function bare(name: string): string {
	return name.replace(/^model\./, "");
}

/** Whether a checkpoint has a tensor whose name begins with a prefix. */
function has(checkpoint: Checkpoint, prefix: string): boolean {
	return checkpoint.tensors.keys().some((name) => name.startsWith(prefix));
}

/**
 * The architecture with the stored head, if config.json ties it but it is not the embedding.
 *
 * @param isFetched Whether files are fetched when they are needed.
 */
function withOtherHead(
	checkpoint: Checkpoint,
	architecture: Architecture,
	isFetched: boolean,
): Architecture | undefined {
	const { names } = architecture;
	if (names.head || names.embedding === HEAD) return undefined;
	const isPacked = isPackedEmbedding(checkpoint, HEAD);
	if (!isPacked && !checkpoint.has(`${HEAD}.weight`)) return undefined;
	if (isFetched) {
		throw new UserError(
			`Cannot tell whether "${HEAD}.weight" of "${checkpoint.folder}" is the embedding, to which ` +
				`config.json ties it, before all files are there; leave download.keep out`,
		);
	}
	const isSame = !isPacked && isEqual(checkpoint, `${names.embedding}.weight`, `${HEAD}.weight`);
	return isSame ? undefined : { ...architecture, names: { ...names, head: HEAD } };
}

/** The files that hold the tensors of each decoder layer, and those that hold others. */
function filesByLayer(
	{ architecture, checkpoint }: ModelFiles,
): { layers: Set<string>[]; outside: Set<string> } {
	const ofLayers = architecture.names.layer(0).replace(/0\.$/, "");
	const layers = Array.from({ length: architecture.layers }, () => new Set<string>());
	const outside = new Set<string>();
	for (const tensor of checkpoint.tensors.values()) {
		const rest = tensor.name.startsWith(ofLayers) ? tensor.name.slice(ofLayers.length) : undefined;
		const files = rest === undefined ? outside : layers[parseInt(rest)]; // others are not read
		for (const file of filesOf(tensor)) files?.add(file);
	}
	return { layers, outside };
}

/** Bytes per chunk when two tensors are compared. */
const COMPARED_BYTES = 4 << 20;

function isEqual(checkpoint: Checkpoint, a: string, b: string): boolean {
	if (!checkpoint.has(a)) return false;
	const [first, second] = [checkpoint.get(a), checkpoint.get(b)];
	if (first.dtype !== second.dtype || `${first.shape}` !== `${second.shape}`) return false;
	// A PyTorch file has tied tensors once.
	if (first.file === second.file && first.offset === second.offset) return true;
	const others = checkpoint.readChunks(b, COMPARED_BYTES);
	for (const chunk of checkpoint.readChunks(a, COMPARED_BYTES)) {
		const other = others.next().value!;
		for (let i = 0; i < chunk.length; i++) if (chunk[i] !== other[i]) return false;
	}
	return true;
}

/** The architecture with other names of all modules but the head. */
function renamed(architecture: Architecture, rename: (name: string) => string): Architecture {
	const { names, finalNorm } = architecture;
	const { positions, projectIn, projectOut } = names;
	return {
		...architecture,
		finalNorm: finalNorm && { ...finalNorm, module: rename(finalNorm.module) },
		names: {
			...names,
			layer: (i) => rename(names.layer(i)),
			embedding: rename(names.embedding),
			positions: positions && { ...positions, name: rename(positions.name) },
			projectIn: projectIn && rename(projectIn),
			projectOut: projectOut && rename(projectOut),
		},
	};
}
