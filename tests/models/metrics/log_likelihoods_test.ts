import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { logLikelihoods } from "~/models/metrics/log_likelihoods.ts";
import type { Prompt } from "~/models/metrics/prompt_batch.ts";
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

/** Each prompt alone, in f64. */
function reference({ config, tensors }: RandomModel, { tokens, scored }: Prompt): number {
	const { logits } = forwardReference(config, tensors, tokens.subarray(0, -1));
	let sum = 0;
	for (let i = tokens.length - scored; i < tokens.length; i++) {
		sum -= crossEntropyReference(logits[i - 1], tokens[i]);
	}
	return sum;
}

/** Groups of different sizes whose prompts begin alike, differ at once, or are read alike. */
function randomGroups(vocabulary: number): Prompt[][] {
	const shapes = [[12, 3, 5, 1], [1, 1, 1], [20, 9], [5, 0, 4, 17], [2, 2]];
	const words = randomWindows(1, 200, vocabulary, 7)[0];
	let next = 0;
	const take = (count: number) => [...words.subarray(next, next += count)];
	return shapes.map(([common, ...own]) => {
		const context = take(common);
		return own.map((count) => ({
			tokens: Int32Array.from([...context, ...take(count + 1)]),
			scored: Math.max(1, count),
		}));
	});
}

const SLIDING = { ...TINY_LLAMA, model_type: "mistral" as const, sliding_window: 6 };

for (
	const [name, config, dtype] of [
		["llama", TINY_LLAMA, "BF16"],
		["opt", TINY_OPT, "F16"],
		["sliding", SLIDING, "F32"],
	] as const
) {
	Deno.test(`logLikelihoods() equal those of each prompt alone however batched: ${name}`, async () => {
		const model = randomModel(config, 1, dtype);
		using folder = modelFolder(model);
		using files = openModel(folder.path);
		const groups = randomGroups(config.vocab_size);
		const expected = groups.map((prompts) => prompts.map((prompt) => reference(model, prompt)));
		const before = gpu.memory.current;
		for (const [batchTokens, shares] of [[1, true], [40, true], [8192, true], [8192, false]]) {
			const options = { batchTokens: batchTokens as number, shares: shares as boolean };
			const progress: [number, number][] = [];
			const onProgress = async (done: number, total: number) => void progress.push([done, total]);
			const found = await logLikelihoods(gpu, files, groups, { ...options, onProgress });
			assert.deepEqual(found.map(({ length }) => length), groups.map(({ length }) => length));
			// Each of up to 17 tokens' is off by a few 1e-6 like the logits, which reach 24 nats here.
			assertClose(found.flat(), expected.flat(), { abs: 4e-5, what: JSON.stringify(options) });
			const total = progress.length;
			assert.deepEqual(progress, Array.from({ length: total }, (_, i) => [i + 1, total]));
			assert.equal(total % 3, 0, "two layers and the head for each batch");
			assert.equal(gpu.memory.current, before, "everything is freed");
		}
	});
}

Deno.test("logLikelihoods() come in passes where memory is short, with the same results", async () => {
	const model = randomModel(TINY_LLAMA, 1);
	using folder = modelFolder(model);
	using files = openModel(folder.path);
	const words = randomWindows(40, 30, TINY_LLAMA.vocab_size, 3);
	const groups = words.map((tokens) => [{ tokens, scored: 4 }]);
	const expected = await logLikelihoods(gpu, files, groups, { batchTokens: 30 });
	await using small = await openGpu({ memory: 1 << 20 }); // nothing is left for activations
	const found = await logLikelihoods(small, files, groups, { batchTokens: 30 });
	assertClose(found.flat(), expected.flat(), { abs: 1e-6 });
});

Deno.test("logLikelihoods() refuse a model whose activations overflow", async () => {
	using folder = new TemporaryFolder();
	const model = randomModel(TINY_LLAMA, 4);
	model.tensors.get("model.norm.weight")!.data.fill(3e38);
	writeModel(folder.path, model);
	using files = openModel(folder.path);
	const groups = [[{ tokens: Int32Array.of(1, 2, 3), scored: 1 }]];
	await assert.rejects(
		() => logLikelihoods(gpu, files, groups),
		new UserError(
			`The log-likelihoods of "${folder.path}" are not all numbers: ` +
				`activations exceed what f32 holds`,
		),
	);
});
