// Each family from its config.json to generated text: windows and the KV cache against f64, then a model
// that is quantized, packed and dequantized. Weights are random, so that no family needs a fixture.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { continueTokens, ResidentModel } from "~/models/generation/generation.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { LayerPlan } from "~/models/layer_plan.ts";
import { logLikelihoods } from "~/models/metrics/log_likelihoods.ts";
import { ModelFiles } from "~/models/model_files.ts";
import { outsidePlaces } from "~/models/places.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import { syntheticShards } from "~/models/synthetic.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { toFloat32 } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { assertClose } from "../../assert_close.ts";
import { openAsHardware, openGpu } from "../../gpu/open_gpu.ts";
import { type MicroTensor, Workplace } from "../../micro_model.ts";
import { openCheckpoint, openModel } from "../../open.ts";
import { crossEntropyReference } from "../../reference/decoder.ts";
import { architectureReference } from "../../reference/ops.ts";
import { runInProcess } from "../../run_in_process.ts";
import { LoadedModel } from "../loaded_model.ts";
import { randomWindows } from "../random_model.ts";

const VOCABULARY = 4096; // that of the micro model's tokenizer
const LENGTH = 20;

const SIZES = {
	vocab_size: VOCABULARY,
	hidden_size: 64,
	intermediate_size: 96,
	num_hidden_layers: 2,
	num_attention_heads: 4,
	num_key_value_heads: 2,
	head_dim: 16,
	max_position_embeddings: 64,
	tie_word_embeddings: undefined,
};

const GEMMA = {
	...SIZES,
	sliding_window: 6,
	sliding_window_pattern: 2,
	query_pre_attn_scalar: 9,
	rope_scaling: { rope_type: "linear", factor: 4 },
};

const LONG_ROPE = {
	type: "longrope",
	short_factor: [1, 1.1, 1.2, 1.3, 1.4, 1.5],
	long_factor: [1.5, 2, 2.5, 3, 4, 5],
};

const GRANITE = {
	embedding_multiplier: 3,
	attention_multiplier: 0.4,
	residual_multiplier: 0.3,
	logits_scaling: 2,
};

/** The config.json of each model by its name, which begins with the model type. */
const FAMILIES: Record<string, Record<string, unknown>> = {
	"granite": { ...GRANITE, attention_bias: true },
	"smollm3": { no_rope_layers: [1, 0] },
	"olmo2": {},
	"olmo3": {
		sliding_window: 5,
		layer_types: ["sliding_attention", "full_attention"],
		rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16 },
	},
	"stablelm": { use_qkv_bias: true, partial_rotary_factor: 0.5 },
	"stablelm, parallel": {
		use_parallel_residual: true,
		qk_layernorm: true,
		partial_rotary_factor: 0.5,
	},
	"starcoder2": { sliding_window: 7 },
	"phi3 beyond its original length": {
		partial_rotary_factor: 0.75,
		original_max_position_embeddings: 12,
		rope_scaling: LONG_ROPE,
	},
	"llama with dynamic NTK": {
		max_position_embeddings: 15,
		rope_scaling: { type: "dynamic", factor: 2 },
	},
	"ministral": { sliding_window: 5, layer_types: ["full_attention", "sliding_attention"] },
	"gemma2": { ...GEMMA, attn_logit_softcapping: 3 },
	"gemma3 in a multimodal model": { text_config: GEMMA },
	"gemma3 in a multimodal model, as newer files have it": {
		text_config: {
			...GEMMA,
			rope_scaling: undefined,
			rope_parameters: {
				full_attention: { rope_type: "linear", factor: 4, rope_theta: 50000 },
				sliding_attention: { rope_type: "default", rope_theta: 10000 },
			},
			layer_types: ["full_attention", "sliding_attention"],
		},
	},
	"gpt_neox": { num_key_value_heads: undefined },
	"gpt_neox, sequential": { use_parallel_residual: false, rotary_pct: 0.5 },
	"granitemoe": { ...GRANITE, intermediate_size: 48, num_local_experts: 4 },
	"gpt_oss": {
		intermediate_size: 40,
		num_local_experts: 4,
		num_experts_per_tok: 2,
		sliding_window: 5,
		swiglu_limit: 1.5,
		rope_scaling: {
			rope_type: "yarn",
			factor: 8,
			original_max_position_embeddings: 8,
			truncate: false,
		},
	},
	"cohere": { use_qk_norm: true, logit_scale: 0.5 },
	"cohere2": { sliding_window: 6, sliding_window_pattern: 2, logit_scale: 0.5 },
};

/** What the names in a checkpoint begin with, where not "model.". */
const PREFIXES: Record<string, string> = {
	"gemma3 in a multimodal model": "language_model.model.",
	"gemma3 in a multimodal model, as newer files have it": "model.language_model.",
};

