import assert from "node:assert/strict";
import { type BillmHost } from "~/codecs/billm/host.ts";
import { type BillmTensors, freeBillm, uploadBillm } from "~/codecs/billm/tensors.ts";
import { type BillmLayout, bitPlanes, scalesPerBlock } from "~/codecs/billm/quantize_block.ts";
import { type Addends } from "~/codecs/codec.ts";
import type { Gpu } from "~/gpu/device.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import { dequantizeReference } from "../../reference/billm.ts";
import { normals, seededRandom } from "../../reference/random.ts";

export interface RandomPacked {
	host: BillmHost;
	/** The weights that they stand for, f32 `[rows, cols]`. */
	weight: Float32Array;
}

/** Random bits; about `share` of the columns are salient, scales are f16 values or 8-bit codes. */
export function randomPacked(
	layout: BillmLayout,
	seed: number,
	{ share = 0.2, coded = false } = {},
): RandomPacked {
	const { rows, cols, blockSize } = layout;
	const random = seededRandom(seed);
	const words = Math.ceil(cols / 32);
	const perBlock = scalesPerBlock(layout);
	const perRow = Math.ceil(cols / blockSize) * perBlock;
	const bits = new Uint32Array(bitPlanes(layout) * rows * words);
	for (let i = 0; i < bits.length; i++) bits[i] = random() * 2 ** 32;
	const marks = Array.from({ length: cols }, () => Number(layout.planes > 0 && random() < share));
	const salient = new Uint32Array(words);
	marks.forEach((mark, col) => salient[col >> 5] |= mark << (col & 31));
	let scales = normals(rows * perRow, seed + 1, 0.1).map(Math.f16round);
	let codes: BillmHost["codes"];
	if (coded) {
		const values = Int8Array.from(
			{ length: rows * perRow },
			() => Math.floor(random() * 256) - 128,
		);
		const factors = Float32Array.from({ length: 2 * rows }, () => Math.f16round(random() / 500));
		codes = { values, factors };
		scales = Float32Array.from(values, (code, i) => {
			const inBlock = i % perRow % perBlock;
			const isMean = inBlock < 2 * layout.zones ? inBlock % 2 === 0 : inBlock === 2 * layout.zones;
			return code * factors[2 * Math.floor(i / perRow) + Number(!isMean)];
		});
	}
	return {
		host: { ...layout, bits, salient, scales, codes },
		weight: dequantizeReference(layout, bits, scales, marks),
	};
}

/** x · weightᵀ in f64, and the sums of the magnitudes of its terms. */
export function productReference(
	x: Float32Array,
	weight: Float32Array,
	cols: number,
): { sums: Float64Array; magnitudes: Float64Array } {
	const [tokens, rows] = [x.length / cols, weight.length / cols];
	const sums = new Float64Array(tokens * rows);
	const magnitudes = new Float64Array(tokens * rows);
	for (let token = 0; token < tokens; token++) {
		for (let row = 0; row < rows; row++) {
			let [sum, magnitude] = [0, 0];
			for (let col = 0; col < cols; col++) {
				const term = x[token * cols + col] * weight[row * cols + col];
				sum += term;
				magnitude += Math.abs(term);
			}
			sums[token * rows + row] = sum;
			magnitudes[token * rows + row] = magnitude;
		}
	}
	return { sums, magnitudes };
}

export type Multiply = (
	gpu: Gpu,
	x: Tensor,
	weight: BillmTensors,
	addends: Addends,
) => Promise<Tensor>;

export async function checkProduct(
	gpu: Gpu,
	multiply: Multiply,
	layout: BillmLayout,
	tokens: number,
	extras: { share?: number; coded?: boolean; bias?: boolean; residual?: boolean },
): Promise<void> {
	const { rows, cols, blockSize } = layout;
	const seed = 100 * rows + 10 * cols + tokens;
	const { host, weight } = randomPacked(layout, seed, extras);
	const x = normals(tokens * cols, seed + 2);
	const [biases, residuals] = [normals(rows, seed + 3), normals(tokens * rows, seed + 4)];
	const before = gpu.memory.current;
	const packed = await uploadBillm(gpu, host);
	const actual = await (async () => {
		using factor = gpu.upload(x, [tokens, cols]);
		using bias = gpu.upload(biases, [rows]);
		using residual = gpu.upload(residuals, [tokens, rows]);
		using y = await multiply(gpu, factor, packed, {
			bias: extras.bias ? bias : undefined,
			residual: extras.residual ? residual : undefined,
		});
		assert.deepEqual(y.shape, [tokens, rows]);
		return await gpu.read(y);
	})();
	freeBillm(gpu, packed);
	assert.equal(gpu.memory.current, before);
	const { sums, magnitudes } = productReference(x, weight, cols);
	for (let i = 0; i < sums.length; i++) {
		if (extras.bias) sums[i] += biases[i % rows];
		if (extras.residual) sums[i] += residuals[i];
		const size = magnitudes[i] + Math.abs(biases[i % rows]) + Math.abs(residuals[i]);
		// f32: the sums of subsets and the scales each round at 2^-24 of what they add up.
		const error = Math.abs(actual[i] - sums[i]) / size;
		assert(
			error <= 2e-6,
			`[${tokens}, ${cols}] · [${rows}, ${cols}], blocks of ${blockSize}, ` +
				`${JSON.stringify(extras)}: ${actual[i]} at ${i}, expected ${sums[i]} (${error})`,
		);
	}
}
