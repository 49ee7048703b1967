import assert from "node:assert/strict";
import { countNonFinite } from "~/gpu/kernels/reduce/non_finite.ts";
import { uniforms } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

/** Bits that no arithmetic can lose: infinities, quiet and signalling NaN of both signs. */
const BAD = [0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff];
const GOOD = [0, 0x80000000, 1, 0x80000001, 0x007fffff, 0x7f7fffff, 0xff7fffff, 0x3f800000];

// Both sides of a workgroup, of what one thread takes, and of the largest grid (4096 x 64 threads).
for (const size of [1, 63, 64, 65, 255, 256, 257, 5000, 4096 * 256 + 77]) {
	Deno.test(`countNonFinite() finds each of the bad values among ${size}`, async () => {
		const values = new Uint32Array(uniforms(size, size).buffer);
		const places = new Set([0, 1, 2, 63, 64, 255, 256, 4096 * 64, size - 2, size - 1]);
		const taken = [...places].filter((place) => place >= 0 && place < size);
		taken.forEach((place, i) => values[place] = BAD[i % BAD.length]);
		using tensor = gpu.upload(values, [size], "f32");
		using count = gpu.zeros([1], "u32");
		await countNonFinite(gpu, tensor, count);
		assert.deepEqual([...await gpu.read(count, "u32")], [taken.length]);
	});
}

Deno.test("countNonFinite() adds to the count and takes extreme finite values for finite", async () => {
	using bad = gpu.upload(Uint32Array.from(BAD), [BAD.length], "f32");
	using good = gpu.upload(Uint32Array.from(GOOD), [GOOD.length], "f32");
	using count = gpu.upload(Uint32Array.of(100), [1]);
	await countNonFinite(gpu, bad, count);
	await countNonFinite(gpu, good, count);
	await countNonFinite(gpu, bad, count);
	assert.deepEqual([...await gpu.read(count, "u32")], [100 + 2 * BAD.length]);
});
