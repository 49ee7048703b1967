// Greedy tokens, generated one by one with a cache, against those of other programs: transformers for
// tiny random models of all model types, an f64 program for a trained one. The models lie outside the
// project; the tests say so where they are missing.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { argmax } from "~/gpu/kernels/reduce/argmax.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { generate, ResidentModel } from "~/models/generation/generation.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { openModel, openSafetensors } from "../open.ts";

const ARCHITECTURES = "../shared/fixtures/architectures";
const STORIES = "../shared/models";

const NAMES = [
	"llama",
	"llama-gqa-tied",
	"llama-biases",
	"llama3-rope-scaled",
	"mistral",
	"mistral-window",
	"qwen2",
	"qwen3",
	"opt",
	"opt-350m-style",
];

for (const name of NAMES) {
	const folder = `${ARCHITECTURES}/${name}`;
	const there = existsSync(folder);
	Deno.test({
		name: `${name} generates what it does in transformers${there ? "" : " (needs ../shared)"}`,
		ignore: !there,
		async fn() {
			await using gpu = await openGpu();
			using golden = openSafetensors(`${folder}/golden.safetensors`);
			const { buffer } = golden.readBytes("greedy_ids");
			const expected = golden.get("greedy_ids").dtype === "I64"
				? Array.from(new BigInt64Array(buffer), Number)
				: [...new Int32Array(buffer)];
			using files = openModel(folder);
			using model = await ResidentModel.load(gpu, files);
			// In f16 the logits are off by up to 0.005, which is more than lies between some tokens.
			for (const prompt of [12, 1, 20]) { // 12 tokens are the prompt that was continued
				const text = expected.slice(0, Math.max(prompt, 12));
				using cache = new KeyValueCache(gpu, files.architecture, expected.length, "f32");
				let input = text.slice(0, prompt);
				for (;;) {
					using logits = (await model.logits(Int32Array.from(input), cache))!;
					if (cache.length < text.length) {
						input = [text[cache.length]];
						continue;
					}
					using best = await argmax(gpu, logits);
					const [id] = await gpu.read(best, "u32");
					text.push(id);
					if (text.length === expected.length) break;
					input = [id];
				}
				assert.deepEqual(text, expected, `${prompt} tokens at once`);
			}
		},
	});
}

for (const name of ["stories260K-hf", "stories260K-hf-bf16-sharded"]) {
	const folder = `${STORIES}/${name}`;
	const there = existsSync(folder);
	Deno.test({
		name: `${name} continues its prompt as expected${there ? "" : " (needs ../shared)"}`,
		ignore: !there,
		async fn() {
			const golden = JSON.parse(readFileSync(`${STORIES}/stories260K-golden.json`, "utf8"))[name];
			await using gpu = await openGpu();
			using files = openModel(folder);
			using model = await ResidentModel.load(gpu, files);
			for (const cache of ["f32", "f16"] as const) { // here f16 is good enough
				const ids: number[] = [...golden.prompt_ids];
				let text = "";
				const options = { prompt: golden.prompt, maxTokens: 100, stopIds: [], cache };
				for await (const token of generate(model, options)) {
					ids.push(token.id);
					text += token.text;
				}
				assert.deepEqual(ids, golden.greedy_ids_100);
				assert.equal(golden.prompt + text, files.tokenizer.decode(golden.greedy_ids_100));
			}
		},
	});
}
