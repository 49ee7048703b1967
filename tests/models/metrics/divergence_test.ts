import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { divergence } from "~/models/metrics/divergence.ts";
import { FinalStates, spreadWindows } from "~/models/metrics/final_states.ts";
import { finalStates, perplexity } from "~/models/metrics/perplexity.ts";
import { ModelFiles } from "~/models/model_files.ts";
import { assertClose } from "../../assert_close.ts";
import { openModel } from "../../open.ts";
import { forwardReference } from "../../reference/decoder.ts";
import { klReference } from "../../reference/divergence.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import {
	type RandomModel,
	randomModel,
	randomWindows,
	TINY_LLAMA,
	TINY_OPT,
	writeModel,
} from "../random_model.ts";

const gpu = await openGpu({ poison: true });

/** The means over all predictions of some windows, from the logits of both models. */
function meansReference(original: RandomModel, model: RandomModel, windows: Int32Array[]) {
	const all = windows.flatMap((window) => {
		const [one, other] = [original, model].map(({ config, tensors }) =>
			forwardReference(config, tensors, window).logits.slice(0, -1)
		);
		return one.map((logits, token) => klReference(logits, other[token]));
	});
	return {
		kl: all.reduce((sum, { divergence }) => sum + divergence, 0) / all.length,
		agreement: all.filter(({ id, otherId }) => id === otherId).length / all.length,
	};
}

/** A model like another one, with noise on each weight. */
function noisy(config: typeof TINY_LLAMA, noise: number): RandomModel {
	const [model, other] = [randomModel(config, 1), randomModel(config, 2)];
	for (const [name, { data }] of model.tensors) {
		const values = other.tensors.get(name)!.data;
		for (let i = 0; i < data.length; i++) data[i] += noise * values[i];
	}
	return model;
}

async function withBoth(
	original: RandomModel,
	model: RandomModel,
	use: (original: ModelFiles, model: ModelFiles) => Promise<void>,
): Promise<void> {
	using one = new TemporaryFolder();
	using other = new TemporaryFolder();
	writeModel(one.path, original);
	writeModel(other.path, model);
	using files = openModel(one.path);
	using otherFiles = openModel(other.path);
	await use(files, otherFiles);
}

for (const config of [TINY_LLAMA, TINY_OPT]) {
	Deno.test(`divergence() equals the reference however it is cut: ${config.model_type}`, async () => {
		const original = randomModel(config, 1);
		const model = noisy(config, 0.3);
		const windows = randomWindows(7, 33, config.vocab_size, 2);
		await withBoth(original, model, async (files, otherFiles) => {
			const before = gpu.memory.current;
			for (const count of [3, 7]) {
				const chosen = spreadWindows(windows.length, count);
				const wanted = meansReference(original, model, chosen.map((window) => windows[window]));
				assert.ok(wanted.kl > 0.05 && wanted.agreement > 0.2 && wanted.agreement < 0.95);
				const states = new FinalStates(chosen);
				const options = { windows, dataset: "random", batchTokens: 66 };
				const plain = await perplexity(gpu, otherFiles, options);
				const figure = await perplexity(gpu, otherFiles, { ...options, states });
				assert.deepEqual(figure, plain, "the same with and without states");
				const first = await finalStates(gpu, files, chosen, { windows, batchTokens: 66 });
				// Three parts with a batch for each window; slices of 64 predictions; all at once.
				for (const [partBytes, steps] of [[6400, 3 * count], [30720], [undefined, 1]] as const) {
					const progress: [number, number][] = [];
					const { kl, agreement, windows: measured } = await divergence(
						gpu,
						{ model: files, states: first },
						{ model: otherFiles, states },
						{
							dataset: "random",
							partBytes,
							onProgress: (done, total) => Promise.resolve(void progress.push([done, total])),
						},
					);
					// Each is off by a few 1e-6 like the logits.
					assertClose([kl], [wanted.kl], { abs: 5e-6, what: "KL" });
					assert.equal(agreement, wanted.agreement);
					assert.equal(measured, count);
					const total = steps ?? progress.length;
					assert.deepEqual(progress, Array.from({ length: total }, (_, i) => [i + 1, total]));
				}
			}
			assert.equal(gpu.memory.current, before, "everything is freed");
		});
	});
}

Deno.test("divergence() of a model from itself is 0, and all its top tokens are the same", async () => {
	const model = randomModel(TINY_LLAMA, 1, "BF16");
	const windows = randomWindows(2, 9, TINY_LLAMA.vocab_size, 3);
	await withBoth(model, model, async (files, otherFiles) => {
		const states = await finalStates(gpu, files, [0, 1], { windows });
		const found = await divergence(gpu, { model: files, states }, { model: otherFiles, states }, {
			dataset: "random",
		});
		assert.deepEqual(found, { windows: 2, kl: 0, agreement: 1 });
	});
});

Deno.test("divergence() refuses logits that overflow", async () => {
	const model = randomModel(TINY_LLAMA, 4);
	model.tensors.get("model.norm.weight")!.data.fill(3e38);
	const windows = randomWindows(2, 5, TINY_LLAMA.vocab_size, 5);
	await withBoth(randomModel(TINY_LLAMA, 4), model, async (files, otherFiles) => {
		const [states, others] = [
			await finalStates(gpu, files, [0], { windows }),
			await finalStates(gpu, otherFiles, [0], { windows }),
		];
		const [one, other] = [{ model: files, states }, { model: otherFiles, states: others }];
		await assert.rejects(
			() => divergence(gpu, one, other, { dataset: "text.txt" }),
			new UserError(
				`The KL divergence of "${otherFiles.name}" from the original on "text.txt" is not a ` +
					`number: logits exceed what f32 holds`,
			),
		);
	});
});

Deno.test("spreadWindows() chooses windows at equal distances", () => {
	assert.deepEqual(spreadWindows(148, 16), Array.from({ length: 16 }, (_, i) => 9 * i));
	assert.deepEqual(spreadWindows(5, 2), [0, 2]);
	assert.deepEqual(spreadWindows(3, 16), [0, 1, 2]);
	assert.deepEqual(spreadWindows(4, 4), [0, 1, 2, 3]);
	assert.deepEqual(spreadWindows(9, 1), [0]);
});
