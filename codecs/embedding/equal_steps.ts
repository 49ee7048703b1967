import type { Checkpoint } from "../../storage/checkpoint.ts";
import { toFloat32 } from "../../storage/safetensors.ts";
import { codeAt } from "../bit_codes.ts";
import type { EqualSteps } from "../equal_steps.ts";
import { embeddingRowBytes, embeddingScaleGroups } from "./dequantize_embedding.ts";
import { embeddingLayout } from "./embedding.ts";

/** Rows whose codes are read at a time. */
const ROWS = 256;

/** A quantized embedding or head as codes on equal steps; its codes are read when they are asked for. */
export function embeddingSteps(checkpoint: Checkpoint, name: string): EqualSteps {
	const layout = embeddingLayout(checkpoint, name);
	const { rows, cols, bits, group, zeros } = layout;
	const rowBytes = embeddingRowBytes(layout);
	const numbers = (part: string) => toFloat32(checkpoint.readBytes(`${name}.${part}`), "F16");
	const signedOffset = bits === 8 ? 128 : 0; // 8-bit codes are stored with a sign
	let first = -1;
	let block = new Uint8Array();
	return {
		rows,
		cols,
		bits,
		topCode: 2 ** bits - 1,
		groupSize: group,
		scales: numbers("group_scales"),
		zeros: zeros
			? numbers("group_zeros")
			: new Float32Array(rows * embeddingScaleGroups(layout)).fill(2 ** (bits - 1)),
		readCodes(row, into) {
			const start = row - row % ROWS;
			if (start !== first) {
				const part = { first: start, rows: Math.min(ROWS, rows - start) };
				block = checkpoint.readBytes(`${name}.codes`, part);
				first = start;
			}
			const at = (row - start) * rowBytes;
			if (zeros) {
				const words = new Uint32Array(block.slice(at, at + rowBytes).buffer);
				for (let col = 0; col < cols; col++) into[col] = codeAt(words, 0, col * bits, bits);
				return;
			}
			for (let col = 0; col < cols; col++) {
				const byte = block[at + (col * bits >> 3)];
				into[col] = bits === 8 ? byte + signedOffset & 255 : byte >> (4 * (col & 1)) & 15;
			}
		},
	};
}
