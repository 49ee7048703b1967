/**
 * LLaMA, its relatives (Mistral, Qwen) and OPT in f64, token by token: the parts of a decoder layer,
 * then whole models. Other families are in ops.ts. Written from the papers (LLaMA, arXiv:2302.13971;
 * Mistral, arXiv:2310.06825; Qwen3, arXiv:2505.09388; OPT, arXiv:2205.01068) and the definitions in
 * transformers.
 */

import { readArchitecture } from "~/models/architectures/mod.ts";
import { attentionReference } from "./attention.ts";
import { architectureReference } from "./ops.ts";

/** x / √(mean(x²) + epsilon) · weight. */
export function rmsNorm(
	x: ArrayLike<number>,
	weight: ArrayLike<number>,
	epsilon: number,
): Float64Array {
	const values = Array.from(x);
	const meanSquare = values.reduce((sum, v) => sum + v * v, 0) / values.length;
	return Float64Array.from(values, (v, i) => v / Math.sqrt(meanSquare + epsilon) * weight[i]);
}

/** (x - mean) / √(variance + epsilon) · weight + bias. */
export function layerNorm(
	x: ArrayLike<number>,
	weight: ArrayLike<number>,
	bias: ArrayLike<number>,
	epsilon: number,
): Float64Array {
	const values = Array.from(x);
	const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
	const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
	return Float64Array.from(
		values,
		(v, i) => (v - mean) / Math.sqrt(variance + epsilon) * weight[i] + bias[i],
	);
}

/**
 * Turns the pairs of one head: (i, i + pairs) or, interleaved, (2i, 2i + 1). `table` holds (cos, sin) for
 * each pair; entries behind the pairs stay.
 */
export function ropeHead(
	head: ArrayLike<number>,
	table: ArrayLike<number>,
	interleaved = false,
): Float64Array {
	const pairs = table.length / 2;
	const out = Float64Array.from(head);
	for (let i = 0; i < pairs; i++) {
		const [a, b] = interleaved ? [2 * i, 2 * i + 1] : [i, i + pairs];
		const [cos, sin] = [table[2 * i], table[2 * i + 1]];
		out[a] = head[a] * cos - head[b] * sin;
		out[b] = head[b] * cos + head[a] * sin;
	}
	return out;
}

export function relu(x: number): number {
	return Math.max(x, 0);
}

export function silu(x: number): number {
	return x / (1 + Math.exp(-x));
}

/** x · Φ(x) with the exact error function. */
export function gelu(x: number): number {
	return 0.5 * x * (1 + erf(x / Math.SQRT2));
}

