import assert from "node:assert/strict";
import { route } from "~/gpu/kernels/experts/route.ts";
import { assertClose } from "../../../assert_close.ts";
import { routeReference } from "../../../reference/experts.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

for (const [experts, k] of [[1, 1], [5, 2], [64, 8], [130, 3]]) {
	Deno.test(`route() chooses ${k} of ${experts} experts`, async () => {
		const tokens = 7;
		const logits = normals(tokens * experts, experts, 3);
		logits.fill(1.5, 0, experts); // of equal logits, the first ones
		const bias = normals(experts, 2);
		using onGpu = gpu.upload(logits, [tokens, experts]);
		using biasOnGpu = gpu.upload(bias, [experts]);
		for (const renormalized of [false, true]) {
			for (const biased of [false, true]) {
				const options = { k, renormalized, ...(biased && { bias: biasOnGpu }) };
				using routing = await route(gpu, onGpu, options);
				const rows = Array.from({ length: tokens }, (_, token) =>
					Float64Array.from(
						logits.subarray(token * experts, (token + 1) * experts),
						(logit, i) => Math.fround(logit + (biased ? bias[i] : 0)),
					));
				const expected = routeReference(rows, { k, renormalized });
				const found = await gpu.read(routing);
				for (const [token, row] of expected.entries()) {
					const own = found.subarray(token * 2 * k, (token + 1) * 2 * k);
					assert.deepEqual([...own.subarray(0, k)], [...row.subarray(0, k)]);
					assertClose(own.subarray(k), row.subarray(k), { rel: 2e-6, abs: 1e-7 });
				}
			}
		}
	});
}
