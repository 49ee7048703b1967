import { UserError } from "../../base/errors.ts";
import type { ModelFiles } from "../../models/model_files.ts";
import { type Export, type Misfit, refuseMisfits } from "../export.ts";
import { GGUF_ARCHITECTURES } from "./architectures.ts";
import { factsOf } from "./facts.ts";
import { shapeMetadata } from "./metadata.ts";
import { bytesOf, dataOf, storageOf } from "./storage.ts";
import { plannedTensors } from "./tensors.ts";
import { tokenizerMetadata } from "./tokenizer.ts";
import { BLOCK_TYPES, FLOAT_TYPES } from "./types.ts";
import { type GgufTensor, type MetadataValue, writeGguf } from "./writer.ts";

/** Version of the block types, `GGML_QNT_VERSION`. */
const BLOCKS_VERSION = 2;

/** A file for llama.cpp and programs with its library. */
export const gguf: Export = {
	name: "gguf",
	summary: "A file for llama.cpp, Ollama, LM Studio, wllama",
	form: { kind: "file", ending: ".gguf" },
	types: BLOCK_TYPES.map(({ name }) => name),

	check: (model) => void describe(model),

	async write(source, path, { lossy, types: asked, pause }) {
		const { model } = source;
		const { target, shape, tokenizer } = describe(model);
		const tensors: GgufTensor[] = [];
		const misfits: Misfit[] = [];
		const types: Record<string, number> = {};
		const weights = new Map<number, number>(); // by the file type
		const addVector = (name: string, shape: readonly number[], data: () => Float32Array) => {
			const { id, bytes } = FLOAT_TYPES.F32;
			const count = shape.reduce((product, size) => product * size, 1);
			const chunks = () => [new Uint8Array(data().slice().buffer)];
			tensors.push({ name, shape, type: id, bytes: bytes * count, data: chunks });
			types.F32 = (types.F32 ?? 0) + 1;
		};
		for (const [name, values] of Object.entries(shape.vectors)) {
			addVector(name, [values.length], () => values);
		}
		for (const tensor of plannedTensors(source, target)) {
			const { name } = tensor;
			if ("values" in tensor) {
				addVector(name, tensor.shape, tensor.values);
				continue;
			}
			const { pieces } = tensor;
			const { storage, misfit } = storageOf(pieces, asked);
			if (misfit) misfits.push(misfit);
			const rows = pieces.reduce((sum, { matrix }) => sum + matrix.rows, 0);
			const [{ matrix: { cols, isLinear } }] = pieces;
			const { type } = storage;
			const bytes = bytesOf(storage, rows, cols);
			const data = () => dataOf(storage, pieces);
			tensors.push({ name, shape: [rows, cols], type: type.id, bytes, data });
			types[type.name] = (types[type.name] ?? 0) + 1;
			const count = isLinear ? rows * cols : 0;
			weights.set(type.fileType, (weights.get(type.fileType) ?? 0) + count);
			await pause();
		}
		refuseMisfits("gguf", misfits, lossy);
		const [[fileType]] = [...weights].sort(([, a], [, b]) => b - a);
		const metadata = new Map<string, MetadataValue>([
			["general.architecture", { type: "text", value: target.name }],
			["general.type", { type: "text", value: "model" }],
			["general.name", { type: "text", value: nameOf(model.name) }],
			["general.file_type", { type: "u32", value: fileType }],
			["general.quantization_version", { type: "u32", value: BLOCKS_VERSION }],
		]);
		for (const [key, value] of Object.entries(shape.values)) {
			if (value) metadata.set(`${target.name}.${key}`, value);
		}
		for (const [key, value] of Object.entries(tokenizer.values)) {
			if (value) metadata.set(key, value);
		}
		const bytes = await writeGguf(path, metadata, tensors, pause);
		return { bytes, types, misfits, notes: [...shape.notes, ...tokenizer.notes] };
	},
};

/** The metadata of a model. @throws {UserError} If llama.cpp does not know its family or tokenizer. */
function describe(model: ModelFiles) {
	const { architecture } = model;
	const target = GGUF_ARCHITECTURES[architecture.modelType];
	if (!target) {
		throw new UserError(
			`Cannot export "${model.name}" to gguf: llama.cpp has no "${architecture.modelType}" ` +
				`models; it has ${Object.keys(GGUF_ARCHITECTURES).join(", ")}`,
		);
	}
	const shape = shapeMetadata(factsOf(architecture), target);
	return { target, shape, tokenizer: tokenizerMetadata(model) };
}

/** The last part of a model's name or path. */
function nameOf(name: string): string {
	return name.split(/[\\/]/).filter((part) => part !== "").at(-1) ?? name;
}
