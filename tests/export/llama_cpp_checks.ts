// GGUF files in llama.cpp: `deno task test:export`. It fetches llama.cpp (700 MB) from npm.

import assert from "node:assert/strict";
import { join } from "node:path";
import { readText } from "../../data/texts.ts";
import type { ExportOptions } from "../../export/export.ts";
import type { LevelRange } from "../../export/integer_levels.ts";
import { BLOCK_TYPES } from "../../export/gguf/types.ts";
import { gguf } from "../../export/gguf/gguf.ts";
import { exportModel } from "../../export/mod.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { syntheticShards } from "../../models/synthetic.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { toFloat32 } from "../../storage/safetensors.ts";
import { PROJECT } from "../checkout.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { type MicroTensor, type StageItem, Workplace } from "../micro_model.ts";
import { LoadedModel } from "../models/loaded_model.ts";
import { seededRandom } from "../reference/random.ts";
import { fetchLlamaCpp, ggmlDecoder, LlamaCpp } from "./llama_cpp.ts";

const TINY = join(PROJECT, "examples/models/tiny-llama");
const OPTIONS: ExportOptions = { lossy: false, pause: async () => {} };

/** Ranges of levels that some type holds. */
const RANGES: LevelRange[] = [
	{ low: -1, high: 1, gap: 2 },
	{ low: -1, high: 1, gap: 1 },
	...[0, 1, 2, 3].map((zero): LevelRange => ({ low: -zero, high: 3 - zero, gap: 1 })),
	{ low: -3, high: 3, gap: 2 },
	...[3, 4].map((zero): LevelRange => ({ low: -zero, high: 7 - zero, gap: 1 })),
	...[0, 7, 8, 15].map((zero): LevelRange => ({ low: -zero, high: 15 - zero, gap: 1 })),
	{ low: -128, high: 127, gap: 1 },
];

await fetchLlamaCpp(); // with ggml's library

for (const type of BLOCK_TYPES) {
	Deno.test(`ggml decodes ${type.name} to the same weights`, () => {
		const decode = ggmlDecoder(type.name);
		const random = seededRandom(type.id);
		const ranges = RANGES.filter((range) => type.holds(range));
		assert.ok(ranges.length > 0);
		for (const range of ranges) {
			const choices = (range.high - range.low) / range.gap + 1;
			const levels = Int16Array.from(
				{ length: type.size },
				() => range.low + range.gap * Math.floor(choices * random()),
			);
			const unit = Math.f16round(random() - 0.5);
			const bytes = new Uint8Array(type.bytes);
			type.encode(levels, unit, range, new DataView(bytes.buffer), 0);
			const expected = Array.from(levels, (level) => level * unit + 0);
			assert.deepEqual([...decode(bytes, type.size)].map((value) => value + 0), expected);
		}
	});
}

/** What comes next, in this program and in llama.cpp. */
interface Position {
	/** The tokens of greatest probability. */
	ours: number;
	theirs: number;
	/** Our log-probability of ours, less that of theirs. */
	gap: number;
	/** The greatest difference between the log-probabilities of a token. */
	difference: number;
	/** The cross-entropy of the token that follows. */
	losses: [ours: number, theirs: number];
}

/** What log-probabilities of two programs have in common, by position. */
function compare(
	ours: Float32Array,
	theirs: Float32Array,
	ids: readonly number[],
): Position[] {
	const vocabulary = ours.length / ids.length;
	return ids.map((_, at) => {
		const [a, b] = [ours, theirs].map((all) =>
			all.subarray(at * vocabulary, (at + 1) * vocabulary)
		);
		const sum = Math.log(a.reduce((sum, value) => sum + Math.exp(value), 0));
		let [difference, top, other] = [0, 0, 0];
		for (let id = 0; id < vocabulary; id++) {
			difference = Math.max(difference, Math.abs(a[id] - sum - b[id]));
			if (a[id] > a[top]) top = id;
			if (b[id] > b[other]) other = id;
		}
		const next = ids[at + 1] ?? top;
		const losses: Position["losses"] = [sum - a[next], -b[next]];
		return { ours: top, theirs: other, gap: a[top] - a[other], difference, losses };
	});
}

/**
 * Checks that llama.cpp's best token is ours, or that ours is ahead by at most the greatest difference of the
 * position. Twice as much could not be exceeded, whatever llama.cpp gave.
 */
function assertSameChoices(positions: readonly Position[]): void {
	for (const { ours, theirs, gap, difference } of positions) {
		const reason = `best are ${ours} and ${theirs}, ${gap} apart; programs differ by ${difference}`;
		assert.ok(ours === theirs || gap <= difference, reason);
	}
}

