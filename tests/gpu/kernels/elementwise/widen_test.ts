import assert from "node:assert/strict";
import { widen } from "~/gpu/kernels/elementwise/widen.ts";
import { assertClose } from "../../../assert_close.ts";
import { gpu } from "../../gpu.ts";

/** The value of an f16 or bf16 bit pattern, from the definition of the format. */
function valueOf(bits: number, exponentBits: number, mantissaBits: number): number {
	const sign = bits >> (exponentBits + mantissaBits) ? -1 : 1;
	const exponent = (bits >> mantissaBits) & (2 ** exponentBits - 1);
	const fraction = (bits & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
	const bias = 2 ** (exponentBits - 1) - 1;
	if (exponent === 2 ** exponentBits - 1) return fraction ? NaN : sign * Infinity;
	if (exponent === 0) return sign * fraction * 2 ** (1 - bias);
	return sign * (1 + fraction) * 2 ** (exponent - bias);
}

const FORMATS = [
	{ dtype: "f16", exponentBits: 5, mantissaBits: 10 },
	{ dtype: "bf16", exponentBits: 8, mantissaBits: 7 },
] as const;

for (const { dtype, exponentBits, mantissaBits } of FORMATS) {
	Deno.test(`widen() is exact for all 65536 bit patterns of ${dtype}`, async () => {
		const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);
		using stored = gpu.upload(patterns, [256, 256], dtype);
		using wide = await widen(gpu, stored);
		assert.deepEqual([wide.dtype, wide.shape], ["f32", [256, 256]]);
		const actual = await gpu.read(wide);
		const expected = Float32Array.from(
			patterns,
			(bits) => valueOf(bits, exponentBits, mantissaBits),
		);
		const different = [...patterns].filter((bits) => !Object.is(actual[bits], expected[bits]));
		assert.deepEqual(different, []);
	});

	Deno.test(`widen() keeps sign and payload of a ${dtype} NaN`, async () => {
		const infinity = (2 ** exponentBits - 1) << mantissaBits;
		const patterns = Uint16Array.of(infinity + 1, infinity + 0x8000 + 5);
		using stored = gpu.upload(patterns, [2], dtype);
		using wide = await widen(gpu, stored);
		const shift = 23 - mantissaBits;
		const expected = [0x7f800000 + (1 << shift), 0xff800000 + (5 << shift)];
		assert.deepEqual([...await gpu.read(wide, "u32")], expected);
	});

	for (const size of [1, 2, 3, 127, 128, 129, 1001]) {
		Deno.test(`widen() widens ${size} ${dtype} values and nothing else`, async () => {
			const one = 2 ** (exponentBits - 1) - 1 << mantissaBits;
			const patterns = Uint16Array.from({ length: size }, (_, i) => one + i % 50);
			using stored = gpu.upload(patterns, [size], dtype);
			using wide = await widen(gpu, stored);
			const expected = Array.from(patterns, (bits) => valueOf(bits, exponentBits, mantissaBits));
			assertClose(await gpu.read(wide), expected);
		});
	}
}

Deno.test("widen() copies an f32 tensor", async () => {
	using stored = gpu.upload(Float32Array.of(1.5, -2.25, 3e-39), [3]);
	using wide = await widen(gpu, stored);
	assert.notEqual(wide.buffers[0], stored.buffers[0]);
	assertClose(await gpu.read(wide), [1.5, -2.25, Math.fround(3e-39)]);
});

Deno.test("widen() reaches beyond the 65535 workgroups of one dimension", async () => {
	const size = 128 * 65535 + 259;
	const patterns = Uint16Array.from({ length: size }, (_, i) => 0x3f80 + i % 127);
	using stored = gpu.upload(patterns, [size], "bf16");
	using wide = await widen(gpu, stored);
	const actual = new Uint32Array((await gpu.readBytes(wide)).buffer);
	assert.equal(actual.findIndex((bits, i) => bits !== patterns[i] << 16), -1);
});
