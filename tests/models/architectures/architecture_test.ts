import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import type { Architecture } from "~/models/architectures/architecture.ts";
import { addArchitecture, ARCHITECTURES, readArchitecture } from "~/models/architectures/mod.ts";
import { LayerPlan } from "~/models/layer_plan.ts";
import type { AttentionOp } from "~/models/ops/attention.ts";
import type { Op } from "~/models/ops/mod.ts";
import { layerPlaces } from "~/models/places.ts";
import { SHAPES } from "~/models/synthetic.ts";

/** The least that a LLaMA's config.json says. */
const LLAMA = {
	model_type: "llama",
	vocab_size: 32000,
	hidden_size: 4096,
	intermediate_size: 11008,
	num_hidden_layers: 32,
	num_attention_heads: 32,
};

const OPT = {
	model_type: "opt",
	vocab_size: 50272,
	hidden_size: 768,
	ffn_dim: 3072,
	num_hidden_layers: 12,
	num_attention_heads: 12,
};

function read(config: Record<string, unknown>): Architecture {
	return readArchitecture(config, "m/config.json");
}

/** What of an architecture can be compared: all but functions, and the attention of its first layer. */
function plain(architecture: Architecture) {
	const { steps: _, names, ...rest } = architecture;
	return {
		...rest,
		names: { ...names, layer: names.layer(7) },
		attention: attentionOf(architecture),
	};
}

function windowsOf(architecture: Architecture): (number | undefined)[] {
	const { layers } = architecture;
	return Array.from({ length: layers }, (_, i) => attentionOf(architecture, i).slidingWindow);
}

function attentionOf({ steps }: Architecture, layer = 0): AttentionOp {
	return steps(layer).find((op) => op.op === "attention")!;
}

Deno.test("a LLaMA needs little; the rest has the defaults of transformers", () => {
	assert.deepEqual(plain(read(LLAMA)), {
		modelType: "llama",
		vocabularySize: 32000,
		hiddenSize: 4096,
		embeddingSize: 4096,
		layers: 32,
		maxLength: 2048,
		finalNorm: {
			op: "norm",
			kind: "rms",
			module: "model.norm",
			from: "hidden",
			to: "hidden",
			width: 4096,
			epsilon: 1e-6,
		},
		names: { layer: "model.layers.7.", embedding: "model.embed_tokens", head: "lm_head" },
		attention: {
			op: "attention",
			query: "q",
			key: "k",
			value: "v",
			to: "x",
			heads: 32,
			keyValueHeads: 32,
			headDim: 128,
			slidingWindow: undefined,
			rotary: { headDim: 128, theta: 10000 },
		},
	});
});

Deno.test("config.json says the same in its present and in its older form", () => {
	const same = {
		...LLAMA,
		num_key_value_heads: 8,
		max_position_embeddings: 8192,
		rms_norm_eps: 1e-5,
		tie_word_embeddings: true,
	};
	const present = read({
		...same,
		head_dim: 64,
		dtype: "bfloat16",
		rope_parameters: { rope_theta: 500000.0, rope_type: "default" },
	});
	const { finalNorm, names, attention, ...others } = plain(read(LLAMA));
	const expected = {
		...others,
		maxLength: 8192,
		finalNorm: { ...finalNorm, epsilon: 1e-5 },
		names: { ...names, head: undefined },
		attention: {
			...attention,
			keyValueHeads: 8,
			headDim: 64,
			rotary: { headDim: 64, theta: 500000 },
		},
	};
	assert.deepEqual(plain(present), expected);
	for (
		const older of [
			{ rope_theta: 500000.0 },
			{ rope_theta: 500000.0, rope_scaling: null },
			{ rope_theta: 500000.0, rope_scaling: { type: "default" } },
			{ rope_theta: 500000.0, rope_scaling: { rope_type: "default" } },
			{ rope_theta: 500000.0, rope_parameters: null },
			{ rope_theta: 500000.0, rope_parameters: { rope_type: "default" } },
			{ rope_theta: 10000.0, rope_parameters: { rope_theta: 500000.0 } },
		]
	) {
		const config = { ...same, head_dim: 64, torch_dtype: "bfloat16", ...older };
		assert.deepEqual(plain(read(config)), expected, JSON.stringify(older));
	}
});

