import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import { BYTES_PATTERN, bytesOf } from "../base/units.ts";
import { packEmbedding, ZEROS_GROUPS } from "../codecs/embedding/embedding.ts";
import { type SearchedForm, searchEmbedding } from "../codecs/embedding/search_embedding.ts";
import type { Codec, PackedLinear } from "../codecs/codec.ts";
import { partOf, storeLinear, versionFor } from "../codecs/mod.ts";
import { rotationConfigOf } from "../codecs/quantization_config.ts";
import { statedRotations } from "../codecs/stated_rotation.ts";
import {
	embeddingRowBytes,
	embeddingScaleGroups,
} from "../codecs/embedding/dequantize_embedding.ts";
import { elementsOf } from "../gpu/tensor.ts";
import { type ModelFiles, SMALL_FILES } from "../models/model_files.ts";
import { layerPlaces } from "../models/places.ts";
import { isMask } from "../models/required_tensors.ts";
import type { LinearRecord } from "../pipeline/run/events.ts";
import type { PackedModel, WrittenFileRecord } from "../pipeline/run/record.ts";
import { defineStage, type LinearLayer, type ModelContext } from "../pipeline/stage.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { copyFileAtomically, sha256OfFile, writeJsonAtomically } from "../storage/files.ts";
import { packedMetadata } from "../storage/packed_metadata.ts";
import {
	fromFloat32,
	isFloatDtype,
	type StoredTensor,
	type TensorToWrite,
	toFloat32,
} from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";

/** The default of `shard-bytes`: browsers and some file systems limit what they hold in one piece. */
const SHARD_BYTES = "2GB";

/**
 * The stage that writes the packed model: a shard for each decoder layer as soon as it is quantized, then
 * the tensors outside the layers in one shard or more, the index, config.json and the tokenizer.
 */