function worstOf(positions: readonly Position[]): number {
	return Math.max(...positions.map(({ difference }) => difference));
}

const gpu = await openGpu();

/** Exports a model, runs the same ids in both programs and compares what comes next. */
async function check(folder: string, out: string, ids: number[], options = OPTIONS) {
	const exported = await exportModel(gguf, folder, out, { ...options, overwrite: true });
	using loaded = await LoadedModel.open(gpu, folder);
	const { vocabularySize } = loaded.model.architecture;
	const ours = await loaded.logits([Int32Array.from(ids)]);
	await using llama = await LlamaCpp.open(out);
	const theirs = await llama.logProbabilities(ids, vocabularySize);
	return { exported, positions: compare(ours, theirs, ids) };
}

Deno.test("tiny-llama in F16: the same ids of texts, and the same 50 ids, greedily", async () => {
	using place = new Workplace();
	const out = place.path("tiny.gguf");
	await exportModel(gguf, TINY, out, OPTIONS);
	using loaded = await LoadedModel.open(gpu, TINY);
	const { tokenizer, architecture: { vocabularySize } } = loaded.model;
	await using llama = await LlamaCpp.open(out);
	const text = readText(join(PROJECT, "examples/text/evaluation.txt.gz")).slice(0, 20_000);
	for (const some of [text, " a  b\n\n\tc ", "Größe, 日本 🎉 don't 12345", ""]) {
		assert.deepEqual(llama.encode(some), tokenizer.encode(some, { specialTokens: false }));
	}
	const ids = tokenizer.encode("The old man looked at");
	for (let i = 0; i < 50; i++) {
		const ours = await loaded.logits([Int32Array.from(ids)]);
		ids.push(compare(ours, ours, ids).at(-1)!.ours);
	}
	const theirs = await llama.logProbabilities(ids, vocabularySize);
	const chosen = compare(theirs, theirs, ids).map(({ theirs }) => theirs);
	assert.deepEqual(chosen.slice(-51, -1), ids.slice(-50));
});

/** Micro models of random weights; each family in a form that llama.cpp has. */
const SIZES = {
	vocab_size: 4096,
	hidden_size: 64,
	intermediate_size: 96,
	num_hidden_layers: 6,
	num_attention_heads: 4,
	num_key_value_heads: 2,
	head_dim: 16,
	max_position_embeddings: 64,
};
const GEMMA = { query_pre_attn_scalar: 16, sliding_window: 6 };
const FAMILIES: Record<string, Record<string, unknown>> = {
	llama: {
		rope_scaling: { rope_type: "llama3", factor: 4, low_freq_factor: 1, high_freq_factor: 4 },
	},
	mistral: { sliding_window: 40 },
	qwen2: { rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16 } },
	qwen3: {},
	gemma2: GEMMA,
	gemma3_text: GEMMA,
	granite: { embedding_multiplier: 3, attention_multiplier: 0.4, residual_multiplier: 0.3 },
	phi3: { partial_rotary_factor: 0.5 },
	olmo2: {},
	olmo3: { sliding_window: 5 },
	smollm3: {},
	stablelm: { use_parallel_residual: true, qk_layernorm: true, use_qkv_bias: true },
	starcoder2: {},
	gpt_neox: { hidden_act: "gelu_new", rotary_pct: 0.5 },
	cohere: { logit_scale: 0.5 },
	cohere2: { logit_scale: 0.5, sliding_window: 6 },
};

for (const [modelType, fields] of Object.entries(FAMILIES)) {
	Deno.test(`${modelType}: the same probabilities`, async () => {
		const config = { ...SIZES, model_type: modelType, ...fields };
		const alter = (tensors: Map<string, MicroTensor>) => {
			tensors.clear();
			for (const { tensors: shard } of syntheticShards(config, 5)) {
				for (const { name, shape, data } of shard) {
					const chunks = [...data as Iterable<Uint8Array>].flatMap((
						bytes,
					) => [...toFloat32(bytes, "F16")]);
					const values = name.endsWith(".bias") ? chunks.map((value) => value - 1) : chunks;
					tensors.set(name, { shape: [...shape], values: Float32Array.from(values) });
				}
			}
		};
		using place = new Workplace({ config, alter });
		const ids = Array.from({ length: 20 }, (_, i) => (i * 137 + 5) % SIZES.vocab_size);
		const { positions } = await check(place.model, place.path("model.gguf"), ids);
		const worst = worstOf(positions);
		assert.ok(worst < 0.05, `log-probabilities differ by ${worst}`); // products have f16 inputs
	});
}