Deno.test("null stands for a field that is not there", () => {
	const config = { num_key_value_heads: null, head_dim: null, rope_theta: null, hidden_act: null };
	assert.deepEqual(plain(read({ ...LLAMA, ...config })), plain(read(LLAMA)));
	const opt = { word_embed_proj_dim: null, tie_word_embeddings: null, activation_function: null };
	assert.deepEqual(plain(read({ ...OPT, ...opt })), plain(read(OPT)));
});

/** Operations in short: what reads which registers and writes which. */
function short(op: Op): string {
	switch (op.op) {
		case "norm":
			return `${op.to} = norm ${op.module} ${op.from}${op.heads ? ` in ${op.heads} heads` : ""}`;
		case "linear":
			return op.linears.map(({ module, to }) =>
				`${to} = ${module} ${op.from}${op.residual ? ` + ${op.residual}` : ""}`
			).join(", ");
		case "split":
			return `${op.to} = split ${op.from}`;
		case "add":
			return `${op.to} = ${op.to} + ${op.from}`;
		case "rope":
			return `rope ${op.registers.map(({ register, heads }) => `${register}/${heads}`)}`;
		case "attention":
			return `${op.to} = attention ${op.query} ${op.key} ${op.value}`;
		case "route":
			return `${op.to} = ${op.k} of ${op.experts} by ${op.module} ${op.from}`;
		case "experts":
			return op.linears.map(({ module, to }) => `${to} = ${module} ${op.from}`).join(", ");
		case "combine":
			return `${op.to} = ${op.to} + ${op.from}`;
		case "clamped_swiglu":
			return `${op.to} = swiglu ${op.from} * ${op.up}`;
		case "activation":
			return `${op.to} = ${op.name} ${op.from}${op.up ? ` * ${op.up}` : ""}`;
	}
}

Deno.test("GPT-OSS is read with its sinks, windows and experts", () => {
	const architecture = read(SHAPES["gpt-oss-20b"]);
	const steps = [0, 1].map((layer) => architecture.steps(layer));
	assert.deepEqual(steps[1].map(short), steps[0].map(short));
	assert.deepEqual(steps[0].slice(-6).map(short), [
		"x = norm post_attention_layernorm hidden",
		"routing = 4 of 32 by mlp.router x",
		"gate = mlp.experts.*.gate_proj x, up = mlp.experts.*.up_proj x",
		"x = swiglu gate * up",
		"y = mlp.experts.*.down_proj x",
		"hidden = hidden + y",
	]);
	const attention = steps.map((ops) => ops.find((op) => op.op === "attention")!);
	assert.deepEqual(attention.map(({ slidingWindow }) => slidingWindow), [128, undefined]);
	assert.deepEqual(attention.map(({ sinks }) => sinks), Array(2).fill("self_attn.sinks"));
	const swiglu = (config: Record<string, unknown>) => {
		const ops = read({ ...SHAPES["gpt-oss-20b"], ...config }).steps(0);
		const { alpha, limit } = ops.find((op) => op.op === "clamped_swiglu")!;
		return [alpha, limit];
	};
	assert.deepEqual(swiglu({}), [1.702, 7]);
	assert.deepEqual(swiglu({ swiglu_alpha: 1, swiglu_limit: 5 }), [1, 5]);
	const places = [...layerPlaces(architecture, 0)].map(({ name }) => name);
	for (const name of ["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"]) {
		assert.ok(places.includes(`model.layers.0.mlp.experts.${name}`), name);
	}
	assert.equal(architecture.maxLength, 131072);
});

for (const [name, shapes] of Object.entries(SHAPES)) {
	Deno.test(`the operations of each layer of ${name} fit together`, () => {
		const architecture = read(shapes);
		for (let i = 0; i < architecture.layers; i++) {
			const { live } = new LayerPlan(architecture, i);
			assert.deepEqual([...live.at(-1)!], [["hidden", architecture.hiddenSize]]);
		}
	});
}

Deno.test("model types are looked up by their own names only", () => {
	for (const name of ["toString", "__proto__", "constructor"]) {
		assert.throws(() => read({ ...LLAMA, model_type: name }), UserError);
	}
});

