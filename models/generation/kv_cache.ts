import type { Gpu } from "../../gpu/device.ts";
import { type CacheDtype, cacheWidth } from "../../gpu/kernels/attention/attention_decode.ts";
import { DTYPE_BYTES, type Tensor } from "../../gpu/tensor.ts";
import type { Architecture } from "../architectures/architecture.ts";
import { kindOf } from "../ops/mod.ts";

/**
 * The KV cache of a text. Keys are stored after their rotary embedding.
 */
export class KeyValueCache implements Disposable {
	/** Tokens in the cache. */
	length = 0;
	/** By decoder layer; f32 or f16 `[capacity, keyValueHeads * padded headDim]`. */
	readonly layers: readonly { keys: Tensor; values: Tensor }[];

	/**
	 * Allocates a cache.
	 *
	 * @param capacity Capacity in tokens.
	 */
	constructor(
		readonly gpu: Gpu,
		architecture: Architecture,
		readonly capacity: number,
		dtype: CacheDtype,
	) {
		this.layers = widths(architecture).map((width) => ({
			keys: gpu.empty([capacity, width], dtype),
			values: gpu.empty([capacity, width], dtype),
		}));
	}

	/** Frees it. */
	[Symbol.dispose](): void {
		// In reverse, so that the next cache of this size has its buffers in the same order.
		for (const { keys, values } of this.layers.toReversed()) this.gpu.free(values, keys);
	}
}

/** Size in bytes of a cache of a capacity in tokens. */
export function cacheBytes(
	architecture: Architecture,
	capacity: number,
	dtype: CacheDtype,
): number {
	const width = widths(architecture).reduce((sum, width) => sum + width, 0);
	return 2 * capacity * width * DTYPE_BYTES[dtype];
}

/** Elements of a token's key (or value) by decoder layer; 0 for a layer without attention. */
function widths({ layers, steps }: Architecture): number[] {
	return Array.from({ length: layers }, (_, layer) => {
		const kept = steps(layer).map((op) => kindOf(op).cache?.(op)).find((shape) => shape);
		return kept ? cacheWidth(kept.keyValueHeads, kept.headDim) : 0;
	});
}