export const pack = defineStage({
	name: "pack",
	scope: "group",
	summary: "Write the packed model",
	options: z.strictObject({
		"scales": z.enum(["f16", "i8", "i4"]).default("i8").describe(
			"Type of BiLLM's means and scales: f16, or 8 or 4 bits with two f16 factors per row; those of " +
				"other methods are always f16",
		),
		"flags": z.enum(["plain", "entropy"]).default("plain").describe(
			"Coding of the zones of the weights, or of pb-llm's salient weights: one bit each (or a list), or " +
				"entropy-coded, which takes the host one second for 200 million weights",
		),
		"embeddings": z.literal(["stored", 8, 6, 5, 4, 3]).default(8).describe(
			"Bits of the embeddings and the head; stored: as in the original",
		),
		"embeddings-zeros": z.enum(["none", "free"]).optional().describe(
			"none: numbers of a row share an f16 scale, 64 of them in 8 bits, 32 in 4; free: they share a " +
				"scale and a zero, any f16 number, which are searched; default none for 8 and 4 bits, else free",
		),
		"embeddings-group-size": z.literal([...ZEROS_GROUPS]).optional().describe(
			"Numbers of a row that share a scale and a free zero; default 64",
		),
		"shard-bytes": z.string().regex(BYTES_PATTERN, 'must be like "2GB" or "512MB"').optional()
			.describe(
				"Largest size of the files of embeddings and head, each of which stays whole; a decoder layer is " +
					`always one file; default ${SHARD_BYTES}`,
			),
	}).superRefine((options, issues) => {
		const { embeddings, "embeddings-zeros": zeros, "embeddings-group-size": group } = options;
		const refuse = (key: string, message: string) =>
			issues.addIssue({ code: "custom", path: [key], message });
		if (embeddings === "stored" || embeddings === 8) {
			if (zeros === "free") {
				refuse("embeddings-zeros", "must be none unless embeddings are 3 to 6 bits");
			}
		} else if (zeros === "none" && embeddings !== 4) {
			refuse("embeddings-zeros", `must be free with embeddings: ${embeddings}`);
		}
		if (group !== undefined && !searchedForm(options)) {
			refuse("embeddings-group-size", "must be absent without free zeros");
		}
	}),
	presets: { reference: { scales: "f16", embeddings: "stored" } },
	needs: ["model-files"],
	gives: ["packed-model"],

	async run({ linears }, form) {
		for (const linear of linears) {
			const { draft } = linear;
			if (linear.isSkipped) continue;
			if (!draft) {
				throw new UserError(
					`Cannot pack "${linear.name}": no stage before pack has quantized it; ` +
						`put a stage that does, such as compensate, before pack`,
				);
			}
			const host = await draft.download(form, linear.quantized);
			const { transform } = linear;
			linear.packed = { codec: draft.codec, host, ...(transform && { transform }) };
			refuseInfinite(linear.name, linear.packed);
		}
	},

	async endLayer(context, form, linears) {
		const model = context.get("model-files");
		const { checkpoint, architecture } = model;
		const { index } = context.layer;
		const prefix = architecture.names.layer(index);
		const places = [...layerPlaces(architecture, index)].filter(({ linear }) => linear);
		const skipped = new Set(linears.filter(({ isSkipped }) => isSkipped).map(({ name }) => name));
		const packed = new Set(
			places.filter(({ linear }) => !skipped.has(linear!)).map(({ name }) => name),
		);
		const quantized = linears.filter(({ isSkipped }) => !isSkipped);
		for (const linear of linears) {
			if (linear.isSkipped) linear.stored = denseFacts(checkpoint, linear, places);
		}
		const tensors = quantized.flatMap((linear) => {
			const { tensors, parts } = storeLinear(linear.name, linear.packed!, form);
			const { codec, host } = linear.packed!;
			linear.stored = { ...codec.facts(host), storedBytes: parts };
			return tensors;
		});
		for (const name of checkpoint.tensors.keys()) {
			if (!name.startsWith(prefix) || packed.has(name) || isMask(name)) continue;
			tensors.push(copyOf(checkpoint, name));
		}
		const version = versionFor(
			quantized.map(({ packed }) => packed!.codec),
			tensors.map(({ name }) => name),
			quantized.some(({ transform }) => transform),
		);
		const file = new PackedShards(model, form).ofLayer(index);
		const path = join(context.folder.model, file);
		const rotations = quantized.map(({ name, transform }) => ({ name, ...transform }));
		const metadata = {
			...packedMetadata(tensors, version, crc32),
			...statedRotations(rotations),
		};
		const { bytes, sha256 } = writeSafetensors(path, tensors, metadata);
		return { file, bytes, sha256 };
	},

	async check(context, options) {
		const { embeddings } = options;
		if (searchedForm(options)) return;
		const { hiddenSize, embeddingSize } = context.get("model-files").architecture;
		const odd = [embeddingSize, hiddenSize].find((width) => width % 2);
		if (embeddings === 4 && odd !== undefined) {
			throw new UserError(
				`Cannot pack the embeddings in 4 bits: they are ${odd} wide, which is odd; ` +
					`use embeddings: 8, or embeddings-zeros: free`,
			);
		}
	},

	async finish(context, options) {
		const { embeddings } = options;
		const searched = searchedForm(options);
		const model = context.get("model-files");
		const { architecture, checkpoint } = model;
		await model.fetchTensors();
		const tables = tablesOf(model);
		const replaced = context.find("outside-tensors");
		const pack = async (name: string): Promise<TensorToWrite[]> => {
			if (embeddings !== "stored" && tables.has(name)) {
				const table = name.slice(0, -".weight".length);
				return searched
					? await searchEmbedding(context.gpu, checkpoint, table, searched, model.name)
					: packEmbedding(checkpoint, table, embeddings as 8 | 4, model.name);
			}
			const values = replaced?.get(name);
			return [values ? replacementOf(checkpoint, name, values) : copyOf(checkpoint, name)];
		};
		const shards = new PackedShards(model, options);
		const hashes = new Map(context.layerRecords.map(({ file, sha256 }) => [file, sha256]));
		for (const [file, names] of shards.outside) {
			const tensors: TensorToWrite[] = [];
			for (const name of names) tensors.push(...await pack(name));
			const version = versionFor([], tensors.map(({ name }) => name));
			const path = join(context.folder.model, file);
			const metadata = packedMetadata(tensors, version, crc32);
			hashes.set(file, writeSafetensors(path, tensors, metadata).sha256);
		}

		const linears = context.layerRecords.flatMap(({ linears }) => linears);
		const method = linears.find(({ method }) => method)?.method;
		const counts = countShards(context, shards);
		const rotation = rotationConfigOf(
			context.layerRecords.flatMap(({ layer, linears }) => {
				const prefix = architecture.names.layer(layer);
				return linears.map(({ name, rotation, dense }) => ({
					name,
					module: name.slice(prefix.length),
					rotation,
					dense,
				}));
			}),
		);
		writeJsonAtomically(join(context.folder.model, "config.json"), {
			...model.configToWrite(),
			quantization_config: model.packedConfig(
				context.blockSize,
				versionFor(
					counts.codecs,
					counts.weightMap.map(([name]) => name),
					linears.some(isTransformed),
				),
				method,
				rotation,
			),
		});
		copySmallFiles(context);
		context.set("packed-model", summarize(context, counts, shards, hashes));
	},
});