/** The families that the task dequantizes, too. */
const DEQUANTIZED = [
	...["phi3 beyond its original length", "gemma3 in a multimodal model", "gpt_neox"],
	...["granitemoe", "gpt_oss"],
];

/** The families whose packed products are also tested as on a GPU, where a layer is fused for a token. */
const FUSED = ["olmo2", "gemma2", "gpt_neox", "cohere2"];

/** The mask that older files of GPT-NeoX hold. */
const MASK = "gpt_neox.layers.1.attention.bias";
/** A tensor of a multimodal model that its text model does not have. */
const VISION = "vision_tower.encoder.fc.weight";

function workplaceOf(name: string): Workplace {
	const model_type = /^\w+/.exec(name)![0];
	const prefix = PREFIXES[name];
	const config = { ...SIZES, model_type, ...FAMILIES[name] };
	const alter = (tensors: Map<string, MicroTensor>) => {
		tensors.clear();
		for (const { tensors: shard } of syntheticShards(config, 5)) {
			for (const { name, shape, data } of shard) {
				const values = [...data as Iterable<Uint8Array>]
					.flatMap((chunk) => [...toFloat32(chunk as Uint8Array<ArrayBuffer>, "F16")]);
				// Biases near 1 would dwarf what they are added to.
				const scaled = name.endsWith(".bias") ? values.map((value) => value - 1) : values;
				const own = prefix ? name.replace(/^model\./, prefix) : name;
				tensors.set(own, { shape: [...shape], values: Float32Array.from(scaled) });
			}
		}
		if (model_type === "gpt_neox") {
			const shape = [1, 1, 64, 64];
			tensors.set(MASK, { shape, values: new Float32Array(64 * 64).fill(1) });
		}
		if (prefix) tensors.set(VISION, { shape: [4, 6], values: new Float32Array(24).fill(0.5) });
	};
	return new Workplace({ config, alter });
}

function logitsReference({ architecture, checkpoint }: ModelFiles, text: Int32Array): number[] {
	const tensors = new Map(
		[...checkpoint.tensors].map(([name, { shape }]) => [
			name,
			{ shape: [...shape], data: checkpoint.readFloat32(name) },
		]),
	);
	const { logits } = architectureReference(architecture, tensors, [...text]);
	return logits.flatMap((row) => [...row]);
}

function greatest(logits: ArrayLike<number>): number {
	let best = 0;
	for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
	return best;
}

/** Greedy ids that windows of all lengths give, without a cache. */
async function greedyByWindows(model: LoadedModel, prompt: readonly number[], count: number) {
	const ids = [...prompt];
	while (ids.length < prompt.length + count) {
		const logits = await model.logits([Int32Array.from(ids)]);
		ids.push(greatest(logits.subarray(-VOCABULARY)));
	}
	return ids.slice(prompt.length);
}

async function generated(model: ResidentModel, prompt: readonly number[], maxTokens: number) {
	const ids: number[] = [];
	for await (const { id } of continueTokens(model, prompt, { maxTokens })) ids.push(id);
	return ids;
}

const gpu = await openGpu();