/** The tanh approximation of {@link gelu}. */
export function geluTanh(x: number): number {
	return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** 2/√π times the integral of e^(-t²) from 0 to x, by Simpson's rule. */
export function erf(x: number): number {
	const end = Math.min(Math.abs(x), 7); // 1 - erf(7) is below 1e-22
	const steps = 2000;
	const width = end / steps;
	let sum = 1 + Math.exp(-end * end);
	for (let i = 1; i < steps; i++) sum += (i % 2 ? 4 : 2) * Math.exp(-((i * width) ** 2));
	return Math.sign(x) * 2 / Math.sqrt(Math.PI) * sum * width / 3;
}

/** -log of the probability that softmax(logits) gives to `target`, in nats. */
export function crossEntropyReference(logits: ArrayLike<number>, target: number): number {
	const values = Array.from(logits);
	const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
	const sum = values.reduce((total, v) => total + Math.exp(v - top), 0);
	return Math.log(sum) + top - values[target];
}

/** The weights of a model by their names in the checkpoint, row-major. */
export type ReferenceTensors = Map<string, { shape: number[]; data: ArrayLike<number> }>;

/** What a model computes from one window. */
export interface ForwardReference {
	/** The output of each decoder layer, `[layers][tokens][hidden]`. */
	hidden: Float64Array[][];
	/** `[tokens][vocabulary]`. */
	logits: Float64Array[];
}

/** Runs a whole model over one window; `config` is its config.json. */
export function forwardReference(
	// deno-lint-ignore no-explicit-any
	config: Record<string, any>,
	tensors: ReferenceTensors,
	ids: ArrayLike<number>,
): ForwardReference {
	const scaling = config.rope_parameters ?? config.rope_scaling ?? {};
	const rotary = scaling.rope_type ?? scaling.type;
	const isSimple = [undefined, "default", "linear", "llama3"].includes(rotary);
	switch (isSimple ? config.model_type : "") {
		case "llama":
		case "mistral":
		case "qwen2":
		case "qwen3":
			return llamaReference(config, tensors, Array.from(ids));
		case "opt":
			return optReference(config, tensors, Array.from(ids));
		default:
			return architectureReference(
				readArchitecture(config, "config.json"),
				tensors,
				Array.from(ids),
			);
	}
}

export const ACTIVATION: Record<string, (x: number) => number> = {
	relu,
	silu,
	swish: silu,
	gelu,
	gelu_new: geluTanh,
	gelu_fast: geluTanh,
	gelu_pytorch_tanh: geluTanh,
};

function llamaReference(
	// deno-lint-ignore no-explicit-any
	config: Record<string, any>,
	tensors: ReferenceTensors,
	ids: number[],
): ForwardReference {
	const heads: number = config.num_attention_heads;
	const keyValueHeads: number = config.num_key_value_heads ?? heads;
	const headDim: number = config.head_dim ?? config.hidden_size / heads;
	const frequencies = frequenciesReference(config, headDim);
	const epsilon: number = config.rms_norm_eps ?? 1e-6;
	const act = ACTIVATION[config.hidden_act ?? "silu"];
	const norm = (x: Float64Array[], name: string) =>
		x.map((row) => rmsNorm(row, tensors.get(`${name}.weight`)!.data, epsilon));

	/** Turns all heads of each token by the token's position. */
	const rotate = (x: Float64Array[]) =>
		x.map((row, position) => {
			const table: number[] = [];
			for (let i = 0; i < headDim / 2; i++) {
				const angle = position * frequencies[i];
				table.push(Math.cos(angle), Math.sin(angle));
			}
			const turned: number[] = [];
			for (let first = 0; first < row.length; first += headDim) {
				turned.push(...ropeHead(row.subarray(first, first + headDim), table));
			}
			return Float64Array.from(turned);
		});

	/** Normalizes each head by itself, if the model does. */
	const headNorm = (x: Float64Array[], name: string) => {
		const weight = tensors.get(`${name}.weight`)?.data;
		if (!weight) return x;
		return x.map((row) => {
			const normed: number[] = [];
			for (let first = 0; first < row.length; first += headDim) {
				normed.push(...rmsNorm(row.subarray(first, first + headDim), weight, epsilon));
			}
			return Float64Array.from(normed);
		});
	};

	let x = ids.map((id) => row(tensors, "model.embed_tokens.weight", id));
	const hidden: Float64Array[][] = [];
	for (let layer = 0; layer < config.num_hidden_layers; layer++) {
		const linear = (y: Float64Array[], name: string) =>
			linearReference(y, tensors, `model.layers.${layer}.${name}`);
		const y = norm(x, `model.layers.${layer}.input_layernorm`);
		const attention = `model.layers.${layer}.self_attn`;
		const turn = config.no_rope_layers?.[layer] === 0 ? (y: Float64Array[]) => y : rotate;
		const q = turn(headNorm(linear(y, "self_attn.q_proj"), `${attention}.q_norm`));
		const k = turn(headNorm(linear(y, "self_attn.k_proj"), `${attention}.k_norm`));
		const v = linear(y, "self_attn.v_proj");
		const slidingWindow = slidingWindowReference(config, layer);
		const shape = { heads, keyValueHeads, headDim, length: ids.length, slidingWindow };
		x = sum(x, linear(attend(q, k, v, shape), "self_attn.o_proj"));
		const z = norm(x, `model.layers.${layer}.post_attention_layernorm`);
		const up = linear(z, "mlp.up_proj");
		const gated = linear(z, "mlp.gate_proj").map((gate, t) =>
			gate.map((g, i) => act(g) * up[t][i])
		);
		x = sum(x, linear(gated, "mlp.down_proj"));
		hidden.push(x);
	}
	const head = config.tie_word_embeddings ?? false ? "model.embed_tokens" : "lm_head";
	return { hidden, logits: linearReference(norm(x, "model.norm"), tensors, head) };
}

/** How fast each pair of a head's entries turns, in radians a token. */
// deno-lint-ignore no-explicit-any
function frequenciesReference(config: Record<string, any>, headDim: number): number[] {
	const rope = config.rope_parameters ?? config.rope_scaling ?? {};
	const theta = rope.rope_theta ?? config.rope_theta ?? 10000;
	return Array.from({ length: headDim / 2 }, (_, i) => {
		const plain = theta ** (-2 * i / headDim);
		switch (rope.rope_type ?? rope.type) {
			case "linear":
				return plain / rope.factor;
			case "llama3": {
				const turns = rope.original_max_position_embeddings * plain / (2 * Math.PI);
				const { low_freq_factor: low, high_freq_factor: high, factor } = rope;
				const share = Math.min(Math.max((turns - low) / (high - low), 0), 1);
				return plain * (share + (1 - share) / factor);
			}
			default:
				return plain;
		}
	});
}

/** Tokens that a layer sees; undefined: all. */
// deno-lint-ignore no-explicit-any
function slidingWindowReference(config: Record<string, any>, layer: number): number | undefined {
	const window = config.sliding_window ?? undefined;
	if (config.model_type === "mistral") return window;
	if (!config.use_sliding_window) return undefined;
	const slides = config.layer_types
		? config.layer_types[layer] === "sliding_attention"
		: layer >= config.max_window_layers;
	return slides ? window : undefined;
}

function optReference(
	// deno-lint-ignore no-explicit-any
	config: Record<string, any>,
	tensors: ReferenceTensors,
	ids: number[],
): ForwardReference {
	const heads: number = config.num_attention_heads;
	const headDim: number = config.hidden_size / heads;
	const normBefore: boolean = config.do_layer_norm_before ?? true;
	const projects = (config.word_embed_proj_dim ?? config.hidden_size) !== config.hidden_size;
	const act = ACTIVATION[config.activation_function ?? "relu"];
	const norm = (x: Float64Array[], name: string) =>
		x.map((row) =>
			layerNorm(row, tensors.get(`${name}.weight`)!.data, tensors.get(`${name}.bias`)!.data, 1e-5)
		);

	let x = ids.map((id) => row(tensors, "model.decoder.embed_tokens.weight", id));
	if (projects) x = linearReference(x, tensors, "model.decoder.project_in");
	// The first two rows of the table are not positions.
	x = sum(x, ids.map((_, t) => row(tensors, "model.decoder.embed_positions.weight", t + 2)));
	const hidden: Float64Array[][] = [];
	for (let layer = 0; layer < config.num_hidden_layers; layer++) {
		const name = `model.decoder.layers.${layer}`;
		const linear = (y: Float64Array[], module: string) =>
			linearReference(y, tensors, `${name}.${module}`);
		let residual = x;
		if (normBefore) x = norm(x, `${name}.self_attn_layer_norm`);
		const q = linear(x, "self_attn.q_proj");
		const k = linear(x, "self_attn.k_proj");
		const v = linear(x, "self_attn.v_proj");
		const shape = { heads, keyValueHeads: heads, headDim, length: ids.length };
		x = sum(residual, linear(attend(q, k, v, shape), "self_attn.out_proj"));
		if (!normBefore) x = norm(x, `${name}.self_attn_layer_norm`);
		residual = x;
		if (normBefore) x = norm(x, `${name}.final_layer_norm`);
		x = linear(x, "fc1").map((row) => row.map(act));
		x = sum(residual, linear(x, "fc2"));
		if (!normBefore) x = norm(x, `${name}.final_layer_norm`);
		hidden.push(x);
	}
	if (normBefore && !(config._remove_final_layer_norm ?? false)) {
		x = norm(x, "model.decoder.final_layer_norm");
	}
	if (projects) x = linearReference(x, tensors, "model.decoder.project_out");
	const head = config.tie_word_embeddings ?? true ? "model.decoder.embed_tokens" : "lm_head";
	return { hidden, logits: linearReference(x, tensors, head) };
}

export function row(tensors: ReferenceTensors, name: string, index: number): Float64Array {
	const { shape: [, cols], data } = tensors.get(name)!;
	return Float64Array.from({ length: cols }, (_, i) => data[index * cols + i]);
}

/** x · weightᵀ, plus the bias if there is one. */
export function linearReference(
	x: Float64Array[],
	tensors: ReferenceTensors,
	name: string,
): Float64Array[] {
	const { shape: [rows, cols], data } = tensors.get(`${name}.weight`)!;
	const bias = tensors.get(`${name}.bias`)?.data;
	return x.map((values) => {
		const out = new Float64Array(rows);
		for (let r = 0; r < rows; r++) {
			let dot = bias?.[r] ?? 0;
			for (let c = 0; c < cols; c++) dot += values[c] * data[r * cols + c];
			out[r] = dot;
		}
		return out;
	});
}

export function sum(x: Float64Array[], y: Float64Array[]): Float64Array[] {
	return x.map((row, t) => row.map((value, i) => value + y[t][i]));
}

function attend(
	q: Float64Array[],
	k: Float64Array[],
	v: Float64Array[],
	shape: Parameters<typeof attentionReference>[3],
): Float64Array[] {
	const flat = (x: Float64Array[]) => x.flatMap((row) => [...row]);
	const out = attentionReference(flat(q), flat(k), flat(v), shape);
	const width = q[0].length;
	return q.map((_, t) => out.slice(t * width, (t + 1) * width));
}
