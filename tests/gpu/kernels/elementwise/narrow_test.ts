import assert from "node:assert/strict";
import { narrow } from "~/gpu/kernels/elementwise/narrow.ts";
import { seededRandom } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

async function narrowed(values: Float32Array) {
	using wide = gpu.upload(values, [values.length]);
	using overflows = gpu.zeros([1], "u32");
	using out = await narrow(gpu, wide, overflows);
	assert.deepEqual([out.dtype, out.shape], ["f16", [values.length]]);
	const halves = new Uint16Array((await gpu.readBytes(out)).buffer).subarray(0, values.length);
	return { halves, overflows: (await gpu.read(overflows, "u32"))[0] };
}

/** The bits of the nearest f16 as the language's own rounding finds it. */
function expected(values: Float32Array): Uint16Array {
	return new Uint16Array(Float16Array.from(values).buffer);
}

Deno.test("narrow() gives every f16 back, and halves between neighbours to the even one", async () => {
	const halves = new Float16Array(Uint16Array.from({ length: 0x7c00 }, (_, i) => i).buffer);
	const exact = Float32Array.from(halves);
	const between = exact.subarray(0, -1).map((value, i) => (value + exact[i + 1]) / 2);
	for (const values of [exact, exact.map((value) => -value), between]) {
		const found = await narrowed(values);
		assert.deepEqual(found.halves, expected(values));
		assert.equal(found.overflows, 0);
	}
});

Deno.test("narrow() rounds f32 of every size to the nearest", async () => {
	const random = seededRandom(1);
	const bits = Uint32Array.from({ length: 50001 }, () => Math.floor(random() * 2 ** 32));
	const values = new Float32Array(bits.buffer).filter((value) => Math.abs(value) < 65520);
	assert.ok(values.length > 20000);
	const found = await narrowed(values);
	assert.deepEqual(found.halves, expected(values));
	assert.equal(found.overflows, 0);
});

Deno.test("narrow() counts what f16 cannot hold", async () => {
	const beyond = [65520, -65520, 1e38, Infinity, -Infinity, NaN];
	const found = await narrowed(Float32Array.of(1, 65519.99, -65504, ...beyond));
	assert.equal(found.overflows, beyond.length);
	assert.deepEqual([...found.halves.subarray(0, 5)], [0x3c00, 0x7bff, 0xfbff, 0x7c00, 0xfc00]);
});

for (const size of [1, 2, 3, 127, 128, 129]) {
	Deno.test(`narrow() narrows ${size} values and nothing else`, async () => {
		const values = Float32Array.from({ length: size }, (_, i) => i / 7);
		assert.deepEqual((await narrowed(values)).halves, expected(values));
	});
}
