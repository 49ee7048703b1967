import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readTokenIds } from "../../data/windows.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { SHAPES } from "../../models/synthetic.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { writeSyntheticModel, writeSyntheticTokens } from "../../tasks/write_synthetic.ts";
import { runFile } from "../micro_model.ts";
import { LoadedModel } from "../models/loaded_model.ts";
import { randomWindows } from "../models/random_model.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const gpu = await openGpu();

/** The shapes of a known model, made narrow. */
function narrow(name: string): Record<string, unknown> {
	const { num_key_value_heads: grouped, ...config } = SHAPES[name];
	return {
		...config,
		vocab_size: 97,
		hidden_size: 64,
		intermediate_size: 96,
		ffn_dim: 96,
		num_hidden_layers: 2,
		num_attention_heads: 2,
		head_dim: 32,
		...(grouped ? { num_key_value_heads: 1 } : {}),
		max_position_embeddings: 64,
	};
}

for (const name of Object.keys(SHAPES)) {
	Deno.test(`a synthetic model in the shapes of ${name} is a whole one, and near 1`, async () => {
		using folder = new TemporaryFolder();
		writeSyntheticModel(folder.path, narrow(name), 3);
		using loaded = await LoadedModel.open(gpu, folder.path);
		const logits = await loaded.logits(randomWindows(2, 33, 97, 1));
		const { logitFactor = 1 } = loaded.model.architecture;
		const meanSquare = logits.reduce((sum, logit) => sum + (logit / logitFactor) ** 2, 0) /
			logits.length;
		assert.ok(meanSquare > 0.3 && meanSquare < 3, `logits of ${meanSquare}`);
		assert.equal(loaded.model.checkpoint.files.length, 4);
	});
}

Deno.test("synth writes what a pipeline runs on, the same for the same seed", async () => {
	using folder = new TemporaryFolder();
	const model = join(folder.path, "model");
	const args = ["--like", "opt-125m", "--layers", "1", "--samples", "2", "--sequence-length", "16"];
	const { code, stderr, stdout } = await startTask("synth", [model, ...args]);
	assert.deepEqual([code, stderr], [0, ""]);
	const tokens = join(model, "token_ids.safetensors");
	assert.equal(
		stdout,
		`${model}: random weights in the shapes of opt-125m; calibrate on ${tokens}\n`,
	);
	assert.deepEqual(readTokenIds(tokens).map(({ length }) => length), [16, 16]);
	using files = ModelFiles.open(denoFolder(model));
	const { hiddenSize, layers } = files.architecture;
	assert.deepEqual([hiddenSize, layers], [768, 1]);
	const shard = "model-00002-of-00002.safetensors";
	const first = readFileSync(join(model, shard));
	await startTask("synth", [model, ...args]);
	assert.deepEqual(readFileSync(join(model, shard)), first);
});

Deno.test("bench:generate measures a synthetic model and what is packed of it, without a tokenizer", async () => {
	using folder = new TemporaryFolder();
	const model = join(folder.path, "model");
	const config = narrow("llama-7b");
	writeSyntheticModel(model, config, 1);
	const dataset = join(folder.path, "token_ids.safetensors");
	writeSyntheticTokens(dataset, { samples: 2, length: 16, vocabulary: 97, seed: 1 });
	const output = join(folder.path, "out");
	const pipeline = join(folder.path, "pipeline.yaml");
	const calibrate = { calibrate: { dataset, samples: 2, "sequence-length": 16 } };
	const stages = ["download", calibrate, "hessian", "compensate", "pack"];
	writeFileSync(pipeline, JSON.stringify({ name: "synthetic", model, output, stages }));
	await runFile(pipeline);
	const packed = join(output, "model");
	const options = ["--prompt", "8", "--tokens", "4", "--runs", "1", "--json"];
	const { code, stdout, stderr } = await startTask("bench/generate", [model, packed, ...options]);
	assert.deepEqual([code, stderr], [0, ""]);
	const figures = stdout.trim().split("\n").map((line) => JSON.parse(line));
	assert.deepEqual(figures.map((each) => [each.model, each.tokens]), [[model, 4], [packed, 4]]);
	for (const { promptTokensPerSecond, tokensPerSecond, cacheBytes } of figures) {
		assert.ok(promptTokensPerSecond > 0 && tokensPerSecond > 0);
		assert.equal(cacheBytes, 2 * 2 * 11 * 2 * 32 * 4);
	}
});

Deno.test("bench:generate compares random models in each form of linear layers", async () => {
	const shapes = ["--like", "llama-7b", "--hidden-size", "128", "--layers", "1"];
	const options = ["--prompt", "12", "--tokens", "3", "--runs", "1"];
	const forms = ["billm", "grid-4", "f16"];
	const chosen = ["--forms", forms.join()];
	const { code, stdout, stderr } = await startTask("bench/generate", [
		...shapes,
		...options,
		...chosen,
	]);
	assert.deepEqual([code, stderr], [0, ""]);
	const [head, ...rows] = stdout.trim().split("\n").slice(-1 - forms.length);
	assert.match(head, /tokens\/s \(of billm\) +prompt \(of f16\) +GPU memory/);
	assert.deepEqual(rows.map((row) => row.split(" ")[0]), forms);
	for (const row of rows) assert.match(row, /^\S+ +[\d.]+ \([\d.]+\) +[\d.]+ \([\d.]+\) +/);
});
