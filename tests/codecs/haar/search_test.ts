import { transformPairs } from "~/codecs/haar/search.ts";
import { assertClose } from "../../assert_close.ts";
import { openGpu } from "../../gpu/open_gpu.ts";
import { rowsOf } from "../../reference/billm.ts";
import { pair } from "../../reference/haar.ts";
import { normals } from "../../reference/random.ts";

Deno.test("transformPairs() transforms pairs of columns or rows, and back", async () => {
	await using gpu = await openGpu();
	const [rows, cols] = [6, 10];
	const values = normals(rows * cols, 1);
	const matrix = rowsOf(values, cols);
	for (const pairs of ["columns", "rows"] as const) {
		using tensor = gpu.upload(values, [rows, cols]);
		await transformPairs(gpu, tensor, pairs);
		const expected = matrix.map((row, i) =>
			row.map((_, j) =>
				pairs === "columns"
					? pair(row[j - j % 2], row[j - j % 2 + 1])[j % 2]
					: pair(matrix[i - i % 2][j], matrix[i - i % 2 + 1][j])[i % 2]
			)
		);
		assertClose(await gpu.read(tensor), expected.flat(), { abs: 1e-6, what: pairs });
		await transformPairs(gpu, tensor, pairs);
		assertClose(await gpu.read(tensor), values, { abs: 1e-6, what: `${pairs} and back` });
	}
});
