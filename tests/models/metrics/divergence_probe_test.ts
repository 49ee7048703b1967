import assert from "node:assert/strict";
import { divergence } from "~/models/metrics/divergence.ts";
import { DivergenceProbe } from "~/models/metrics/divergence_probe.ts";
import { FinalStates } from "~/models/metrics/final_states.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { LoadedModel } from "../loaded_model.ts";
import { modelFolder, randomModel, TINY_LLAMA } from "../random_model.ts";
import { normals } from "../../reference/random.ts";

for (const { kernels, gpu } of DEVICES) {
	Deno.test(`DivergenceProbe with ${kernels} gives what divergence() gives`, async () => {
		using folder = modelFolder(randomModel(TINY_LLAMA, 3));
		const [count, length, width] = [3, 9, 40];
		const tokens = count * length;
		const before = normals(tokens * width, 1);
		const after = before.map((value, i) => value + 0.1 * Math.sin(i));
		for (const partBytes of [1 << 20, 4 * width * 30]) { // the head in one part, and in four
			using loaded = await LoadedModel.open(gpu, folder.path, { partBytes });
			const { decoder } = loaded;
			await decoder.keepEnds();
			const windows = Array.from({ length: count }, () => new Int32Array(length));
			const statesOf = async (values: Float32Array) => {
				const states = new FinalStates([0, 1, 2]);
				await states.take([windows], async () => gpu.upload(values, [tokens, width]));
				return states;
			};
			const { model } = decoder;
			const expected = await divergence(
				gpu,
				{ model, states: await statesOf(before) },
				{ model, states: await statesOf(after) },
				{ dataset: "none" },
			);
			assert.ok(expected.kl > 1e-4);
			// In two batches, of two windows and of one.
			const split = (values: Float32Array) => {
				const at = 2 * length * width;
				const part = (some: Float32Array) => gpu.upload(some, [some.length / width, width]);
				return [part(values.slice(0, at)), part(values.slice(at))];
			};
			for (const keeps of [false, true]) {
				using probe = new DivergenceProbe(decoder, split(before), length);
				assert.equal(probe.batches, 2);
				if (keeps) await probe.keepLogits();
				using out = gpu.zeros([4]);
				for (const [batch, states] of split(after).entries()) {
					await probe.measure(batch, states, out, 1 + batch);
					gpu.free(states);
				}
				const [first, a, b, last] = await gpu.read(out);
				assert.deepEqual([first, last], [0, 0]);
				assert.ok(Math.abs((a + b) / expected.kl - 1) < 1e-4, `${a + b} ${expected.kl}`);
			}
		}
	});
}