/** The options of `pack` that tell how embeddings and head are stored. */
export interface PackOptions {
	"embeddings": "stored" | 8 | 6 | 5 | 4 | 3;
	"embeddings-zeros"?: "none" | "free";
	"embeddings-group-size"?: SearchedForm["group"];
	"shard-bytes"?: string;
}

/** The files of a packed model. */
class PackedShards {
	/** The names of the tensors outside the layers by the names of their files. */
	readonly outside: ReadonlyMap<string, readonly string[]>;
	readonly #total: number;

	constructor(model: ModelFiles, options: PackOptions) {
		const most = bytesOf(options["shard-bytes"] ?? SHARD_BYTES);
		const { architecture: { names, layers } } = model;
		// Also layers beyond those that config.json asks for, which nothing reads.
		const ofLayers = names.layer(0).replace(/0\.$/, "");
		const outside = tensorBytes(model, options).filter(([name]) => !name.startsWith(ofLayers));
		const groups = groupsUpTo(outside, most);
		this.#total = groups.length + layers;
		this.outside = new Map(groups.map((names, i) => [this.#name(i), names]));
	}

	ofLayer(layer: number): string {
		return this.#name(this.outside.size + layer);
	}

	/** The names of all files; those of the layers are the last. */
	get names(): string[] {
		return Array.from({ length: this.#total }, (_, i) => this.#name(i));
	}

	#name(i: number): string {
		const digits = (n: number) => String(n).padStart(5, "0");
		return `model-${digits(i + 1)}-of-${digits(this.#total)}.safetensors`;
	}
}

/** Names in groups of up to so many bytes, in their order; one that has more has a group of its own. */
function groupsUpTo(sizes: readonly (readonly [name: string, bytes: number])[], most: number) {
	const groups: string[][] = [[]];
	let size = 0;
	for (const [name, bytes] of sizes) {
		if (size > 0 && size + bytes > most) {
			groups.push([]);
			size = 0;
		}
		groups.at(-1)!.push(name);
		size += bytes;
	}
	return groups;
}

/** The bytes that the header of a file takes besides its tensors, about. */
export const HEADER_BYTES = 160;

/** The bytes of a tensor in the header of a file, at most: its name, dtype, shape, place and checksum. */
export function entryBytes(name: string): number {
	return name.length + 100;
}

/**
 * The bytes that a packed model takes besides its linear layers, with the header of the first file: a few
 * more than it will be.
 *
 * @param options Absent if nothing is packed: tensors are then as in the original.
 */
export function outsideBytes(model: ModelFiles, options: PackOptions | undefined): number {
	const headers = options ? new PackedShards(model, options).outside.size : 1;
	return headers * HEADER_BYTES + sum(tensorBytes(model, options).map(([, bytes]) => bytes));
}

/** The bytes that each tensor takes in a packed model besides its linear layers, with its part of a header. */
function tensorBytes(
	model: ModelFiles,
	options: PackOptions | undefined,
): [name: string, bytes: number][] {
	const { checkpoint, architecture } = model;
	const layers = Array.from({ length: architecture.layers }, (_, layer) => layer);
	const linears = new Set(
		layers.flatMap((layer) => [...layerPlaces(architecture, layer)])
			.filter(({ linear }) => linear).map(({ name }) => name),
	);
	const tables = tablesOf(model);
	const searched = options && searchedForm(options);
	const { embeddings = "stored" } = options ?? {};
	const sizeOf = ({ name, bytes, shape: [rows, cols] }: StoredTensor): number => {
		const entries = (tables.has(name) ? 4 : 1) * entryBytes(name);
		if (!tables.has(name) || embeddings === "stored") return entries + bytes;
		const group = searched?.group ?? (embeddings === 8 ? 64 : 32);
		const zeros = searched && { zeros: true as const };
		const layout = { rows, cols, bits: embeddings, group, ...zeros };
		const scales = 2 * rows * embeddingScaleGroups(layout);
		const packed = rows * embeddingRowBytes(layout) + (searched ? 2 : 1) * scales;
		return entries + packed + (searched ? 12 : 0);
	};
	return [...checkpoint.tensors.values()]
		.filter(({ name }) => !linears.has(name) && !isSecondHead(name, model) && !isMask(name))
		.map((tensor) => [tensor.name, sizeOf(tensor)]);
}

/** The names of the embeddings' and the head's weights. */
function tablesOf({ architecture: { names } }: ModelFiles): Set<string> {
	const { embedding, positions, head } = names;
	return new Set([embedding, positions?.name, head].map((name) => `${name}.weight`));
}

/** Whether a tensor is a tied head's weight, which some checkpoints have twice. */
function isSecondHead(name: string, { architecture: { names } }: ModelFiles): boolean {
	return name === "lm_head.weight" && !names.head && names.embedding !== "lm_head";
}

/** The form of embeddings with zeros; undefined if they have none, or are stored as in the original. */
function searchedForm(options: PackOptions): SearchedForm | undefined {
	const { embeddings, "embeddings-group-size": group = 64 } = options;
	const { "embeddings-zeros": zeros = embeddings === 4 ? "none" : "free" } = options;
	if (embeddings === "stored" || embeddings === 8 || zeros === "none") return undefined;
	return { bits: embeddings, group };
}

/** The part in records of linear layers that stay as they are. */
const DENSE = "dense";

/** The facts of a linear layer that stays as it is. */
function denseFacts(
	checkpoint: Checkpoint,
	{ name, rows, cols }: LinearLayer,
	places: readonly { name: string; linear?: string }[],
): LinearLayer["stored"] {
	const { name: tensor } = places.find(({ linear }) => linear === name)!;
	const { bytes, shape } = checkpoint.get(tensor); // of several linear layers if it is fused
	const own = bytes / elementsOf(shape) * rows * cols;
	const paperBits = 8 * own / (rows * cols);
	return { paperBits, salientColumns: [], highFraction: 0, storedBytes: { [DENSE]: own } };
}

/** @throws {UserError} If the scales of a linear layer do not fit f16, which makes them infinite. */
function refuseInfinite(name: string, { codec, host }: PackedLinear): void {
	for (const [part, count] of Object.entries(codec.nonFinite(host))) {
		if (count === 0) continue;
		throw new UserError(
			`Cannot pack "${name}": ${count} values of "${name}.${part}" are NaN or exceed the range of ` +
				`f16; use another method, or more calibration text if the method uses any`,
		);
	}
}

function isTransformed({ rotation, exponent }: LinearRecord): boolean {
	return rotation !== undefined || exponent !== undefined;
}

/** Bytes per chunk when a tensor is copied. */
const CHUNK = 16 << 20;

/** A tensor of the original; its data can be iterated several times. */
function copyOf(checkpoint: Checkpoint, name: string): TensorToWrite {
	const { dtype, shape } = checkpoint.get(name);
	const data = { [Symbol.iterator]: () => checkpoint.readChunks(name, CHUNK) };
	return { name, dtype, shape, data };
}

/**
 * New values for a tensor of the original, stored as it is.
 *
 * @throws {UserError} If its dtype cannot hold them.
 */
function replacementOf(checkpoint: Checkpoint, name: string, values: Float32Array): TensorToWrite {
	const { dtype, shape } = checkpoint.get(name);
	const data = isFloatDtype(dtype) ? fromFloat32(values, dtype) : undefined;
	if (data && toFloat32(data, dtype as "F32").every(Number.isFinite)) {
		return { name, dtype, shape, data };
	}
	throw new UserError(
		`Cannot store the new values of "${name}": ${dtype}, its type, does not hold them; ` +
			`leave out the stage that changes it, such as refit-norm`,
	);
}

function copySmallFiles(context: ModelContext): void {
	const { folder } = context.get("model-files");
	for (const name of SMALL_FILES.filter((name) => name !== "config.json")) {
		if (!existsSync(join(folder, name))) continue;
		copyFileAtomically(join(folder, name), join(context.folder.model, name));
	}
}

/** Contents of the shards, from their headers. */
interface ShardCounts {
	/** The shard of each tensor. */
	weightMap: [tensor: string, shard: string][];
	/** Codecs of the linear layers. */
	codecs: Set<Codec>;
	/** Bytes of the linear layers, and of the headers of their shards. */
	bytesByPart: Record<string, number>;
	bytes: number;
	/** Bytes without headers. */
	tensorBytes: number;
}

function countShards(context: ModelContext, { names, outside }: PackedShards): ShardCounts {
	const counts: ShardCounts = {
		weightMap: [],
		codecs: new Set(),
		bytesByPart: { headers: 0 },
		bytes: 0,
		tensorBytes: 0,
	};
	const { weightMap, codecs, bytesByPart } = counts;
	for (const name of names) {
		const path = join(context.folder.model, name);
		using written = Checkpoint.openFile(denoFile(path));
		let content = 0;
		for (const tensor of written.tensors.values()) {
			weightMap.push([tensor.name, name]);
			content += tensor.bytes;
			const found = partOf(written, tensor.name);
			if (!found) continue;
			codecs.add(found.codec);
			bytesByPart[found.part] = (bytesByPart[found.part] ?? 0) + tensor.bytes;
		}
		const size = statSync(path).size;
		if (!outside.has(name)) bytesByPart.headers += size - content;
		counts.bytes += size;
		counts.tensorBytes += content;
	}
	return counts;
}

/**
 * Writes the index of the shards and summarizes the packed model.
 *
 * @param known Known hashes of files.
 */
function summarize(
	context: ModelContext,
	{ weightMap, bytesByPart, bytes, tensorBytes }: ShardCounts,
	shards: PackedShards,
	known: Map<string, string>,
): PackedModel {
	const { checkpoint, source } = context.get("model-files");
	const folder = context.folder.model;
	weightMap.sort(([a], [b]) => (a < b ? -1 : 1));
	writeJsonAtomically(join(folder, "model.safetensors.index.json"), {
		metadata: { total_size: tensorBytes },
		weight_map: Object.fromEntries(weightMap),
	});

	const linears = context.layerRecords.flatMap(({ linears }) => linears);
	const weights = sum(linears.map(({ rows, cols }) => rows * cols));
	const paper = sum(linears.map(({ paperBits, rows, cols }) => paperBits * rows * cols));
	const perWeight = (count: number) => count * 8 / weights;
	for (const { dense, storedBytes } of linears) {
		if (!dense) continue;
		bytesByPart[DENSE] = (bytesByPart[DENSE] ?? 0) + storedBytes[DENSE];
	}
	const linearBytes = sum(Object.values(bytesByPart));
	const originalBytes = sum(checkpoint.files.map((name) => {
		using file = source.file(name).open();
		return file.size;
	}));
	const files: WrittenFileRecord[] = [];
	const small = SMALL_FILES.filter((name) => existsSync(join(folder, name)));
	for (const name of [...small, "model.safetensors.index.json", ...shards.names]) {
		const path = join(folder, name);
		const sha256 = known.get(name) ?? sha256OfFile(path);
		files.push({ name, bytes: statSync(path).size, sha256 });
	}
	return {
		folder,
		files,
		bytes,
		originalBytes,
		weights,
		paperBits: paper / weights,
		storedBits: perWeight(linearBytes),
		storedBitsByPart: Object.fromEntries(
			Object.entries(bytesByPart).map(([part, count]) => [part, perWeight(count)]),
		),
	};
}
