// A codec and a stage as a newcomer would write them: one file, and a line in each of two tables. The
// values of a linear layer stay as they are in f32, in a tensor NAME.plain32.

import { z } from "zod";
import type { Codec, Draft, HostLinear } from "../../codecs/codec.ts";
import { DenseWeight } from "../../codecs/dense/weight.ts";
import { addCodec } from "../../codecs/mod.ts";
import { PartReader } from "../../codecs/part_reader.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { defineStage } from "../../pipeline/stage.ts";
import { STAGES } from "../../stages/mod.ts";

interface Plain32 extends HostLinear {
	/** `[rows, cols]`. */
	values: Float32Array<ArrayBuffer>;
}

export const plain32: Codec<Plain32> = {
	name: "plain32",
	main: "plain32",
	since: 3,
	parts: { plain32: "values" },
	usualParts: [],
	sizeColumns: { values: ["values"] },
	factColumns: [{
		key: "largest",
		heading: "largest",
		value: () => 32,
		text: (bits) => `${bits} bits`,
		together: "mean",
	}],
	factMaps: [],

	load(checkpoint, name, { cols }) {
		const reader = new PartReader(checkpoint, name);
		const [rows] = reader.get("plain32").shape;
		const values = new Float32Array(reader.read("plain32", "F32", [rows, cols]).buffer);
		return { rows, cols, values };
	},

	store: (name, { rows, cols, values }) => [{
		name: `${name}.plain32`,
		dtype: "F32",
		shape: [rows, cols],
		data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
	}],

	dequantize: ({ cols, values }, first = 0, rows) =>
		values.slice(first * cols, rows === undefined ? undefined : (first + rows) * cols),

	facts: () => ({ salientColumns: [], highFraction: 0, paperBits: 32 }),

	nonFinite: () => ({}),

	matrix: (gpu, { rows, cols, values }) => Promise.resolve(gpu.upload(values, [rows, cols])),

	async upload(gpu, host) {
		return new DenseWeight(await this.matrix(gpu, host));
	},
};

class Plain32Draft implements Draft<Plain32> {
	readonly codec = plain32;

	async download(_form: unknown, quantized: Tensor): Promise<Plain32> {
		const [rows, cols] = quantized.shape;
		return { rows, cols, values: await quantized.gpu.read(quantized) };
	}

	[Symbol.dispose](): void {}
}

const keep = defineStage({
	name: "keep",
	scope: "linear",
	summary: "Keep the weights as they are",
	options: z.strictObject({}),
	needs: ["model-files"],
	gives: ["block-error"],

	run({ gpu, linear }) {
		gpu.copy(linear.weight, linear.quantized);
		linear.method = "keep";
		linear.draft = new Plain32Draft();
		return Promise.resolve();
	},
});

addCodec(plain32);
STAGES.push(keep);
