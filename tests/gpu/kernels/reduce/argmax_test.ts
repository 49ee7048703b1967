import assert from "node:assert/strict";
import { argmax, NOT_FINITE } from "~/gpu/kernels/reduce/argmax.ts";
import { normals } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

for (const { kernels, gpu } of DEVICES) {
	const find = async (x: Float32Array, cols: number) => {
		using tensor = gpu.upload(x, [x.length / cols, cols]);
		using found = await argmax(gpu, tensor);
		return [...await gpu.read(found, "u32")];
	};

	for (const cols of [1, 2, 15, 16, 17, 127, 128, 129, 1000, 4096, 16387, 50272]) {
		Deno.test(`argmax() with ${kernels} finds the greatest of ${cols}`, async () => {
			const x = normals(4 * cols, cols);
			x.fill(-1e30, cols, 2 * cols); // all the same: the first counts
			x[3 * cols - 1] = 100;
			if (cols > 20) x[3 * cols + 20] = x[3 * cols + 9] = 100;
			const expected = Array.from({ length: 4 }, (_, row) => {
				const values = x.subarray(row * cols, (row + 1) * cols);
				return values.reduce((best, value, i) => value > values[best] ? i : best, 0);
			});
			assert.deepEqual(await find(x, cols), expected);
		});
	}

	Deno.test(`argmax() with ${kernels} marks what is not finite`, async () => {
		for (const wrong of [NaN, -NaN, Infinity, -Infinity]) {
			for (const cols of [200, 203]) {
				for (const at of [0, 77, 78, 79, 80, cols - 1]) {
					const x = normals(2 * cols, 1);
					x[at] = wrong;
					x[2 * cols - 1] = 3.4e38;
					const expected = [NOT_FINITE, cols - 1];
					assert.deepEqual(await find(x, cols), expected, `${wrong} at ${at} of ${cols}`);
				}
			}
		}
	});

	Deno.test(`argmax() with ${kernels} finds the greatest wherever it is`, async () => {
		for (const cols of [24, 25]) {
			const x = normals(cols * cols, 2);
			for (let row = 0; row < cols; row++) x[row * cols + row] = 50;
			assert.deepEqual(await find(x, cols), Array.from({ length: cols }, (_, row) => row));
		}
	});

	Deno.test(`argmax() with ${kernels} knows the least numbers`, async () => {
		assert.deepEqual(await find(Float32Array.of(-3.4e38, -3.4028e38), 2), [0]);
		const least = -3.4028234663852886e38;
		for (const cols of [8, 9]) {
			assert.deepEqual(await find(new Float32Array(cols).fill(least), cols), [0]);
		}
	});
}
