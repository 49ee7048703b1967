import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
	copyFileSync,
	mkdirSync,
	mkdtempSync,
	readdirSync,
	readFileSync,
	rmSync,
	statSync,
	writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readText } from "../data/texts.ts";
import { loadPipeline } from "../pipeline/config/config.ts";
import type { RunEvent } from "../pipeline/run/events.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import type { RunOptions } from "../pipeline/run/run.ts";
import { runPipeline } from "../report/run_with_report.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import type { TensorToWrite } from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";
import { normals } from "./reference/random.ts";
import { startTask } from "./start_task.ts";

const PROJECT = join(import.meta.dirname!, "..");

/** What a finished run with calibration data leaves in its folder. */
export const LEFT = [
	"calibration.safetensors",
	"histograms.json",
	"model",
	"pipeline.yaml",
	"report.html",
	"run.json",
];

/** A tensor of a micro model before it is written. */
export interface MicroTensor {
	shape: number[];
	values: Float32Array;
}

export interface MicroModelOptions {
	family?: "llama" | "opt" | "qwen3-moe";
	/** Columns of most linear layers. */
	hidden?: number;
	/** Columns of the last one: neither this nor `hidden` need be a whole number of blocks. */
	intermediate?: number;
	/** Experts of a layer and per token, of a family with experts; `intermediate` is that of an expert. */
	experts?: { count: number; perToken: number };
	layers?: number;
	heads?: number;
	keyValueHeads?: number;
	vocabulary?: number;
	maxLength?: number;
	seed?: number;
	dtype?: "F16" | "F32" | "BF16";
	/** Keys of config.json to change; undefined leaves one out. */
	config?: Record<string, unknown>;
	/** Changes the tensors before they are written. */
	alter?: (tensors: Map<string, MicroTensor>) => void;
}

/**
 * Writes a model with random weights and the tokenizer of the example models: real in its form,
 * quantized in a second.
 *
 * @returns Its folder.
 */
export function writeMicroModel(folder: string, options: MicroModelOptions = {}): string {
	const { family = "llama", dtype = "F16", config = {}, alter, ...rest } = options;
	const size = {
		hidden: 64,
		intermediate: 100,
		layers: 4,
		heads: 4,
		keyValueHeads: 2,
		experts: { count: 6, perToken: 2 },
		vocabulary: 4096,
		maxLength: 128,
		seed: 1,
		...rest,
	};
	const families = { "llama": llama, "opt": opt, "qwen3-moe": qwen3Moe };
	const { tensors, config: own } = families[family](size);
	alter?.(tensors);
	mkdirSync(folder, { recursive: true });
	writeFileSync(
		join(folder, "config.json"),
		JSON.stringify({ ...own, vocab_size: size.vocabulary, ...config }, null, 2),
	);
	const toWrite = [...tensors].map(([name, { shape, values }]): TensorToWrite => ({
		name,
		dtype,
		shape,
		data: stored(values, dtype),
	}));
	writeSafetensors(join(folder, "model.safetensors"), toWrite, { format: "pt" });
	for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]) {
		const tiny = family === "opt" ? "opt" : "llama";
		copyFileSync(join(PROJECT, `examples/models/tiny-${tiny}`, name), join(folder, name));
	}
	return folder;
}

type Size =
	& Required<
		Pick<
			MicroModelOptions,
			| "hidden"
			| "intermediate"
			| "experts"
			| "layers"
			| "heads"
			| "keyValueHeads"
			| "vocabulary"
			| "maxLength"
		>
	>
	& { seed: number };

/** Adds tensors one by one, each with random numbers of its own. */
function maker(seed: number) {
	const tensors = new Map<string, MicroTensor>();
	const add = (name: string, shape: number[], mean = 0, deviation = 0.1) => {
		const count = shape.reduce((product, length) => product * length, 1);
		const noise = normals(count, 1000 * seed + tensors.size, deviation);
		tensors.set(name, { shape, values: noise.map((value) => mean + value) });
	};
	return { tensors, add };
}

function llama(size: Size) {
	const { hidden, intermediate, layers, heads, keyValueHeads } = size;
	const { tensors, add } = maker(size.seed);
	const keyValueRows = hidden / heads * keyValueHeads;
	add("model.embed_tokens.weight", [size.vocabulary, hidden]);
	for (let i = 0; i < layers; i++) {
		const prefix = `model.layers.${i}`;
		add(`${prefix}.input_layernorm.weight`, [hidden], 1);
		add(`${prefix}.self_attn.q_proj.weight`, [hidden, hidden]);
		add(`${prefix}.self_attn.k_proj.weight`, [keyValueRows, hidden]);
		add(`${prefix}.self_attn.v_proj.weight`, [keyValueRows, hidden]);
		add(`${prefix}.self_attn.o_proj.weight`, [hidden, hidden]);
		add(`${prefix}.post_attention_layernorm.weight`, [hidden], 1);
		add(`${prefix}.mlp.gate_proj.weight`, [intermediate, hidden]);
		add(`${prefix}.mlp.up_proj.weight`, [intermediate, hidden]);
		add(`${prefix}.mlp.down_proj.weight`, [hidden, intermediate]);
	}
	add("model.norm.weight", [hidden], 1);
	const config: Record<string, unknown> = {
		architectures: ["LlamaForCausalLM"],
		model_type: "llama",
		hidden_size: hidden,
		intermediate_size: intermediate,
		num_hidden_layers: layers,
		num_attention_heads: heads,
		num_key_value_heads: keyValueHeads,
		max_position_embeddings: size.maxLength,
		rms_norm_eps: 1e-5,
		rope_parameters: { rope_theta: 10000, rope_type: "default" },
		tie_word_embeddings: true,
	};
	return { tensors, config };
}

