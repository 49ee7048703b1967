import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import {
	dequantizeEmbeddingOnHost,
	embeddingLayout,
	isEmbeddingPart,
	isPackedEmbedding,
} from "../codecs/embedding/embedding.ts";
import {
	dequantizedLinear,
	loadLinear,
	partOf,
	requireColumns,
	rowsTensor,
} from "../codecs/mod.ts";
import {
	fusedOf,
	type QuantizationConfig,
	readQuantizationConfig,
	type StackConfig,
} from "../codecs/quantization_config.ts";
import type { PackedLinear } from "../codecs/codec.ts";
import { EXPONENT } from "../codecs/exponent.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import type { Folder } from "../storage/folder.ts";
import { readJson } from "../storage/json.ts";
import {
	DTYPE_BITS,
	isFloatDtype,
	type StoredDtype,
	type StoredTensor,
	type TensorPart,
	toFloat32,
} from "../storage/safetensors.ts";
import { requirePackedFiles } from "./required_tensors.ts";

/** A tensor of the plain model. */
export interface PlainTensor {
	name: string;
	shape: number[];
	/** The stored dtype. */
	dtype: StoredDtype | "packed";
	/** The file that stores it, or the first of its packed parts. */
	file: string;
	/** The packed linear layers that it consists of, in order. */
	linears?: readonly string[];
	/** How it stacks their matrices; absent if its rows are theirs. */
	stack?: StackConfig;
}

/**
 * The tensors of a model folder, plain or packed, under the names of the plain model. They are read and
 * dequantized on demand.
 */
export class PlainWeights implements Disposable {
	private constructor(
		readonly checkpoint: Checkpoint,
		/** Absent for a plain model. */
		readonly quantization: QuantizationConfig | undefined,
		/** By name, in the order of the checkpoint. */
		readonly tensors: ReadonlyMap<string, PlainTensor>,
	) {}

	/**
	 * @throws {UserError} If the folder has no weights, a file is damaged, or the model is quantized by
	 *   another method or a later version of this one.
	 */
	static open(folder: Folder): PlainWeights {
		const checkpoint = Checkpoint.open(folder);
		try {
			const quantization = quantizationOf(folder);
			if (quantization) requirePackedFiles(checkpoint, quantization);
			return new PlainWeights(checkpoint, quantization, plainTensors(checkpoint, quantization));
		} catch (error) {
			checkpoint[Symbol.dispose]();
			throw error;
		}
	}

	/** @throws {UserError} If there is no such tensor. */
	get(name: string): PlainTensor {
		return this.tensors.get(name) ?? this.checkpoint.get(name); // its error suggests a similar name
	}

	/** Whether {@link chunks} can read a tensor. */
	isFloat(name: string): boolean {
		const { dtype } = this.get(name);
		return dtype === "packed" || isFloatDtype(dtype);
	}

	/** Whether any packed linear layer of a tensor is stored with an exponent. */
	hasExponent(name: string): boolean {
		const { linears = [] } = this.get(name);
		return linears.some((linear) => this.checkpoint.has(`${linear}.${EXPONENT}`));
	}

	/** The bytes of a plainly stored tensor, in chunks. */
	bytes(name: string, chunkBytes: number): Generator<Uint8Array<ArrayBuffer>> {
		return this.checkpoint.readChunks(name, chunkBytes);
	}

	/**
	 * The values of a tensor, row-major, in chunks of `elements`; the last one may be shorter.
	 *
	 * @throws {UserError} If a tensor is damaged, or not stored as F16, BF16, F32 or F64.
	 */
	*chunks(name: string, elements: number): Generator<Float32Array> {
		const { dtype, shape } = this.get(name);
		if (dtype !== "packed") {
			if (!isFloatDtype(dtype)) {
				yield this.checkpoint.readFloat32(name); // refuses it
				return;
			}
			const bytes = elements * DTYPE_BITS[dtype] / 8;
			for (const chunk of this.checkpoint.readChunks(name, bytes)) {
				yield toFloat32(chunk, dtype);
			}
			return;
		}
		const rowsOf = this.#packedRows(name);
		const cols = shape.at(-1)!;
		const rows = shape.slice(0, -1).reduce((product, length) => product * length, 1);
		const together = Math.max(1, Math.ceil(elements / cols));
		let rest = new Float32Array();
		for (let row = 0; row < rows; row += together) {
			const values = rowsOf(row, Math.min(together, rows - row));
			const all = new Float32Array(rest.length + values.length);
			all.set(rest);
			all.set(values, rest.length);
			let start = 0;
			for (; start + elements <= all.length; start += elements) {
				yield all.subarray(start, start + elements);
			}
			rest = all.subarray(start);
		}
		if (rest.length > 0) yield rest;
	}

	/**
	 * A function that returns some rows of a matrix, row-major. A packed matrix is decoded only once.
	 *
	 * @throws {UserError} If it is damaged, or not stored as F16, BF16, F32 or F64.
	 */
	rowsOf(name: string): (first: number, rows: number) => Float32Array {
		if (this.get(name).dtype === "packed") return this.#packedRows(name);
		return (first, rows) => this.checkpoint.readFloat32(name, { first, rows });
	}

