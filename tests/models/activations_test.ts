import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { Activations } from "~/models/activations.ts";
import { gpu } from "../gpu/gpu.ts";
import { normals } from "../reference/random.ts";

const registers = (...values: [string, Float32Array][]) =>
	new Map(values.map(([name, data]) => [name, gpu.upload(data, [3, data.length / 3])]));

async function contentOf(activations: Activations, batch: number) {
	const loaded = await activations.load(batch);
	const content: Record<string, number[]> = {};
	for (const [name, tensor] of loaded) {
		assert.deepEqual([tensor.dtype, tensor.shape], ["f32", [3, tensor.size / 3]]);
		content[name] = [...await gpu.read(tensor)];
	}
	gpu.free(...loaded.values());
	return content;
}

const hidden = normals(3 * 64, 1);
const x = normals(3 * 100 + 3, 2); // an odd number of f16
const more = normals(3 * 64, 3);

for (const dtype of ["f32", "f16"] as const) {
	// All on the GPU; the first register only; nothing.
	for (const gpuBytes of [Infinity, dtype === "f32" ? 1100 : 600, 0]) {
		Deno.test(`activations in ${dtype}, at most ${gpuBytes} bytes on the GPU`, async () => {
			const before = gpu.memory.current;
			const round = (data: Float32Array) =>
				dtype === "f32" ? [...data] : [...Float32Array.from(Float16Array.from(data))];
			{
				const options = { tokens: [3, 3], width: 64, nearWidth: 165, dtype, gpuBytes };
				using activations = new Activations(gpu, options);
				assert.equal(activations.batches, 2);
				await activations.keep(0, 4, registers(["hidden", hidden], ["x", x]));
				await activations.keep(1, 0, registers(["hidden", more]));
				assert.deepEqual([activations.at(0), activations.at(1)], [4, 0]);
				assert.deepEqual(await contentOf(activations, 0), { hidden: round(hidden), x: round(x) });
				assert.deepEqual(await contentOf(activations, 1), { hidden: round(more) });

				// What is unchanged stays, what is not named goes, what is new replaces.
				const loaded = await activations.load(0);
				gpu.free(loaded.get("x")!);
				loaded.set("x", gpu.upload(more, [3, 64]));
				await activations.keep(0, 7, loaded);
				assert.deepEqual(await contentOf(activations, 0), {
					hidden: round(hidden),
					x: round(more),
				});
				const again = await activations.load(0);
				gpu.free(again.get("x")!);
				again.delete("x");
				await activations.keep(0, 0, again);
				assert.deepEqual(await contentOf(activations, 0), { hidden: round(hidden) });
				await activations.checkRange("the test");

				const bytes = dtype === "f32" ? 4 : 2;
				// 192 elements are rounded up to 256, 303 to 384.
				const elements = gpuBytes === Infinity ? 2 * (256 + 384) : gpuBytes === 0 ? 0 : 256;
				const used = gpu.memory.current - before;
				assert.equal(used, 256 + elements * bytes, "256 for the counter");
				const room = [192, 192 + 303, 1000].map((wanted) => activations.hasRoomFor(0, wanted));
				assert.deepEqual(room, [gpuBytes > 0, gpuBytes === Infinity, false]);
			}
			assert.equal(gpu.memory.current, before, "everything is freed");
		});
	}
}

Deno.test("activations beyond f16 are an error that says what would do", async () => {
	using activations = new Activations(gpu, { tokens: [3], width: 1, dtype: "f16" });
	await activations.keep(0, 0, registers(["hidden", Float32Array.of(1, 7e4, -2e5)]));
	await assert.rejects(
		() => activations.checkRange(`layer 3 of "model"`),
		new UserError(
			`2 activations of layer 3 of "model" are beyond what f16 holds (65504); use activations: f32`,
		),
	);
});
