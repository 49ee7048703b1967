import {
	type EmbeddingLayout,
	embeddingRowBytes,
	embeddingScaleGroups,
} from "~/codecs/embedding/dequantize_embedding.ts";
import type { Gpu } from "~/gpu/device.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import { seededRandom } from "../../reference/random.ts";

/** Bytes in words, with zeros at the end. */
export function words(bytes: Uint8Array): Uint32Array {
	const padded = new Uint8Array(4 * Math.ceil(bytes.length / 4));
	padded.set(bytes);
	return new Uint32Array(padded.buffer);
}

/** A quantized table of random codes and scales on the GPU, and the numbers that it stands for. */
export class QuantizedTable implements Disposable {
	readonly codes: Tensor;
	readonly scales: Tensor;
	readonly zeros?: Tensor;
	/** `[rows, cols]`, one after the other. */
	readonly values: Float64Array;

	constructor(readonly gpu: Gpu, readonly layout: EmbeddingLayout) {
		const { rows, cols, bits, group } = layout;
		const [rowBytes, groups] = [embeddingRowBytes(layout), embeddingScaleGroups(layout)];
		const random = seededRandom(rows + cols);
		const codes = Uint8Array.from({ length: rows * rowBytes }, () => 256 * random());
		const scales = Float16Array.from({ length: rows * groups }, () => random() - 0.5);
		const zeros = Float16Array.from({ length: rows * groups }, () => 40 * random() - 4);
		this.values = new Float64Array(rows * cols);
		for (let row = 0; row < rows; row++) {
			for (let col = 0; col < cols; col++) {
				const at = row * groups + Math.floor(col / group);
				if (layout.zeros) {
					// One bit after the other, the lowest first.
					let code = 0;
					for (let i = 0; i < bits; i++) {
						const bit = col * bits + i;
						code += (codes[row * rowBytes + (bit >> 3)] >> (bit & 7) & 1) * 2 ** i;
					}
					this.values[row * cols + col] = Math.fround(Math.fround(code - zeros[at]) * scales[at]);
					continue;
				}
				const byte = codes[row * rowBytes + Math.floor(col * bits / 8)];
				const code = bits === 8
					? byte - (byte > 127 ? 256 : 0)
					: (col % 2 ? Math.floor(byte / 16) : byte % 16) - 8;
				this.values[row * cols + col] = code * scales[at];
			}
		}
		const upload = (data: Uint32Array) => gpu.upload(data, [data.length]);
		this.codes = upload(words(codes));
		this.scales = upload(words(new Uint8Array(scales.buffer)));
		if (layout.zeros) this.zeros = upload(words(new Uint8Array(zeros.buffer)));
	}

	[Symbol.dispose](): void {
		this.gpu.free(this.codes, this.scales);
		this.zeros?.[Symbol.dispose]();
	}
}