for (const [index, name] of Object.keys(FAMILIES).entries()) {
	Deno.test(`${name}: windows and the KV cache agree with the reference`, async () => {
		using place = workplaceOf(name);
		using loaded = await LoadedModel.open(gpu, place.model);
		const [text] = randomWindows(1, LENGTH, VOCABULARY, 1);
		const expected = logitsReference(loaded.model, text);
		const scale = Math.max(1, ...expected.map(Math.abs));
		const tolerance = { abs: 5e-5 * scale, rel: 1e-5 };
		assertClose(await loaded.logits([text]), expected, { ...tolerance, what: "a window" });
		// Prompts of several lengths in one batch, beside each other and behind a shared prefix.
		const prompts = [9, 11, 14, LENGTH].map((length) => (
			{ tokens: Int32Array.of(...text.subarray(0, length), length), scored: 2 }
		));
		const [found] = await logLikelihoods(gpu, loaded.model, [prompts]);
		const likelihoods = prompts.map(({ tokens, scored }) => {
			const read = tokens.subarray(0, -1);
			const isWhole =
				loaded.decoder.positionsOf(read.length) === loaded.decoder.positionsOf(LENGTH);
			const all = isWhole ? expected : logitsReference(loaded.model, read);
			let sum = 0;
			for (let i = tokens.length - scored; i < tokens.length; i++) {
				const row = all.slice((i - 1) * VOCABULARY, i * VOCABULARY);
				sum -= crossEntropyReference(row, tokens[i]);
			}
			return sum;
		});
		assertClose(found, likelihoods, { abs: 4 * tolerance.abs, rel: 1e-5, what: "likelihoods" });
		using model = await ResidentModel.load(gpu, loaded.model);
		for (const prompt of [1, 9]) {
			using cache = new KeyValueCache(gpu, model.files.architecture, text.length, "f32");
			for (let done = 0; done < text.length;) {
				let next = done === 0 ? prompt : done === prompt ? 2 : 1;
				if (model.mustRestart(cache, next)) {
					cache.length = 0;
					next += done;
					done = 0;
				}
				using logits = (await model.logits(text.subarray(done, done + next), cache))!;
				done += next;
				const isWhole = loaded.decoder.positionsOf(done) === loaded.decoder.positionsOf(LENGTH);
				const all = isWhole ? expected : logitsReference(loaded.model, text.subarray(0, done));
				const row = all.slice((done - 1) * VOCABULARY, done * VOCABULARY);
				assertClose(await gpu.read(logits), row, { ...tolerance, what: `token ${done - 1}` });
			}
		}
	});

	Deno.test(`${name} is quantized, packed, generates and is dequantized`, async () => {
		using place = workplaceOf(name);
		await place.run({
			recipe: "default",
			gpu: { adapter: "software" },
			stages: {
				calibrate: {
					dataset: place.calibration,
					samples: 2,
					"sequence-length": 14,
					order: index % 2 ? "layer" : "module",
				},
				"split-search": { candidates: 5 },
				"refit-norm": {},
			},
		});
		const folder = place.path("out/model");
		const plainFolder = place.path("plain");
		{
			using original = openCheckpoint(place.model);
			using packed = openCheckpoint(folder);
			using plain = PlainWeights.open(denoFolder(folder));
			using files = openModel(folder);
			const { architecture } = files;
			for (let i = 0; i < architecture.layers; i++) {
				for (const module of new LayerPlan(architecture, i).modules) {
					const linear = architecture.names.layer(i) + module;
					assert.ok(packed.has(`${linear}.signs`), `${linear} is packed`);
				}
			}
			const shapes = (tensors: ReadonlyMap<string, { shape: readonly number[] }>) =>
				Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]));
			const { [MASK]: _mask, ...expected } = shapes(original.tensors);
			assert.deepEqual(shapes(plain.tensors), expected);
			for (const { name, offset = 0 } of outsidePlaces(architecture).finalNorm) {
				const [before, after] = [original, packed].map((files) => files.readFloat32(name));
				const error = Math.hypot(...after.map((value, i) => value - before[i]));
				const norm = Math.hypot(...before.map((value) => value + offset));
				assert.ok(error < 0.4 * norm, `refit-norm changes ${name} by ${error} of ${norm}`);
			}
			mkdirSync(plainFolder);
			const tensors = [...plain.tensors].map(([name, { shape }]) => ({
				name,
				dtype: "F32" as const,
				shape,
				data: [...plain.chunks(name, 1 << 20)].map((chunk) => new Uint8Array(chunk.slice().buffer)),
			}));
			writeSafetensors(join(plainFolder, "model.safetensors"), tensors);
			const { quantization_config: _, ...config } = files.config;
			Deno.writeTextFileSync(join(plainFolder, "config.json"), JSON.stringify(config));
		}
		using plain = await LoadedModel.open(gpu, plainFolder);
		const prompt = [5, 9, 77, 1200];
		const count = 12;
		const expected = await greedyByWindows(plain, prompt, count);
		using files = openModel(folder);
		using model = await ResidentModel.load(gpu, files);
		assert.deepEqual(await generated(model, prompt, count), expected);
		if (!DEQUANTIZED.includes(name)) return;
		const out = place.path("dequantized");
		const { code, stderr } = await runInProcess("dequantize", [folder, out]);
		assert.equal(code, 0, stderr);
		assert.match(stderr, name in PREFIXES ? /nothing reads its "vision_tower/ : /^$/);
		using dequantized = await LoadedModel.open(gpu, out);
		const text = Int32Array.from(prompt);
		const logits = await plain.logits([text]);
		// Weights in f16 are off by up to 2^-11.
		const abs = 0.01 * Math.max(...logits.map(Math.abs));
		assertClose(await dequantized.logits([text]), logits, { abs });
	});
}

for (const name of FUSED) {
	Deno.test(`${name}: fused products of a packed layer, as on a GPU`, async () => {
		using place = workplaceOf(name);
		await place.run({
			recipe: "gptq",
			gpu: { adapter: "software" },
			stages: { calibrate: { dataset: place.calibration, samples: 2, "sequence-length": 14 } },
		});
		const folder = place.path("out/model");
		using plain = await LoadedModel.open(gpu, folder);
		const prompt = [5, 9, 77, 1200];
		using model = await ResidentModel.load(await openAsHardware(), plain.model);
		assert.deepEqual(await generated(model, prompt, 12), await greedyByWindows(plain, prompt, 12));
	});
}
