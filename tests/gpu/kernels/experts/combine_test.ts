import { combine } from "~/gpu/kernels/experts/combine.ts";
import { assertClose } from "../../../assert_close.ts";
import { combineReference } from "../../../reference/experts.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

for (const [tokens, k, width] of [[1, 1, 5], [9, 3, 70]]) {
	Deno.test(`combine() adds up the outputs of ${k} experts`, async () => {
		const [y, routing, residual] = [k * width, 2 * k, width].map((size, i) =>
			normals(tokens * size, i + 1)
		);
		const rows = (values: Float32Array) =>
			Array.from({ length: tokens }, (_, token) => {
				const size = values.length / tokens;
				return Float64Array.from(values.subarray(token * size, (token + 1) * size));
			});
		using yOnGpu = gpu.upload(y, [tokens, k * width]);
		using routingOnGpu = gpu.upload(routing, [tokens, 2 * k]);
		using residualOnGpu = gpu.upload(residual, [tokens, width]);
		for (const factor of [1, 0.3]) {
			using out = await combine(gpu, yOnGpu, routingOnGpu, residualOnGpu, factor);
			const op = { op: "combine", to: "", from: "", routing: "", k, width, factor } as const;
			const expected = combineReference(op, rows(residual), rows(y), rows(routing));
			assertClose(await gpu.read(out), expected.flatMap((row) => [...row]), { abs: 2e-6 });
		}
	});
}