/** Chains whose codes each type holds, without calibration. */
const CHAINS: [stage: Record<string, unknown> | string, types: string[]][] = [
	["sign", ["Q1_0", "Q2_0", "TQ1_0", "TQ2_0"]],
	[{ rtn: { bits: 2, zeros: "middle", "group-size": 64 } }, ["Q2_0"]],
	[{ rtn: { bits: 2, zeros: "half", "group-size": "row" } }, ["Q2_K"]],
	[{ rtn: { bits: 3, zeros: "middle", "group-size": "row" } }, ["Q3_K", "Q4_0"]],
	[{ rtn: { bits: 4, zeros: "any", "group-size": 32 } }, ["Q5_0"]],
];

for (const [stage, types] of CHAINS) {
	Deno.test(`${JSON.stringify(stage)} as ${types.join(", ")}`, async () => {
		using place = new Workplace({ hidden: 256, intermediate: 256, layers: 2 });
		await place.run({ stages: ["download", stage, { pack: { embeddings: 8 } }] });
		const ids = Array.from({ length: 24 }, (_, i) => (i * 137 + 5) % 4096);
		for (const type of types) {
			const options = { ...OPTIONS, types: [type] };
			const { exported, positions } = await check(
				place.path("out/model"),
				place.path("model.gguf"),
				ids,
				options,
			);
			assert.equal(exported.types[type], 14);
			const worst = worstOf(positions);
			assert.ok(worst < 0.5, `log-probabilities differ by ${worst}`); // inputs have 8 bits
			assertSameChoices(positions);
		}
	});
}

/**
 * A model of one's own with 576 columns, SmolLM2-135M: EXPORT_MODEL=FOLDER. Below 3 bits, only its attention is
 * quantized: a model that predicts nothing any more amplifies the rounding of llama.cpp's activations.
 */
const own = Deno.env.get("EXPORT_MODEL");
const skip = ["*.mlp.*"];
const QUICK = { rounds: 0, sweeps: 0, moves: 0, skip };
const OWN_STAGES: [name: string, stage: StageItem, type: string, count: number][] = [
	["three levels", { levels: { count: 3, ...QUICK } }, "Q2_0", 120],
	["signs", { levels: { count: 2, ...QUICK } }, "Q2_0", 120],
	["2 bits", { gptq: { bits: 2, zeros: "middle", "group-size": 64, skip } }, "Q2_0", 120],
	["3 bits", { rtn: { bits: 3, zeros: "middle", "group-size": 64 } }, "Q4_0", 210],
	["4 bits", { rtn: { bits: 4, zeros: "symmetric", "group-size": 32 } }, "Q4_0", 210],
];

for (const [name, stage, type, count] of OWN_STAGES) {
	Deno.test({
		name: `a model of 576 columns, ${name} as ${type}`,
		ignore: own === undefined,
		async fn() {
			using place = new Workplace({ layers: 1 });
			const calibrate = place.calibrateWith({ samples: 8, "sequence-length": 64 });
			const stages = count === 120 ? [calibrate, "hessian", stage] : [stage];
			await place.run({ model: own, stages: ["download", ...stages, { pack: { embeddings: 8 } }] });
			const packed = place.path("out/model");
			const out = place.path("model.gguf");
			for (const asked of ["Q1_0", "TQ1_0", "TQ2_0", "Q2_K", "Q3_K"]) {
				await assert.rejects(
					exportModel(gguf, packed, out, { ...OPTIONS, types: [asked] }),
					new RegExp(`: ${asked} (takes rows of .* columns, not 576|holds .*, not )`),
				);
			}
			using files = ModelFiles.open(denoFolder(own!));
			const text = readText(join(PROJECT, "examples/text/evaluation.txt.gz"));
			const ids = files.tokenizer.encode(text.slice(0, 2000)).slice(0, 200);
			const { exported, positions } = await check(packed, out, ids);
			assert.equal(exported.types[type], count);
			const [ours, theirs] = [0, 1].map((side) => {
				const sum = positions.slice(0, -1).reduce((sum, { losses }) => sum + losses[side], 0);
				return Math.exp(sum / (ids.length - 1));
			});
			const others = positions.filter(({ ours, theirs }) => ours !== theirs);
			const share = Math.max(0, ...others.map(({ gap, difference }) => gap / difference));
			console.log({ name, ours, theirs, others: others.length, share, worst: worstOf(positions) });
			assertSameChoices(positions);
			assert.ok(Math.abs(theirs / ours - 1) < 0.01, `perplexities ${ours} and ${theirs}`);
		},
	});
}
