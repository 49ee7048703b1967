import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/**
 * The head's inputs for some windows of a text, in host memory: the last layer's outputs after final
 * norm and projection. They are those of the tokens that predict another one of their window.
 *
 * @internal
 */
export class FinalStates {
	readonly #states = new Map<number, Float32Array<ArrayBuffer>>();
	#width = 0;

	/** @param windows Indices among the windows that a model runs on, ascending. */
	constructor(readonly windows: readonly number[]) {}

	/**
	 * Copies the states of its windows.
	 *
	 * @param batches The windows of each batch.
	 * @param finished Returns the head's inputs of a batch, f32 `[windows * length, width]`, which are
	 *   freed.
	 */
	async take(
		batches: readonly (readonly Int32Array[])[],
		finished: (batch: number) => Promise<Tensor>,
	): Promise<void> {
		let first = 0;
		for (const [batch, { length: count }] of batches.entries()) {
			const wanted = this.windows.filter((window) => window >= first && window < first + count);
			if (wanted.length > 0) await this.#takeFrom(await finished(batch), wanted, first, count);
			first += count;
		}
	}

	async #takeFrom(finished: Tensor, wanted: number[], first: number, count: number): Promise<void> {
		using all = finished;
		const [tokens, width] = all.shape;
		const length = tokens / count;
		this.#width = width;
		for (const window of wanted) {
			const own = all.view((window - first) * length * width, [length - 1, width]);
			this.#states.set(window, await all.gpu.read(own));
		}
	}

	/** Predictions of a window. */
	get predictions(): number {
		return this.#states.get(this.windows[0])!.length / this.#width;
	}

	/**
	 * Uploads the states of some windows, owned by the caller.
	 *
	 * @param first Place of the first one among {@link windows}.
	 * @returns f32 `[count * predictions, width]`.
	 */
	upload(gpu: Gpu, first: number, count: number): Tensor {
		const states = this.windows.slice(first, first + count).map((window) =>
			new Uint8Array(this.#states.get(window)!.buffer)
		);
		return gpu.upload(states, [count * this.predictions, this.#width], "f32");
	}
}

/** Indices of `count` of `windows` windows at equal distances from the first on; all if there are fewer. */
export function spreadWindows(windows: number, count: number): number[] {
	const chosen = Math.min(count, windows);
	const stride = Math.floor(windows / chosen);
	return Array.from({ length: chosen }, (_, i) => i * stride);
}