/** LLaMA with norms of q and k, and experts in place of feed-forward layers. */
function qwen3Moe(size: Size) {
	const { hidden, intermediate, experts: { count, perToken } } = size;
	const { tensors: dense, config: shared } = llama(size);
	const { tensors, add } = maker(size.seed + 1);
	for (const [name, tensor] of dense) {
		if (name.includes(".mlp.up_proj") || name.includes(".mlp.down_proj")) continue;
		if (!name.includes(".mlp.gate_proj")) {
			tensors.set(name, tensor);
			continue;
		}
		const prefix = name.slice(0, name.indexOf(".mlp."));
		const headDim = hidden / size.heads;
		for (const norm of ["q_norm", "k_norm"]) {
			add(`${prefix}.self_attn.${norm}.weight`, [headDim], 1);
		}
		add(`${prefix}.mlp.gate.weight`, [count, hidden], 0, 0.3);
		for (let expert = 0; expert < count; expert++) {
			const own = `${prefix}.mlp.experts.${expert}`;
			add(`${own}.gate_proj.weight`, [intermediate, hidden]);
			add(`${own}.up_proj.weight`, [intermediate, hidden]);
			add(`${own}.down_proj.weight`, [hidden, intermediate]);
		}
	}
	const config: Record<string, unknown> = {
		...shared,
		architectures: ["Qwen3MoeForCausalLM"],
		model_type: "qwen3_moe",
		head_dim: hidden / size.heads,
		moe_intermediate_size: intermediate,
		num_experts: count,
		num_experts_per_tok: perToken,
		norm_topk_prob: true,
	};
	return { tensors, config };
}

function opt(size: Size) {
	const { hidden, intermediate, layers } = size;
	const { tensors, add } = maker(size.seed);
	const affine = (name: string, shape: number[], mean = 0) => {
		add(`${name}.weight`, shape, mean);
		add(`${name}.bias`, [shape[0]], 0, 0.02);
	};
	add("model.decoder.embed_tokens.weight", [size.vocabulary, hidden]);
	add("model.decoder.embed_positions.weight", [size.maxLength + 2, hidden]);
	for (let i = 0; i < layers; i++) {
		const prefix = `model.decoder.layers.${i}`;
		affine(`${prefix}.self_attn_layer_norm`, [hidden], 1);
		for (const part of ["q", "k", "v", "out"]) {
			affine(`${prefix}.self_attn.${part}_proj`, [hidden, hidden]);
		}
		affine(`${prefix}.final_layer_norm`, [hidden], 1);
		affine(`${prefix}.fc1`, [intermediate, hidden]);
		affine(`${prefix}.fc2`, [hidden, intermediate]);
	}
	affine("model.decoder.final_layer_norm", [hidden], 1);
	const config: Record<string, unknown> = {
		architectures: ["OPTForCausalLM"],
		model_type: "opt",
		hidden_size: hidden,
		word_embed_proj_dim: hidden,
		ffn_dim: intermediate,
		num_hidden_layers: layers,
		num_attention_heads: size.heads,
		max_position_embeddings: size.maxLength,
		activation_function: "relu",
		do_layer_norm_before: true,
		tie_word_embeddings: true,
	};
	return { tensors, config };
}

function stored(values: Float32Array, dtype: "F16" | "F32" | "BF16"): Uint8Array {
	if (dtype === "F32") return new Uint8Array(values.slice().buffer);
	if (dtype === "F16") return new Uint8Array(Float16Array.from(values).buffer);
	const bits = new Uint32Array(values.slice().buffer);
	return new Uint8Array(Uint16Array.from(bits, (word) => word >>> 16).buffer);
}

/** A stage as a pipeline file has it: its name, or its name (or `use`) with options. */
export type StageItem = string | Record<string, unknown>;

/** The keys of a pipeline file; beside a recipe, stages are options by stage. */
export type PipelineFields = Record<string, unknown> & {
	stages?: StageItem[] | Record<string, unknown>;
};

/** A temporary folder with a micro model, texts and pipeline files; deleted by `using`. */
export class Workplace implements Disposable {
	readonly folder = mkdtempSync(join(tmpdir(), "billm-test-"));
	readonly model: string;
	readonly calibration = join(this.folder, "calibration.txt");
	readonly evaluation = join(this.folder, "evaluation.txt");
	#pipelines = 0;

