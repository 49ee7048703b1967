// Models with experts through whole runs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { z } from "zod";
import { continueTokens, ResidentModel } from "../../models/generation/generation.ts";
import { workingBytes } from "../../models/memory_plan.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { loadPipeline } from "../../pipeline/config/config.ts";
import type { LinearRecord } from "../../pipeline/run/events.ts";
import { defineStage } from "../../pipeline/stage.ts";
import { runPipeline } from "../../report/run_with_report.ts";
import { RECIPES, STAGES } from "../../stages/mod.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { contents, type MicroModelOptions, type MicroTensor, Workplace } from "../micro_model.ts";
import { LoadedModel } from "../models/loaded_model.ts";
import { startTask } from "../start_task.ts";

const SMALL: MicroModelOptions = {
	family: "qwen3-moe",
	layers: 1,
	intermediate: 32,
	experts: { count: 5, perToken: 2 },
};

const SMALLER = { hidden: 32, intermediate: 16, experts: { count: 4, perToken: 2 } };

/** Windows and tokens of each. */
const [WINDOWS, LENGTH] = [4, 40];
/** A token of the calibration data that occurs once. */
const RARE = 7;

/**
 * A model whose last expert gets no token, and the one before only {@link RARE}: a channel of the embedding
 * is the same for all tokens, another one is that token's alone, and attention hardly adds to them.
 */
function withRareExperts(): Workplace {
	const alter = (tensors: Map<string, MicroTensor>) => {
		const { shape: [tokens, hidden], values } = tensors.get("model.embed_tokens.weight")!;
		for (let token = 0; token < tokens; token++) {
			values[token * hidden] = 0.5;
			values[token * hidden + 1] = token === RARE ? 5 : 0;
		}
		const output = tensors.get("model.layers.0.self_attn.o_proj.weight")!;
		output.values = output.values.map((value) => value / 1000);
		tensors.get("model.layers.0.post_attention_layernorm.weight")!.values.fill(1);
		const router = tensors.get("model.layers.0.mlp.gate.weight")!.values;
		for (const expert of [3, 4]) router.fill(0, expert * hidden, (expert + 1) * hidden);
		router.set([-2, 10], 3 * hidden);
		router.set([-10, -10], 4 * hidden);
	};
	return new Workplace({ ...SMALL, alter });
}

/** Token ids in which {@link RARE} occurs once. */
function writeTokens(path: string): void {
	const ids = Int32Array.from({ length: WINDOWS * LENGTH }, (_, i) => 20 + (i * i + 3 * i) % 200);
	ids[50] = RARE;
	const data = new Uint8Array(ids.buffer);
	writeSafetensors(path, [{ name: "input_ids", dtype: "I32", shape: [WINDOWS, LENGTH], data }]);
}

Deno.test("experts with no token, one, and fewer than their columns share the Hessian of all", async () => {
	using place = withRareExperts();
	const dataset = place.path("tokens.safetensors");
	writeTokens(dataset);
	for (const order of ["module", "layer"]) {
		const rows = new Map<string, number>();
		const traces = new Map<string, number>();
		const spy = defineStage({
			name: "spy",
			scope: "group",
			summary: "Watches the inputs of groups",
			options: z.strictObject({}),
			needs: ["hessian"],
			gives: [],
			async observe({ linears: [{ module }] }, _options, input) {
				rows.set(module, (rows.get(module) ?? 0) + input.shape[0]);
			},
			async run({ gpu, linears: [{ module, cols }], get }) {
				const hessian = await gpu.read(get("hessian"));
				let trace = 0;
				for (let i = 0; i < cols; i++) trace += hessian[i * (cols + 1)];
				traces.set(module, trace);
			},
		});
		const stages = place.method.toSpliced(
			1,
			2,
			{
				calibrate: { dataset, samples: WINDOWS, "sequence-length": LENGTH, order },
			},
			"hessian",
			"spy",
		);
		const file = place.pipeline({ output: place.path(order), stages });
		const config = await loadPipeline(file, { stages: [...STAGES, spy], recipes: RECIPES });
		const record = await runPipeline(config, {});
		const linears = new Map(record.layers![0].linears.map((linear) => [linear.name, linear]));
		const of = (expert: number, role: string): LinearRecord =>
			linears.get(`model.layers.0.mlp.experts.${expert}.${role}`)!;
		const tokens = [0, 1, 2, 3, 4].map((expert) => of(expert, "gate_proj").tokens!);
		assert.deepEqual(tokens.slice(3), [1, 0]);
		assert.equal(tokens.reduce((a, b) => a + b), 2 * WINDOWS * LENGTH);
		for (const [expert, count] of tokens.entries()) {
			for (const [role, cols] of [["gate_proj", 64], ["up_proj", 64], ["down_proj", 32]] as const) {
				const { tokens, pooled, relativeOutputError } = of(expert, role);
				assert.equal(tokens, count);
				assert.equal(pooled, count < cols ? true : undefined, `${role} of ${expert}`);
				assert.ok(relativeOutputError! > 0 && relativeOutputError! < 0.5, `${role} of ${expert}`);
			}
		}
		const isPooled = (expert: number) => of(expert, "gate_proj").pooled === true;
		assert.ok(!isPooled(0) || !isPooled(1) || !isPooled(2), `${tokens}`);
		const moduleOf = (expert: number) => `mlp.experts.${expert}.gate_proj`;
		for (const [expert, count] of tokens.entries()) {
			if (!isPooled(expert)) assert.ok(rows.get(moduleOf(expert))! >= count);
		}
		assert.equal(traces.get(moduleOf(3)), traces.get(moduleOf(4)));
		// Inputs are normalized: traces are as the numbers of tokens.
		const own = tokens.findIndex((_, expert) => !isPooled(expert));
		const ratio = traces.get(moduleOf(3))! / traces.get(moduleOf(own))!;
		const expected = WINDOWS * LENGTH / tokens[own];
		assert.ok(Math.abs(ratio / expected - 1) < 0.05, `${ratio}, expected about ${expected}`);
		const report = readFileSync(place.path(order, "report.html"), "utf8");
		assert.match(report, /got too few for a Hessian of\s+each of its linear layers/);
		assert.match(report, />1 \*</);
	}
});

