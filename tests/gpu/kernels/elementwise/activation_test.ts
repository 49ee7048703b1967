import assert from "node:assert/strict";
import {
	activation,
	type ActivationName,
	ACTIVATIONS,
} from "~/gpu/kernels/elementwise/activation.ts";
import { assertClose } from "../../../assert_close.ts";
import { gelu, geluTanh, relu, silu } from "../../../reference/decoder.ts";
import { uniforms } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

const REFERENCES: Record<ActivationName, (x: number) => number> = {
	relu,
	silu,
	swish: silu,
	gelu,
	gelu_new: geluTanh,
	gelu_fast: geluTanh,
	gelu_pytorch_tanh: geluTanh,
};

/** From -12 to 12 in small steps, then numbers whose exponentials overflow or vanish. */
const INPUTS = Float32Array.of(
	...Array.from({ length: 2401 }, (_, i) => -12 + i / 100),
	...[0, 1e-30, 1e-6, 30, 80, 88, 89, 100, 104, 1000, 1e6].flatMap((x) => [x, -x]),
);

for (const name of Object.keys(ACTIVATIONS) as ActivationName[]) {
	const reference = REFERENCES[name];
	// erf is good to 1.5e-7 and is multiplied by x / 2; the device's exp and tanh to a few 1e-7.
	const tolerance = { abs: 2e-6, rel: 2e-6 };

	Deno.test(`activation("${name}") agrees with the reference`, async () => {
		using x = gpu.upload(INPUTS, [INPUTS.length]);
		using out = await activation(gpu, name, x);
		assertClose(await gpu.read(out), Array.from(INPUTS, reference), tolerance);
	});

	Deno.test(`activation("${name}") multiplies by up`, async () => {
		const up = uniforms(INPUTS.length, 1);
		using x = gpu.upload(INPUTS, [1, INPUTS.length]);
		using upTensor = gpu.upload(up, [1, INPUTS.length]);
		using out = await activation(gpu, name, x, upTensor);
		assert.deepEqual(out.shape, [1, INPUTS.length]);
		const expected = Array.from(INPUTS, (value, i) => reference(value) * up[i]);
		assertClose(await gpu.read(out), expected, tolerance);
	});
}

for (const size of [1, 63, 64, 65, 64 * 65535 + 100]) {
	Deno.test(`activation() handles ${size} values`, async () => {
		const values = Float32Array.from({ length: size }, (_, i) => i % 7 - 3);
		using x = gpu.upload(values, [size]);
		using out = await activation(gpu, "relu", x);
		const actual = await gpu.read(out);
		assert.equal(actual.length, size);
		assert.equal(actual.findIndex((value, i) => value !== Math.max(values[i], 0)), -1);
	});
}
