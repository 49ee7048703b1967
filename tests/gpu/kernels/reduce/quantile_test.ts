import assert from "node:assert/strict";
import { quantiles } from "~/gpu/kernels/reduce/quantile.ts";
import { assertClose } from "../../../assert_close.ts";
import { quantilesReference } from "../../../reference/billm.ts";
import { normals, seededRandom } from "../../../reference/random.ts";
import { hardware } from "../../devices.ts";
import { gpu } from "../../gpu.ts";

/** The break-points of the search: 0.10, 0.11 .. 0.90. */
const LADDER = Array.from({ length: 81 }, (_, i) => (10 + i) / 100);
const EXTREMES = [0, 0, 0.001, 0.25, 0.5, 0.5, 0.999, 1, 1];
const MANY = Array.from({ length: 128 }, (_, i) => i / 127);

/** The device must give the very f32 that a sort gives; GPUs may fuse the last product and sum. */
async function check(
	values: Float32Array,
	cols: number,
	salient: Uint32Array,
	probabilities: readonly number[],
): Promise<void> {
	const expected = quantilesReference(values, cols, salient, probabilities);
	for (const device of [gpu, hardware]) {
		using tensor = device.upload(values, [values.length / cols, cols]);
		using salientTensor = device.upload(salient, [cols]);
		using out = await quantiles(device, tensor, salientTensor, probabilities);
		assertClose(await device.read(out), expected, { rel: gpu.software ? 0 : 2 ** -23 });
	}
}

function flags(cols: number, every: number): Uint32Array {
	return Uint32Array.from({ length: cols }, (_, c) => Number(c % every === 1));
}

for (
	const [rows, cols] of [
		[1, 1],
		[1, 2],
		[1, 3],
		[2, 5],
		[7, 9],
		[1, 64],
		[5, 13],
		[3, 100],
		[33, 128],
		[129, 256],
	]
) {
	Deno.test(`quantiles() of [${rows}, ${cols}] equal those of a sort`, async () => {
		const values = normals(rows * cols, rows * 1000 + cols);
		for (const probabilities of [LADDER, EXTREMES, MANY, [0.5]]) {
			await check(values, cols, new Uint32Array(cols), probabilities);
			await check(values, cols, flags(cols, 3), probabilities);
		}
	});
}

Deno.test("quantiles() count salient columns as zeros", async () => {
	const cols = 20;
	const values = normals(10 * cols, 1).map((v) => v + 5);
	await check(values, cols, new Uint32Array(cols).fill(1), LADDER);
	await check(values, cols, flags(cols, 2), LADDER); // half of all values
	await check(values, cols, Uint32Array.from({ length: cols }, (_, c) => Number(c > 0)), LADDER);
});

Deno.test("quantiles() hold ties and constants", async () => {
	const none = new Uint32Array(16);
	const random = seededRandom(2);
	const draw = (...choices: number[]) =>
		Float32Array.from({ length: 320 }, () => choices[Math.floor(choices.length * random())]);
	await check(new Float32Array(320), 16, none, LADDER);
	await check(new Float32Array(320).fill(-0.3), 16, none, LADDER);
	await check(draw(1, -1, 1.0000001, 2, -2), 16, none, LADDER);
	await check(draw(0, -0, 1e-30, 3), 16, none, LADDER);
	await check(draw(1, -1, 2), 16, flags(16, 4), MANY);
});

Deno.test("quantiles() tell neighbouring floats apart", async () => {
	// 256 values in a row share their top 24 bits; the next ones differ in the 10 bits above.
	const bits = Uint32Array.from({ length: 512 }, (_, i) => 0x3f800000 + i + (i > 255 ? 70000 : 0));
	const values = new Float32Array(bits.buffer).reverse();
	await check(values, 16, new Uint32Array(16), MANY);
});

Deno.test("quantiles() cover magnitudes from 1e-30 to 1e30", async () => {
	const random = seededRandom(3);
	const values = Float32Array.from({ length: 64 * 40 }, () => {
		const magnitude = 10 ** (60 * random() - 30);
		return random() < 0.5 ? magnitude : -magnitude;
	});
	await check(values, 64, new Uint32Array(64), LADDER);
	await check(values, 64, flags(64, 5), MANY);
});

Deno.test("quantiles() of four million weights", async () => {
	const [rows, cols] = [16400, 256];
	const values = normals(rows * cols, 4);
	await check(values, cols, flags(cols, 17), [0.1, 0.5, 0.9]);
});

Deno.test("quantiles() take at most 128 probabilities", async () => {
	using values = gpu.zeros([1, 4]);
	using salient = gpu.zeros([4], "u32");
	await assert.rejects(quantiles(gpu, values, salient, new Array(129).fill(0.5)), {
		name: "RangeError",
		message: "At most 128 quantiles at a time, asked for 129",
	});
});
