import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./channel_moments.wgsl" with { type: "text" };

/** Rows that are summed in f32. */
const CHUNK = 256;

/**
 * The first and second moments of the columns of two matrices A and B over all their rows, in f64 on the
 * host: sums over a few rows in f32 on the GPU are merged.
 */
export class ChannelMoments {
	rows = 0;
	/** Of each column: the mean of a, and of b. */
	readonly meanA: Float64Array;
	readonly meanB: Float64Array;
	/** Of each column: Σ (a - mean) (b - mean), and Σ (b - mean)². */
	readonly products: Float64Array;
	readonly squares: Float64Array;

	constructor(readonly cols: number) {
		[this.meanA, this.meanB, this.products, this.squares] = Array.from(
			{ length: 4 },
			() => new Float64Array(cols),
		);
	}

	/**
	 * Adds rows; waits for the GPU.
	 *
	 * @param a f32 `[rows, cols]`, as `b`.
	 */
	async add(gpu: Gpu, a: Tensor, b: Tensor): Promise<void> {
		const { cols } = this;
		const [rows] = a.shape;
		const chunks = Math.ceil(rows / CHUNK);
		const kernel = await gpu.kernel({ name: "channel_moments", source });
		using out = gpu.empty([chunks, 4, cols]);
		kernel.dispatch({
			params: uniform([rows, cols, CHUNK]),
			tensors: [a, b, out],
			workgroups: [Math.ceil(cols / 64), chunks],
		});
		const found = await gpu.read(out);
		for (let chunk = 0; chunk < chunks; chunk++) {
			const part = (i: number) =>
				found.subarray((4 * chunk + i) * cols, (4 * chunk + i + 1) * cols);
			this.#merge(Math.min(CHUNK, rows - chunk * CHUNK), [0, 1, 2, 3].map(part));
		}
	}

	#merge(count: number, [meanA, meanB, products, squares]: Float32Array[]): void {
		const total = this.rows + count;
		const weight = this.rows * count / total;
		for (let i = 0; i < this.cols; i++) {
			const a = meanA[i] - this.meanA[i];
			const b = meanB[i] - this.meanB[i];
			this.products[i] += products[i] + a * b * weight;
			this.squares[i] += squares[i] + b * b * weight;
			this.meanA[i] += a * count / total;
			this.meanB[i] += b * count / total;
		}
		this.rows = total;
	}
}
