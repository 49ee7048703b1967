import type { Checkpoint } from "../storage/checkpoint.ts";
import type { TensorToWrite } from "../storage/safetensors.ts";
import { PartReader } from "./part_reader.ts";

/** The suffix of the tensor that holds the exponent of a linear layer, and its label in tables. */
export const EXPONENT = "exponent";

/** The range of exponents: both powers of two and their inverses are normal numbers in f32. */
export const EXPONENTS = { least: -126, most: 126 };

/**
 * The exponent of a packed linear layer: its weights are 2^exponent times those of its codec.
 *
 * @returns Undefined if it has none.
 * @throws {UserError} If it is damaged or out of range.
 */
export function loadExponent(checkpoint: Checkpoint, name: string): number | undefined {
	const reader = new PartReader(checkpoint, name);
	if (!reader.has(EXPONENT)) return undefined;
	const bytes = reader.read(EXPONENT, "I32", [1]);
	const exponent = new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, true);
	const { least, most } = EXPONENTS;
	if (exponent < least || exponent > most) {
		reader.refuse(EXPONENT, `${exponent}`, `a number from ${least} to ${most}`);
	}
	return exponent;
}

/** NAME.exponent, I32 `[1]`; nothing without an exponent. */
export function storeExponent(name: string, exponent: number | undefined): TensorToWrite[] {
	if (exponent === undefined) return [];
	const data = new Uint8Array(4);
	new DataView(data.buffer).setInt32(0, exponent, true);
	return [{ name: `${name}.${EXPONENT}`, dtype: "I32", shape: [1], data }];
}