Deno.test("allocate gives few bits to an expert that gets no token", async () => {
	using place = withRareExperts();
	const dataset = place.path("tokens.safetensors");
	writeTokens(dataset);
	const { record } = await place.run({
		stages: [
			"download",
			{ calibrate: { dataset, samples: WINDOWS, "sequence-length": LENGTH } },
			{ allocate: { "target-bits": 6, candidates: [2, 4], mode: "cheap", windows: 2 } },
			"hessian",
			"gptq",
			"pack",
		],
	});
	const { losses } = JSON.parse(readFileSync(place.path("out/sensitivities.json"), "utf8"));
	const experts = [0, 1, 2, 4].map((expert) => `model.layers.0.mlp.experts.${expert}.down_proj`);
	const bits = experts.map((name) => record.allocation![name].bits);
	assert.deepEqual(losses[experts[3]], { 2: 0, 4: 0 });
	assert.equal(bits[3], 2);
	assert.ok(experts.slice(0, 3).some((name) => losses[name][2] > 1e-4));
	assert.ok(bits.includes(4), `${bits}`);
});

Deno.test("a run with experts that is interrupted, in little memory, ends in the same bytes", async () => {
	using place = new Workplace({ ...SMALL, ...SMALLER, layers: 2 });
	const fields = {
		recipe: "default",
		stages: {
			"calibrate": { ...calibrateOf(place), "batch-tokens": 24, "activations": "f16" },
			"split-search": { candidates: 5 },
		},
	};
	await place.run(fields);
	using model = ModelFiles.open(denoFolder(place.model));
	const working = workingBytes(model, { batchTokens: 24, order: "module", original: true });
	// No activations have room on the GPU: those before an operation are computed again.
	const gpu = { memory: `${(working + 100) / 1e6}MB` };
	const resumed = await place.resumed({ ...fields, gpu });
	assert.deepEqual(resumed, contents(place.path("out/model")));
});

Deno.test("packed experts, some of them dense, generate what the dequantized model does", async () => {
	using place = new Workplace({ ...SMALL, ...SMALLER });
	const skip = ["*.experts.1.*", "*.experts.2.down_proj"];
	const { record } = await place.run({
		recipe: "gptq",
		stages: { calibrate: calibrateOf(place), gptq: { skip } },
	});
	const dense = record.layers![0].linears.filter(({ dense }) => dense).map(({ name }) => name);
	assert.equal(dense.length, 4);
	const out = place.path("plain");
	const { code, stderr } = await startTask("dequantize", [record.packed!.folder, out]);
	assert.equal(code, 0, stderr);
	await using gpu = await openGpu();
	using files = ModelFiles.open(denoFolder(record.packed!.folder));
	using packed = await ResidentModel.load(gpu, files);
	const prompt = [5, 9, 77, 1200];
	const ids: number[] = [];
	for await (const { id } of continueTokens(packed, prompt, { maxTokens: 12 })) ids.push(id);
	using plain = await LoadedModel.open(gpu, record.packed!.folder);
	const logits = await plain.logits([Int32Array.from([...prompt, ...ids.slice(0, -1)])]);
	const vocabulary = 4096;
	const greedy = ids.map((_, i) => {
		const row = logits.subarray((prompt.length - 1 + i) * vocabulary).subarray(0, vocabulary);
		return row.indexOf(row.reduce((a, b) => Math.max(a, b)));
	});
	assert.deepEqual(ids, greedy);
	using dequantized = await LoadedModel.open(gpu, out);
	const text = [Int32Array.from(prompt)];
	const [a, b] = [await dequantized.logits(text), await plain.logits(text)];
	const worst = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
	assert.ok(worst < 0.02 * Math.hypot(...b) / Math.sqrt(b.length), `${worst}`);
});

function calibrateOf({ calibration: dataset }: Workplace): Record<string, unknown> {
	return { dataset, samples: 3, "sequence-length": 24 };
}
