// Products of packed layers, alone and in groups, against an f64 product of the dequantized weights.

import assert from "node:assert/strict";
import type { Codec, HostLinear, VectorSource } from "~/codecs/codec.ts";
import type { Gpu } from "~/gpu/device.ts";
import { normals } from "../../reference/random.ts";
import { productReference } from "../billm/random_packed.ts";

/** What a group multiplies: x itself, with what is added to the product, or what it makes of x. */
export const INPUTS = ["plain", "addends", "rms", "activation", "gated"] as const;
export type Input = typeof INPUTS[number];

/** The relative error of f32 sums that is allowed. */
const ERROR = 4e-6;

/**
 * Checks the products of a group with one vector, and those of its layers with some numbers of tokens.
 *
 * @param counts Of the last layer: the kernel for few tokens is compiled for each number of rows.
 */
export async function checkGroup<Host extends HostLinear>(
	gpu: Gpu,
	codec: Codec<Host>,
	hosts: readonly Host[],
	inputs: readonly Input[] = INPUTS,
	counts: readonly number[] = [1, 12],
): Promise<void> {
	const before = gpu.memory.current;
	const group = await codec.uploadGroup!(gpu, hosts);
	assert(group, "the layers are a group");
	const [{ cols }] = hosts;
	const weights = hosts.map((host) => codec.dequantize(host));
	const [x, normWeight] = [normals(cols, 5), normals(cols, 6)];
	const [biases, residuals] = [normals(group.rows, 9), normals(group.rows, 10)];
	const norm = gpu.upload(normWeight, [cols]);

	const check = async (
		what: string,
		input: Float32Array,
		effective: ArrayLike<number>,
		source?: VectorSource,
		hasAddends = false,
	) => {
		using xs = gpu.upload(input, [1, input.length]);
		using bias = hasAddends ? gpu.upload(biases, [1, group.rows]) : undefined;
		using residual = hasAddends ? gpu.upload(residuals, [1, group.rows]) : undefined;
		using y = await group.multiplyVector(xs, { source, bias, residual });
		assert.deepEqual(y.shape, [1, group.rows]);
		const actual = await gpu.read(y);
		for (const [i, { rows }] of hosts.entries()) {
			const { sums, magnitudes } = productReference(Float32Array.from(effective), weights[i], cols);
			for (let row = 0; row < rows; row++) {
				const at = group.starts[i] + row;
				const [b, r] = hasAddends ? [biases[at], residuals[at]] : [0, 0];
				const expected = sums[row] + b + r;
				const allowed = ERROR * (magnitudes[row] + Math.abs(b) + Math.abs(r)) + 1e-30;
				assert(
					Math.abs(actual[at] - expected) <= allowed,
					`${what}: ${
						actual[at]
					} in row ${row} of layer ${i}, expected ${expected} within ${allowed}`,
				);
			}
		}
	};

	if (inputs.includes("plain")) await check("plain", x, x);
	if (inputs.includes("addends")) await check("addends", x, x, undefined, true);
	if (inputs.includes("rms")) {
		const squares = x.reduce((sum, value) => sum + value * value, 0);
		const rms = Math.sqrt(squares / cols + 1e-5);
		const normed = Array.from(x, (value, i) => value * normWeight[i] / rms);
		await check("rms", x, normed, { op: "rms", weight: norm, epsilon: 1e-5 }, true);
	}
	if (inputs.includes("activation")) {
		const positive = x.map((value) => Math.max(value, 0));
		await check("activation", x, positive, { op: "activation", name: "relu" });
	}
	if (inputs.includes("gated")) {
		const up = Math.ceil(cols / 64) * 64;
		const both = new Float32Array(up + cols);
		both.set(normals(cols, 7));
		both.set(normals(cols, 8), up);
		const gated = Array.from(
			{ length: cols },
			(_, i) => both[i] / (1 + Math.exp(-both[i])) * both[up + i],
		);
		await check("gated", both, gated, { op: "activation", name: "silu", up });
	}
	for (const [i, weight] of group.weights.entries()) {
		await checkTokens(gpu, weight, weights[i], i === hosts.length - 1 ? counts : [12]);
	}
	{
		using long = gpu.zeros([1, cols + 1]);
		await assert.rejects(() => group.multiplyVector(long), RangeError);
	}
	group[Symbol.dispose]();
	gpu.free(norm);
	assert.equal(gpu.memory.current, before, "everything is freed");
}

export async function checkLayer<Host extends HostLinear>(
	gpu: Gpu,
	codec: Codec<Host>,
	host: Host,
	counts: readonly number[] = [1, 3, 40],
): Promise<void> {
	const before = gpu.memory.current;
	const weight = await codec.upload(gpu, host);
	assert.deepEqual([weight.rows, weight.cols], [host.rows, host.cols]);
	await checkTokens(gpu, weight, codec.dequantize(host), counts);
	{
		using long = gpu.zeros([2, host.cols + 1]);
		await assert.rejects(() => weight.multiply(long), RangeError);
	}
	weight[Symbol.dispose]();
	assert.equal(gpu.memory.current, before, "everything is freed");
}

async function checkTokens(
	gpu: Gpu,
	weight: Awaited<ReturnType<Codec["upload"]>>,
	values: Float32Array,
	counts: readonly number[],
): Promise<void> {
	const { rows, cols } = weight;
	const most = Math.max(...counts);
	const x = normals(most * cols, 11);
	const [biases, residuals] = [normals(rows, 12), normals(most * rows, 13)];
	const { sums, magnitudes } = productReference(x, values, cols);
	using bias = gpu.upload(biases, [rows]);
	for (const count of counts) {
		using xs = gpu.upload(x.slice(0, count * cols), [count, cols]);
		using residual = gpu.upload(residuals.slice(0, count * rows), [count, rows]);
		using y = await weight.multiply(xs, { bias, residual });
		assert.deepEqual(y.shape, [count, rows]);
		const actual = await gpu.read(y);
		for (let i = 0; i < count * rows; i++) {
			const [b, r] = [biases[i % rows], residuals[i]];
			const expected = sums[i] + b + r;
			const allowed = ERROR * (magnitudes[i] + Math.abs(b) + Math.abs(r)) + 1e-30;
			assert(
				Math.abs(actual[i] - expected) <= allowed,
				`${count} tokens: ${actual[i]} at ${i}, expected ${expected} within ${allowed}`,
			);
		}
	}
}
