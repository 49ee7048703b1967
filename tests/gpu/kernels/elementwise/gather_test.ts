import assert from "node:assert/strict";
import { gatherColumns, gatherSquare } from "~/gpu/kernels/elementwise/gather.ts";
import { normals, seededRandom } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

for (const n of [1, 17, 70]) {
	Deno.test(`gatherColumns() and gatherSquare() put ${n} columns in another order`, async () => {
		const random = seededRandom(n);
		const places = Uint32Array.from(
			Array.from({ length: n }, (_, i) => [random(), i]).sort(([a], [b]) => a - b),
			([, i]) => i,
		);
		using placesTensor = gpu.upload(places, [n]);
		const matrix = normals(5 * n, n);
		using matrixTensor = gpu.upload(matrix, [5, n]);
		using columns = await gatherColumns(gpu, matrixTensor, placesTensor);
		const expected = matrix.map((_, i) => matrix[i - i % n + places[i % n]]);
		assert.deepEqual(await gpu.read(columns), expected);

		const square = normals(n * n, n + 1);
		using squareTensor = gpu.upload(square, [n, n]);
		using both = await gatherSquare(gpu, squareTensor, placesTensor);
		assert.deepEqual(
			await gpu.read(both),
			square.map((_, i) => square[places[Math.floor(i / n)] * n + places[i % n]]),
		);
	});
}