	/**
	 * The tensor of the plain model that holds the weights of a linear layer, and the part of it that they are.
	 *
	 * @param linear The layer's name without ".weight".
	 */
	placeOf(linear: string): { name: string; part: TensorPart } {
		const { name, linears, stack } = fusedOf(this.quantization ?? {}, linear);
		const rowsOf = (other: string) => rowsTensor(this.checkpoint, other)?.shape[0];
		const index = linears.indexOf(linear);
		const rows = rowsOf(linear) ?? this.checkpoint.get(name + WEIGHT).shape[0];
		const together = linears.length / (stack?.matrices ?? 1);
		const matrix = stack && Math.floor(index / together);
		if (stack?.columns) {
			const part = { matrix, first: index % together, rows, step: together, transposed: true };
			return { name, part };
		}
		const before = linears.slice(index - index % together, index);
		const first = sum(before.map((other) => requireRows(this.checkpoint, other).shape[0]));
		return { name: name + WEIGHT, part: { ...(stack && { matrix }), first, rows } };
	}

	/** A function that returns rows of a packed matrix, or of stacked ones, one after the other. */
	#packedRows(name: string): (first: number, rows: number) => Float32Array {
		const { checkpoint, quantization } = this;
		const { linears, shape, stack } = this.get(name);
		const cols = shape.at(-1)!;
		if (!linears) {
			const table = name.slice(0, -WEIGHT.length);
			return (first, rows) => dequantizeEmbeddingOnHost(checkpoint, table, first, rows);
		}
		const parts = linears.map((linear) => loadLinear(checkpoint, quantization!, linear)!);
		if (stack?.columns) return columnsInTurn(parts, parts.length / stack.matrices);
		if (parts.length === 1) return (first, rows) => dequantizedLinear(parts[0], first, rows);
		return (first, rows) => {
			const all = new Float32Array(rows * cols);
			let start = 0;
			for (const part of parts) {
				const from = Math.max(first, start);
				const to = Math.min(first + rows, start + part.host.rows);
				if (from < to) {
					const values = dequantizedLinear(part, from - start, to - from);
					all.set(values, (from - first) * cols);
				}
				start += part.host.rows;
			}
			return all;
		};
	}

	[Symbol.dispose](): void {
		this.checkpoint[Symbol.dispose]();
	}
}

const WEIGHT = ".weight";

/**
 * The `quantization_config` of a folder; undefined without a config.json, as bare weights are plain.
 */
export function quantizationOf(folder: Folder): QuantizationConfig | undefined {
	if (!folder.has("config.json")) return undefined;
	const file = folder.file("config.json");
	return readQuantizationConfig(readJson(file), file.path);
}

function plainTensors(
	checkpoint: Checkpoint,
	quantization: QuantizationConfig | undefined,
): Map<string, PlainTensor> {
	const plain = new Map<string, PlainTensor>();
	const add = (tensor: StoredTensor) => {
		const { name, shape, dtype, file } = tensor;
		const dot = name.lastIndexOf(".");
		const module = name.slice(0, dot);
		const weight = module + WEIGHT;
		if (quantization && partOf(checkpoint, name)) {
			const { stack, ...fused } = fusedOf(quantization, module);
			const weight = fused.name + (stack?.columns ? "" : WEIGHT);
			if (plain.has(weight)) return;
			const cols = requireColumns(checkpoint, quantization, module);
			const { linears } = fused;
			const rows = sum(linears.map((linear) => requireRows(checkpoint, linear).shape[0]));
			const { file } = requireRows(checkpoint, linears[0]);
			const matrix = stack ? [rows / stack.matrices, cols] : [rows, cols];
			const shape = stack?.columns ? matrix.toReversed() : matrix;
			plain.set(weight, {
				name: weight,
				shape: stack ? [stack.matrices, ...shape] : shape,
				dtype: "packed",
				file,
				linears,
				...(stack && { stack }),
			});
		} else if (quantization && isPackedEmbedding(checkpoint, module) && isEmbeddingPart(name)) {
			if (plain.has(weight)) return;
			const { rows, cols } = embeddingLayout(checkpoint, module);
			plain.set(weight, { name: weight, shape: [rows, cols], dtype: "packed", file });
		} else {
			plain.set(name, { name, shape, dtype, file });
		}
	};
	for (const tensor of checkpoint.tensors.values()) add(tensor);
	return plain;
}

/**
 * A function that returns rows of stacked matrices whose columns are, in turn, rows of `together` linear
 * layers.
 */
function columnsInTurn(
	parts: readonly PackedLinear[],
	together: number,
): (first: number, rows: number) => Float32Array {
	const { rows: each, cols: height } = parts[0].host;
	const width = each * together;
	let matrix = -1;
	let values: Float32Array[] = [];
	return (first, rows) => {
		const all = new Float32Array(rows * width);
		for (let row = first; row < first + rows; row++) {
			const wanted = Math.floor(row / height);
			if (wanted !== matrix) {
				matrix = wanted;
				values = parts.slice(matrix * together, (matrix + 1) * together)
					.map((part) => dequantizedLinear(part));
			}
			const start = (row - first) * width;
			for (let i = 0; i < width; i++) {
				all[start + i] = values[i % together][Math.floor(i / together) * height + row % height];
			}
		}
		return all;
	};
}

/** @throws {UserError} If a linear layer is not packed. */
function requireRows(checkpoint: Checkpoint, linear: string): StoredTensor {
	const tensor = rowsTensor(checkpoint, linear);
	if (tensor) return tensor;
	throw new UserError(
		`Cannot find "${linear}" in "${checkpoint.folder}", which is packed with others as one tensor`,
	);
}