	constructor(options: MicroModelOptions = {}) {
		this.model = writeMicroModel(this.path("model"), options);
		const text = (name: string, from: number, characters: number) =>
			readText(join(PROJECT, `examples/text/${name}.gz`)).slice(from, from + characters);
		writeFileSync(this.calibration, text("calibration.txt", 2000, 4000));
		writeFileSync(this.evaluation, text("evaluation.txt", 2000, 1500));
	}

	/** Checks that the packed model of a run is on the GPU the plain model that it stands for. */
	async assertStandsForPlain({ packed, evaluation }: RunRecord): Promise<void> {
		const out = this.path("plain");
		const { code, stderr } = await startTask("dequantize", [packed!.folder, out]);
		assert.equal(code, 0, stderr);
		const plain = await this.run({
			model: out,
			output: this.path("again"),
			stages: ["download", this.evaluate],
		});
		const [{ loss }] = plain.record.evaluation!.original;
		assert.ok(Math.abs(loss - evaluation!.packed![0].loss) < 2e-3, "but for f16");
	}

	path(...names: string[]): string {
		return join(this.folder, ...names);
	}

	get calibrate(): StageItem {
		return this.calibrateWith({});
	}

	calibrateWith(options: Record<string, unknown>): StageItem {
		const { calibration: dataset } = this;
		return { calibrate: { dataset, samples: 4, "sequence-length": 32, ...options } };
	}

	get evaluate(): StageItem {
		return this.evaluateWith({});
	}

	/** Nothing is taken from, or kept for, other runs. */
	evaluateWith(options: Record<string, unknown>): StageItem {
		const { evaluation: dataset } = this;
		const perplexity = [{ dataset, "sequence-length": 32, windows: 4, ...options }];
		return { evaluate: { perplexity, cache: false, sample: false } };
	}

	/** The stages of the whole method. */
	get method(): StageItem[] {
		return [
			"download",
			this.calibrate,
			"hessian",
			"salient-select",
			"residual-binarize",
			{ "split-search": { candidates: 9 } },
			{ compensate: { "block-size": 32 } },
			"pack",
			this.evaluate,
		];
	}

	/**
	 * Writes a pipeline file.
	 *
	 * @param fields Replace those of the whole method into the folder "out".
	 * @returns Its path.
	 */
	pipeline(fields: PipelineFields = {}): string {
		const file = this.path(`pipeline${this.#pipelines++}.yaml`);
		const { stages = this.method, ...others } = fields;
		const head = { name: "micro", model: this.model, output: this.path("out"), ...others };
		const lines = Object.entries(head).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
		const items = Array.isArray(stages)
			? stages.map((stage) => `  - ${JSON.stringify(stage)}`)
			: Object.entries(stages).map(([name, options]) => `  ${name}: ${JSON.stringify(options)}`);
		writeFileSync(file, [...lines, "stages:", ...items, ""].join("\n"));
		return file;
	}

	/** Runs a pipeline of these fields, see {@link pipeline}. */
	async run(
		fields: PipelineFields = {},
		options: RunOptions = {},
	): Promise<{ record: RunRecord; events: RunEvent[] }> {
		return await runFile(this.pipeline(fields), options);
	}

	/**
	 * Runs a pipeline of these fields in a folder of its own, interrupted after its first layer and resumed.
	 *
	 * @returns The contents of the packed model, see {@link contents}.
	 */
	async resumed(fields: PipelineFields): Promise<Record<string, string>> {
		const output = this.path("resumed");
		const file = this.pipeline({ ...fields, output });
		const controller = new AbortController();
		const emit = ({ type }: RunEvent) => {
			if (type === "layer") controller.abort();
		};
		await assert.rejects(runFile(file, { emit, signal: controller.signal }), {
			name: "AbortError",
		});
		await runFile(file);
		return contents(join(output, "model"));
	}

	[Symbol.dispose](): void {
		rmSync(this.folder, { recursive: true, force: true });
	}
}

/** Runs a pipeline file and keeps what it says. */
export async function runFile(
	file: string,
	options: RunOptions = {},
): Promise<{ record: RunRecord; events: RunEvent[] }> {
	const events: RunEvent[] = [];
	const config = await loadPipeline(file, { stages: STAGES, recipes: RECIPES });
	const record = await runPipeline(config, {
		...options,
		emit: (event) => {
			events.push(event);
			options.emit?.(event);
		},
	});
	return { record, events };
}

/** The hash of a file. */
export function sha256(path: string): string {
	return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/** The hash of each file below a folder, by its path from there; a folder has none. */
export function contents(folder: string): Record<string, string> {
	const names = readdirSync(folder, { recursive: true }).map(String).sort();
	return Object.fromEntries(
		names.map((name) => join(folder, name))
			.filter((path) => statSync(path).isFile())
			.map((path) => [path.slice(folder.length + 1), sha256(path)]),
	);
}
