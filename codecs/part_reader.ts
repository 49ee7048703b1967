import { UserError } from "../base/errors.ts";
import { shapeText } from "../gpu/tensor.ts";
import type { Checkpoint } from "../storage/checkpoint.ts";
import type { StoredDtype, StoredTensor } from "../storage/safetensors.ts";

/** A reader of a packed linear layer's tensors that checks their dtypes and shapes. */
export class PartReader {
	/**
	 * A reader of one linear layer.
	 *
	 * @param prefix The common prefix of the tensors' suffixes.
	 */
	constructor(
		readonly checkpoint: Checkpoint,
		/** "model.layers.0.self_attn.q_proj" */
		readonly name: string,
		readonly prefix = "",
	) {}

	/** Whether the checkpoint has a part. */
	has(part: string): boolean {
		return this.checkpoint.has(this.#nameOf(part));
	}

	/**
	 * The tensor of a part.
	 *
	 * @throws {UserError} If there is no such tensor.
	 */
	get(part: string): StoredTensor {
		return this.checkpoint.get(this.#nameOf(part));
	}

	/**
	 * The bytes of a tensor.
	 *
	 * @throws {UserError} If it is missing or has another dtype or shape.
	 */
	read(part: string, dtype: StoredDtype, shape: readonly number[]): Uint8Array<ArrayBuffer> {
		const tensor = this.get(part);
		if (tensor.dtype !== dtype || shapeText(tensor.shape) !== shapeText(shape)) {
			const found = `${tensor.dtype} ${shapeText(tensor.shape)}`;
			this.refuse(part, found, `${dtype} ${shapeText(shape)}`);
		}
		return this.checkpoint.readBytes(tensor.name);
	}

	/**
	 * Says that a tensor does not match the others.
	 *
	 * @throws {UserError} Always.
	 */
	refuse(part: string, found: string, wanted: string): never {
		const { file, name } = this.get(part);
		throw new UserError(
			`"${file}": "${name}" is ${found}, expected ${wanted}; the file does not fit its config.json`,
		);
	}

	#nameOf(part: string): string {
		return `${this.name}.${this.prefix}${part}`;
	}
}

/** The number of values that are NaN or infinite in f16. */
export function infiniteHalves(values: Iterable<number>): number {
	let count = 0;
	for (const value of values) if (!Number.isFinite(Math.f16round(value))) count++;
	return count;
}

/** The bytes of a typed array as a file stores them; not a copy. */
export function partBytes(
	data: Uint8Array | Int8Array | Uint16Array | Uint32Array | Float16Array,
): Uint8Array<ArrayBuffer> {
	return new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
}
