import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { perplexity } from "~/models/metrics/perplexity.ts";
import { assertClose } from "../../assert_close.ts";
import { openModel } from "../../open.ts";
import { crossEntropyReference, forwardReference } from "../../reference/decoder.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import {
	modelFolder,
	type RandomModel,
	randomModel,
	randomWindows,
	TINY_LLAMA,
	TINY_OPT,
	writeModel,
} from "../random_model.ts";

const gpu = await openGpu({ poison: true });

/** The mean over the windows of the mean cross-entropy of their tokens but the first. */
function lossReference({ config, tensors }: RandomModel, windows: Int32Array[]): number {
	const means = windows.map((window) => {
		const { logits } = forwardReference(config, tensors, window);
		let sum = 0;
		for (let i = 1; i < window.length; i++) sum += crossEntropyReference(logits[i - 1], window[i]);
		return sum / (window.length - 1);
	});
	return means.reduce((sum, mean) => sum + mean, 0) / means.length;
}

for (const [config, dtype] of [[TINY_LLAMA, "BF16"], [TINY_OPT, "F16"]] as const) {
	for (const [length, count] of [[2, 1], [17, 3], [33, 5]]) {
		const what = `${config.model_type}, ${count} windows of ${length}`;
		Deno.test(`perplexity() equals the reference however batched: ${what}`, async () => {
			const model = randomModel(config, 1, dtype);
			const windows = randomWindows(count, length, config.vocab_size, 2);
			const expected = lossReference(model, windows);
			using folder = modelFolder(model);
			using files = openModel(folder.path);
			const before = gpu.memory.current;
			const losses: number[] = [];
			// One window at a time; two, so that a smaller batch is left; all.
			for (
				const [batchTokens, batches] of [[1, count], [2 * length, Math.ceil(count / 2)], [8192, 1]]
			) {
				const progress: [number, number][] = [];
				const onProgress = (done: number, total: number) => {
					progress.push([done, total]);
					return Promise.resolve();
				};
				const options = { windows, dataset: "random", batchTokens, onProgress };
				const { loss, perplexity: value, ...rest } = await perplexity(gpu, files, options);
				assert.deepEqual(rest, { dataset: "random", sequenceLength: length, windows: count });
				// Each loss is off by a few 1e-6 like the logits, in either direction.
				assertClose([loss], [expected], { abs: 5e-6, what: "loss" });
				assert.equal(value, Math.exp(loss));
				const total = batches * 3; // two layers and the head
				assert.deepEqual(progress, Array.from({ length: total }, (_, i) => [i + 1, total]));
				losses.push(loss);
			}
			assertClose(losses, losses.map(() => losses[0]), { abs: 1e-6, what: "other batches" });
			assert.equal(gpu.memory.current, before, "everything is freed");
		});
	}
}

Deno.test("perplexity() weighs windows equally and leaves out each first token", async () => {
	// Two layers that add nothing, and an embedding in which each id predicts itself by 10 to 0.
	const config = { ...TINY_LLAMA, hidden_size: 4, num_attention_heads: 1, num_key_value_heads: 1 };
	const model = randomModel({ ...config, vocab_size: 4, rms_norm_eps: 1e-30 }, 3);
	for (const [name, { data }] of model.tensors) {
		data.fill(name.endsWith("norm.weight") ? 1 : 0);
		if (name === "model.embed_tokens.weight") { for (let i = 0; i < 4; i++) data[i * 5] = 1; }
		if (name === "model.norm.weight") data.fill(5); // times √4, the norm of a row with one 1
	}
	using folder = modelFolder(model);
	using files = openModel(folder.path);
	const sure = Math.log(1 + 3 * Math.exp(-10));
	const loss = async (...windows: number[][]) =>
		(await perplexity(gpu, files, {
			windows: windows.map((ids) => Int32Array.from(ids)),
			dataset: "x",
		})).loss;
	const close = (actual: number, expected: number) =>
		assertClose([actual], [expected], { abs: 2e-6 }); // ten times 2⁻²⁴, twice
	close(await loss([2, 2, 2]), sure);
	close(await loss([2, 2, 1]), sure + 5); // one of two is wrong by 10
	close(await loss([1, 2, 2]), sure + 5);
	close(await loss([1, 2, 3], [0, 0, 0], [0, 0, 0], [0, 0, 3]), sure + 15 / 4);
});

Deno.test("perplexity() refuses a model whose activations overflow", async () => {
	using folder = new TemporaryFolder();
	const model = randomModel(TINY_LLAMA, 4);
	model.tensors.get("model.norm.weight")!.data.fill(3e38);
	writeModel(folder.path, model);
	using files = openModel(folder.path);
	const windows = randomWindows(2, 5, TINY_LLAMA.vocab_size, 5);
	await assert.rejects(
		() => perplexity(gpu, files, { windows, dataset: "text.txt" }),
		new UserError(
			`The perplexity of "${folder.path}" on "text.txt" is not a number: ` +
				`activations exceed what f32 holds`,
		),
	);
});