Deno.test("an architecture of a program's own is known until it is disposed of", () => {
	const config = { ...LLAMA, model_type: "mine" };
	{
		using _ = addArchitecture("mine", ARCHITECTURES.llama);
		assert.equal(read(config).modelType, "mine");
		assert.throws(
			() => addArchitecture("mine", ARCHITECTURES.llama),
			new Error('There is a "mine" already'),
		);
	}
	assert.throws(() => read(config), UserError);
});

Deno.test("a LLaMA layer: norm, attention, norm, gated feed-forward", () => {
	const architecture = read({ ...LLAMA, num_key_value_heads: 4, hidden_act: "gelu" });
	assert.deepEqual(architecture.steps(0).map(short), [
		"x = norm input_layernorm hidden",
		"q = self_attn.q_proj x, k = self_attn.k_proj x, v = self_attn.v_proj x",
		"rope q/32,k/4",
		"x = attention q k v",
		"hidden = self_attn.o_proj x + hidden",
		"x = norm post_attention_layernorm hidden",
		"gate = mlp.gate_proj x, up = mlp.up_proj x",
		"x = gelu gate * up",
		"hidden = mlp.down_proj x + hidden",
	]);
	const { groups } = new LayerPlan(architecture, 0);
	const modules = groups.map(({ at, linears }) => [at, ...linears.map(({ module }) => module)]);
	assert.deepEqual(modules, [
		[1, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
		[4, "self_attn.o_proj"],
		[6, "mlp.gate_proj", "mlp.up_proj"],
		[8, "mlp.down_proj"],
	]);
});

Deno.test("relatives of LLaMA have the defaults of transformers where config.json says nothing", () => {
	const small = { ...LLAMA, num_hidden_layers: 2, num_attention_heads: 32 };
	const defaults = (modelType: string) => {
		const architecture = read({ ...small, model_type: modelType });
		const { maxLength, names: { head } } = architecture;
		const { keyValueHeads, headDim } = attentionOf(architecture);
		return { keyValueHeads, headDim, maxLength, slidingWindows: windowsOf(architecture), head };
	};
	const none = [undefined, undefined];
	const head = "lm_head";
	assert.deepEqual(
		defaults("mistral"),
		{ keyValueHeads: 8, headDim: 128, maxLength: 131072, slidingWindows: [4096, 4096], head },
	);
	assert.deepEqual(
		defaults("qwen2"),
		{ keyValueHeads: 32, headDim: 128, maxLength: 32768, slidingWindows: none, head },
	);
	assert.deepEqual(
		attentionOf(read({ ...small, model_type: "qwen3", hidden_size: 2048 })).headDim,
		128,
		"a Qwen3's heads are 128 wide, whatever its hidden size",
	);
});

Deno.test("Qwen2 has biases on q, k and v; Qwen3 normalizes the heads of q and k", () => {
	const biases = (config: Record<string, unknown>) =>
		new LayerPlan(read(config), 0).groups.map(({ bias }) => bias);
	assert.deepEqual(biases({ ...LLAMA, model_type: "qwen2" }), [true, false, false, false]);
	const QWEN3 = { ...LLAMA, model_type: "qwen3", num_key_value_heads: 4 };
	assert.deepEqual(biases({ ...QWEN3, attention_bias: true }), [true, true, false, false]);
	assert.deepEqual(biases(MISTRAL), [false, false, false, false]);
	assert.deepEqual(read(QWEN3).steps(0).map(short).slice(1, 5), [
		"q = self_attn.q_proj x, k = self_attn.k_proj x, v = self_attn.v_proj x",
		"q = norm self_attn.q_norm q in 32 heads",
		"k = norm self_attn.k_norm k in 4 heads",
		"rope q/32,k/4",
	]);
});

Deno.test("sliding windows are read layer by layer", () => {
	const windows = (config: Record<string, unknown>) =>
		windowsOf(read({ ...config, num_hidden_layers: 3 }));
	const none = [undefined, undefined, undefined];
	assert.deepEqual(windows({ ...MISTRAL, sliding_window: null }), none);
	assert.deepEqual(windows({ ...MISTRAL, sliding_window: 64 }), [64, 64, 64]);
	assert.deepEqual(windows({ ...LLAMA, sliding_window: 64 }), none);
	assert.deepEqual(windows({ ...QWEN, max_window_layers: 2 }), [undefined, undefined, 4096]);
	assert.deepEqual(windows({ ...QWEN, max_window_layers: 0, sliding_window: null }), none);
	const layerTypes = ["sliding_attention", "full_attention", "sliding_attention"];
	const typed = { ...QWEN, layer_types: layerTypes, sliding_window: 8, max_window_layers: 0 };
	assert.deepEqual(windows(typed), [8, undefined, 8]);
	assert.deepEqual(windows({ ...typed, use_sliding_window: false }), none);
});

Deno.test("scaled rotary positions are read in both forms", () => {
	const { rope_type: _, ...factors } = LLAMA_3;
	const scaling = { type: "llama3", factor: 8, lowTurns: 1, highTurns: 4, originalLength: 8192 };
	for (
		const older of [
			{ rope_theta: 500000, rope_scaling: LLAMA_3 },
			{ rope_theta: 500000, rope_scaling: { ...factors, type: "llama3" } },
			{ rope_parameters: { ...LLAMA_3, rope_theta: 500000 } },
		]
	) {
		const { rotary } = attentionOf(read({ ...LLAMA, ...older }));
		assert.deepEqual(rotary, { headDim: 128, theta: 500000, scaling });
	}
	const linear = read({ ...LLAMA, rope_scaling: { type: "linear", factor: 4 } });
	assert.deepEqual(attentionOf(linear).rotary, {
		headDim: 128,
		theta: 10000,
		scaling: { type: "linear", factor: 4 },
	});
	assert.equal(linear.maxLength, 8192, "its config.json states the length before scaling");
});

Deno.test("scalings that extend a model's length are read in both forms", () => {
	const rotaryOf = (config: Record<string, unknown>) => {
		const architecture = read({ max_position_embeddings: 2048, ...config });
		return { ...attentionOf(architecture).rotary!.scaling, length: architecture.maxLength };
	};
	const yarn = { factor: 4, original_max_position_embeddings: 1024 };
	const forms = (type: string, fields: Record<string, unknown>) => [
		{ rope_scaling: { type, ...fields } },
		{ rope_parameters: { rope_type: type, rope_theta: 10000, ...fields } },
	];
	for (const form of forms("yarn", yarn)) {
		assert.deepEqual(rotaryOf({ ...LLAMA, ...form }), {
			type: "yarn",
			factor: 4,
			lowTurns: 1,
			highTurns: 32,
			originalLength: 1024,
			truncate: true,
			magnitude: 0.1 * Math.log(4) + 1,
			length: 4096,
		});
	}
	for (const form of forms("dynamic", { factor: 3 })) {
		const expected = { type: "dynamic", factor: 3, originalLength: 2048, length: 6144 };
		assert.deepEqual(rotaryOf({ ...LLAMA, ...form }), expected);
	}
	const factors = { short_factor: new Array(64).fill(1), long_factor: new Array(64).fill(2) };
	for (const type of ["longrope", "su", "yarn"]) {
		for (const form of type === "yarn" ? forms(type, factors).slice(0, 1) : forms(type, factors)) {
			assert.deepEqual(rotaryOf({ ...PHI, original_max_position_embeddings: 512, ...form }), {
				type: "longrope",
				short: factors.short_factor,
				long: factors.long_factor,
				originalLength: 512,
				magnitude: Math.sqrt(1 + Math.log(4) / Math.log(512)),
				length: 2048,
			});
		}
	}
});

Deno.test("a Gemma 3 has two kinds of positions, in both forms and inside a multimodal model", () => {
	const text = {
		model_type: "gemma3_text",
		hidden_size: 2560,
		intermediate_size: 10240,
		num_hidden_layers: 6,
		sliding_window: 1024,
	};
	const older = { ...text, rope_scaling: { factor: 8, rope_type: "linear" } };
	const now = {
		...text,
		rope_parameters: {
			full_attention: { rope_type: "linear", factor: 8, rope_theta: 1e6 },
			sliding_attention: { rope_type: "default", rope_theta: 10000 },
		},
	};
	for (const config of [older, now, { model_type: "gemma3", text_config: older }]) {
		const architecture = read(config);
		assert.equal(architecture.maxLength, 131072, "after scaling");
		assert.equal(architecture.vocabularySize, 262208);
		assert.equal(architecture.names.head, undefined);
		assert.equal(architecture.embeddingFactor, Math.sqrt(2560));
		assert.deepEqual(windowsOf(architecture), [1024, 1024, 1024, 1024, 1024, undefined]);
		const rotaries = [4, 5].map((layer) => attentionOf(architecture, layer).rotary);
		assert.deepEqual(rotaries, [
			{ headDim: 256, theta: 10000 },
			{ headDim: 256, theta: 1e6, scaling: { type: "linear", factor: 8 } },
		]);
	}
});

Deno.test("layers with norms behind their branches, and with branches beside each other", () => {
	const layerOf = (modelType: string) =>
		read({ ...LLAMA, model_type: modelType }).steps(0).map(short);
	assert.deepEqual(layerOf("olmo2"), [
		"q = self_attn.q_proj hidden, k = self_attn.k_proj hidden, v = self_attn.v_proj hidden",
		"q = norm self_attn.q_norm q",
		"k = norm self_attn.k_norm k",
		"rope q/32,k/32",
		"x = attention q k v",
		"y = self_attn.o_proj x",
		"y = norm post_attention_layernorm y",
		"hidden = hidden + y",
		"gate = mlp.gate_proj hidden, up = mlp.up_proj hidden",
		"x = silu gate * up",
		"y = mlp.down_proj x",
		"y = norm post_feedforward_layernorm y",
		"hidden = hidden + y",
	]);
	assert.deepEqual(layerOf("cohere"), [
		"input = norm input_layernorm hidden",
		"q = self_attn.q_proj input, k = self_attn.k_proj input, v = self_attn.v_proj input",
		"rope q/32,k/32",
		"x = attention q k v",
		"hidden = self_attn.o_proj x + hidden",
		"gate = mlp.gate_proj input, up = mlp.up_proj input",
		"x = silu gate * up",
		"hidden = mlp.down_proj x + hidden",
	]);
	assert.deepEqual(layerOf("gpt_neox"), [
		"input = norm input_layernorm hidden",
		"other = norm post_attention_layernorm hidden",
		"qkv = attention.query_key_value input",
		"q,k,v = split qkv",
		"rope q/32,k/32",
		"x = attention q k v",
		"hidden = attention.dense x + hidden",
		"x = mlp.dense_h_to_4h other",
		"x = gelu x",
		"hidden = mlp.dense_4h_to_h x + hidden",
	]);
});

Deno.test("an OPT needs little; the rest has the defaults of transformers", () => {
	const architecture = read(OPT);
	assert.deepEqual(plain(architecture), {
		modelType: "opt",
		vocabularySize: 50272,
		hiddenSize: 768,
		embeddingSize: 768,
		layers: 12,
		maxLength: 2048,
		finalNorm: {
			op: "norm",
			kind: "layer",
			module: "model.decoder.final_layer_norm",
			from: "hidden",
			to: "hidden",
			width: 768,
			epsilon: 1e-5,
		},
		names: {
			layer: "model.decoder.layers.7.",
			embedding: "model.decoder.embed_tokens",
			head: undefined,
			positions: { name: "model.decoder.embed_positions", offset: 2 },
			projectIn: undefined,
			projectOut: undefined,
		},
		attention: {
			op: "attention",
			query: "q",
			key: "k",
			value: "v",
			to: "x",
			heads: 12,
			keyValueHeads: 12,
			headDim: 64,
		},
	});
	assert.deepEqual(architecture.steps(0).map(short), [
		"x = norm self_attn_layer_norm hidden",
		"q = self_attn.q_proj x, k = self_attn.k_proj x, v = self_attn.v_proj x",
		"x = attention q k v",
		"hidden = self_attn.out_proj x + hidden",
		"x = norm final_layer_norm hidden",
		"x = fc1 x",
		"x = relu x",
		"hidden = fc2 x + hidden",
	]);
});

Deno.test("an OPT with its norms last, as the 350M one, has projections and no final norm", () => {
	const architecture = read({
		...OPT,
		word_embed_proj_dim: 512,
		do_layer_norm_before: false,
		activation_function: "gelu",
	});
	assert.equal(architecture.embeddingSize, 512);
	assert.equal(architecture.names.projectIn, "model.decoder.project_in");
	assert.equal(architecture.names.projectOut, "model.decoder.project_out");
	assert.equal(architecture.finalNorm, undefined);
	assert.deepEqual(architecture.steps(0).map(short), [
		"q = self_attn.q_proj hidden, k = self_attn.k_proj hidden, v = self_attn.v_proj hidden",
		"x = attention q k v",
		"hidden = self_attn.out_proj x + hidden",
		"hidden = norm self_attn_layer_norm hidden",
		"x = fc1 hidden",
		"x = gelu x",
		"hidden = fc2 x + hidden",
		"hidden = norm final_layer_norm hidden",
	]);
});

Deno.test("an OPT may have a head of its own and no final norm", () => {
	const bare = { ...OPT, tie_word_embeddings: false, _remove_final_layer_norm: true };
	const { names, finalNorm } = read(bare);
	assert.equal(names.head, "lm_head");
	assert.equal(finalNorm, undefined);
	assert.equal(read({ ...OPT, word_embed_proj_dim: 768 }).names.projectIn, undefined);
});

const COUNT = "a whole number of at least 1";
const ACTIVATION = "one of relu, silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh";
const SCALED = "of the type default, linear, llama3, yarn, dynamic or longrope";
const LLAMA_3 = {
	rope_type: "llama3",
	factor: 8,
	low_freq_factor: 1,
	high_freq_factor: 4,
	original_max_position_embeddings: 8192,
};
const PHI = { ...LLAMA, model_type: "phi3" };
const QWEN_MOE = { ...LLAMA, model_type: "qwen3_moe", num_experts: 4, num_experts_per_tok: 2 };
const MISTRAL = { ...LLAMA, model_type: "mistral" };
const QWEN = { ...LLAMA, model_type: "qwen2", use_sliding_window: true };

const SUPPORTED =
	"a supported one (cohere, cohere2, gemma2, gemma3, gemma3_text, gpt_neox, gpt_oss, granite, " +
	"granitemoe, llama, ministral, mistral, mixtral, olmo2, olmo3, olmoe, opt, phi3, qwen2, qwen3, " +
	"qwen3_moe, smollm3, stablelm, starcoder2)";

const STATE_SPACES =
	"most of its layers are state-space models (Mamba) beside those with attention";
const LATENT = "it has latent attention (MLA): keys and values are products of a smaller matrix";
const LINEAR = "most of its layers have linear attention with a recurrent state (gated delta rule)";
const PER_LAYER = "its layers share keys and values and have embeddings of their own";

/** What is special about families, by their model types. */
const SPECIAL = {
	granitemoehybrid: STATE_SPACES,
	nemotron_h: STATE_SPACES,
	mamba2: "its layers are state-space models (Mamba) without attention",
	falcon_mamba: "its layers are state-space models (Mamba) without attention",
	rwkv7: "its layers are recurrent (RWKV) without attention",
	qwen3_next: LINEAR,
	qwen3_5_moe: LINEAR,
	deepseek_v2: LATENT,
	deepseek_v3: LATENT,
	gemma3n: PER_LAYER,
	gemma3n_text: PER_LAYER,
	gemma4: PER_LAYER,
	ministral3: "its queries are scaled by position",
	llama4_text: "its attention is chunked, and some queries are scaled by position",
};

/** A model's config.json, a field, a value that it must not have, and what it must be. */
const FIELDS: [base: Record<string, unknown>, field: string, value: unknown, wanted: string][] = [
	[LLAMA, "vocab_size", undefined, COUNT],
	[LLAMA, "hidden_size", undefined, COUNT],
	[LLAMA, "num_hidden_layers", null, COUNT],
	[LLAMA, "num_attention_heads", undefined, COUNT],
	[OPT, "vocab_size", undefined, COUNT],
	[OPT, "num_hidden_layers", undefined, COUNT],
	[LLAMA, "hidden_size", "4096", COUNT],
	[LLAMA, "hidden_size", 4096.5, COUNT],
	[LLAMA, "num_hidden_layers", 0, COUNT],
	[LLAMA, "num_attention_heads", -32, COUNT],
	[LLAMA, "num_key_value_heads", 0, COUNT],
	[LLAMA, "head_dim", [128], COUNT],
	[LLAMA, "max_position_embeddings", "2k", COUNT],
	[LLAMA, "rms_norm_eps", "1e-5", "a number above 0"],
	[LLAMA, "rms_norm_eps", 0, "a number above 0"],
	[LLAMA, "rope_theta", -1, "a number above 0"],
	[LLAMA, "tie_word_embeddings", 1, "true or false"],
	[LLAMA, "hidden_act", "quick_gelu", ACTIVATION],
	[LLAMA, "hidden_act", "constructor", ACTIVATION],
	[LLAMA, "hidden_act", 1, ACTIVATION],
	[OPT, "activation_function", "tanh", ACTIVATION],
	[OPT, "do_layer_norm_before", "no", "true or false"],
	[OPT, "word_embed_proj_dim", 0, COUNT],
	[OPT, "layer_norm_elementwise_affine", false, "true"],
	[QWEN_MOE, "num_experts", 1025, "at most 1024"],
	[QWEN_MOE, "num_experts_per_tok", 5, "at most num_experts, 4"],
	[QWEN_MOE, "mlp_only_layers", 3, "a list of layers"],
	[LLAMA, "num_key_value_heads", 5, "a divisor of num_attention_heads, 32"],
	[LLAMA, "num_key_value_heads", 64, "a divisor of num_attention_heads, 32"],
	[LLAMA, "head_dim", 127, "even"],
	[LLAMA, "hidden_size", 96, "an even multiple of num_attention_heads, 32"],
	[PHI, "partial_rotary_factor", 1.5, "such that an even part of each head, 128, rotates"],
	[MISTRAL, "sliding_window", 0, COUNT],
	[QWEN, "max_window_layers", -1, "a whole number of at least 0"],
	[LLAMA, "rope_scaling", "linear", "an object"],
	[LLAMA, "rope_parameters", [], "an object"],
	[LLAMA, "rope_parameters", 0, "an object"],
];

/** [config, what is said after `"m/config.json": `] */
const REFUSED: [config: Record<string, unknown>, text: string][] = [
	...FIELDS.map(([base, field, value, wanted]): [Record<string, unknown>, string] => [
		{ ...base, [field]: value },
		`${field} must be ${wanted}, found ${value === undefined ? "nothing" : JSON.stringify(value)}`,
	]),
	[{}, `model_type must be ${SUPPORTED}, found nothing`],
	...["gpt2", "Llama"].map((type): [Record<string, unknown>, string] => [
		{ model_type: type },
		`model_type must be ${SUPPORTED}, found "${type}"`,
	]),
	...Object.entries({
		...SPECIAL,
		dbrx: "its layers have experts of a kind that is not supported",
		qwen2_5_vl: "it is multimodal",
		llava: "it is multimodal",
		deepseek_vl: "it is multimodal",
		qwen3_vl_moe: "it is multimodal",
		bert: "it is an encoder",
		t5: "it is an encoder and a decoder",
		whisper: "it is an audio model",
		lfm2: "its layers are recurrent or convolutional",
	}).map(([type, special]): [Record<string, unknown>, string] => [
		{ model_type: type },
		`model_type must be ${SUPPORTED}, found "${type}": ${special}`,
	]),
	...Object.entries({
		vision_config: "it is multimodal",
		mamba_d_state: "its layers are recurrent or convolutional",
		num_local_experts: "its layers have experts of a kind that is not supported",
	}).map(([field, special]): [Record<string, unknown>, string] => [
		{ model_type: "new", [field]: 8 },
		`model_type must be ${SUPPORTED}, found "new": ${special}`,
	]),
	// Experts.
	[
		{ ...LLAMA, model_type: "olmoe", clip_qkv: 8 },
		"clip_qkv must be null, found 8: clipping is not supported",
	],
	// Heads.
	[
		{ ...LLAMA, hidden_size: 4000, num_attention_heads: 33 },
		"hidden_size must be a multiple of num_attention_heads, 33, found 4000",
	],
	[
		{ ...OPT, num_attention_heads: 7 },
		"hidden_size must be a multiple of num_attention_heads, 7, found 768",
	],
	// Positions.
	[
		{ ...LLAMA, rope_scaling: { type: "linear" } },
		"rope_scaling.factor must be a number above 0, found nothing",
	],
	[
		{ ...LLAMA, rope_parameters: { ...LLAMA_3, low_freq_factor: 4 } },
		"rope_parameters.high_freq_factor must be above low_freq_factor, 4, found 4",
	],
	[
		{ ...LLAMA, rope_scaling: { ...LLAMA_3, original_max_position_embeddings: 0 } },
		`rope_scaling.original_max_position_embeddings must be ${COUNT}, found 0`,
	],
	[
		{ ...LLAMA, rope_theta: 500000, rope_scaling: { rope_type: "ntk" } },
		`rope_scaling must be ${SCALED}, found {"rope_type":"ntk"}`,
	],
	...["yarn", "dynamic"].map((type): [Record<string, unknown>, string] => [
		{ ...LLAMA, rope_scaling: { type } },
		"rope_scaling.factor must be a number above 0, found nothing",
	]),
	[
		{ ...LLAMA, rope_scaling: { type: "yarn", factor: 4, beta_fast: 1, beta_slow: 2 } },
		"rope_scaling.beta_fast must be above beta_slow, 2, found 1",
	],
	[
		{ ...PHI, rope_scaling: { type: "longrope", short_factor: [1], long_factor: [1] } },
		"rope_scaling.short_factor must be a list of 64 numbers above 0, found [1]",
	],
	[
		{ ...PHI, rope_parameters: { partial_rotary_factor: 0.01 } },
		"rope_parameters.partial_rotary_factor must be such that an even part of each head, 128, " +
		"rotates, found 0.01",
	],
	// Other families.
	[
		{ ...LLAMA, model_type: "granite", residual_multiplier: 0 },
		"residual_multiplier must be a number above 0, found 0",
	],
	[
		{ ...LLAMA, model_type: "smollm3", num_hidden_layers: 2, no_rope_layers: [1, 2] },
		"no_rope_layers must be 2 times 0 or 1, found [1,2]",
	],
	[
		{ ...LLAMA, model_type: "gemma2", attn_logit_softcapping: -1 },
		"attn_logit_softcapping must be a number above 0, found -1",
	],
	[{ model_type: "gemma3" }, "text_config must be an object, found nothing"],
	[
		{ model_type: "gemma3", text_config: { hidden_size: 0 } },
		`text_config.hidden_size must be ${COUNT}, found 0`,
	],
	[
		{ model_type: "gemma3", text_config: { rope_scaling: { type: "linear", factor: 0 } } },
		"text_config.rope_scaling.factor must be a number above 0, found 0",
	],
	[
		{ model_type: "gpt_neox", num_attention_heads: 7 },
		"hidden_size must be a multiple of num_attention_heads, 7, found 6144",
	],
	[
		{ model_type: "cohere", logit_scale: "0.1" },
		'logit_scale must be a number above 0, found "0.1"',
	],
	// Sliding windows.
	[
		{ ...QWEN, num_hidden_layers: 2, layer_types: ["full_attention"] },
		'layer_types must be 2 times one of full_attention, sliding_attention, found ["full_attention"]',
	],
	[
		{ ...QWEN, num_hidden_layers: 1, layer_types: ["linear_attention"] },
		'layer_types must be 1 times one of full_attention, sliding_attention, found ["linear_attention"]',
	],
	[
		{ ...LLAMA, rope_parameters: { rope_type: "default" }, rope_scaling: { type: "mrope" } },
		`rope_scaling must be ${SCALED}, found {"type":"mrope"}`,
	],
	[
		{ ...LLAMA, rope_parameters: { rope_theta: "1e4" } },
		'rope_parameters.rope_theta must be a number above 0, found "1e4"',
	],
];

for (const [config, text] of REFUSED) {
	Deno.test(`config.json is refused: ${text}`, () => {
		assert.throws(() => read(config), new UserError(`"m/config.json": ${text}`));
	});
}
