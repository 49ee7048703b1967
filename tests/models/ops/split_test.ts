import { split } from "~/models/ops/split.ts";
import type { OpContext } from "~/models/ops/op.ts";
import { assertClose } from "../../assert_close.ts";
import { gpu } from "../../gpu/gpu.ts";
import { normals } from "../../reference/random.ts";

for (
	const [tokens, heads, width] of [
		[1, 3, 5],
		[7, 2, 16],
		[70000, 4, 1], // more rows than a dispatch takes
	]
) {
	Deno.test(`split takes ${heads} heads of ${width} of ${tokens} tokens apart`, async () => {
		const to = ["q", "k", "v"];
		const x = normals(tokens * heads * 3 * width, 1);
		using tensor = gpu.upload(x, [tokens, heads * 3 * width]);
		const context = { gpu, registers: new Map([["qkv", tensor]]) } as Partial<OpContext>;
		const outputs = await split.run(
			{ op: "split", from: "qkv", to, heads, width },
			context as OpContext,
		);
		for (const [part, [register, out]] of outputs.entries()) {
			const expected = Float32Array.from({ length: tokens * heads * width }, (_, i) => {
				const head = Math.floor(i / width);
				return x[(head * 3 + part) * width + i % width];
			});
			assertClose(await gpu.read(out), expected, { abs: 0, what: register });
			gpu.free(out);
		}
	});
}
