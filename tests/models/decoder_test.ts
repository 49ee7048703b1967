import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import { shapeText } from "~/gpu/tensor.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { Decoder } from "~/models/decoder.ts";
import { assertClose } from "../assert_close.ts";
import { openModel } from "../open.ts";
import { crossEntropyReference, forwardReference } from "../reference/decoder.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { LoadedModel } from "./loaded_model.ts";
import {
	modelFolder,
	type RandomModel,
	randomModel,
	randomWindows,
	type StoredFloat,
	TINY_LLAMA,
	TINY_OPT,
	writeModel,
} from "./random_model.ts";

const gpu = await openGpu({ poison: true }); // unwritten memory would show as NaN

/**
 * f32 against f64: a logit is a sum of some 40 products, in all near 6, of factors that went through
 * some ten sums as long; 2⁻²⁴ of that is 4e-7. The greatest deviation seen is 8e-6.
 */
const TOLERANCE = { abs: 2e-5, rel: 1e-5 };

interface Case {
	what: string;
	model: RandomModel;
	shards?: number;
}

/** A Qwen of 3 layers, of which the middle one sees 7 tokens. */
const TINY_QWEN = {
	...TINY_LLAMA,
	num_hidden_layers: 3,
	use_sliding_window: true,
	sliding_window: 7,
	layer_types: ["full_attention", "sliding_attention", "full_attention"],
};

const CASES: Case[] = [
	{ what: "LLaMA, grouped heads, tied head, f32", model: randomModel(TINY_LLAMA, 1) },
	{
		what: "LLaMA, biases, heads wider than the model, own head, f16",
		model: randomModel(
			{
				...TINY_LLAMA,
				num_attention_heads: 3,
				num_key_value_heads: 1,
				head_dim: 18,
				attention_bias: true,
				mlp_bias: true,
				tie_word_embeddings: false,
			},
			2,
			"F16",
		),
	},
	{
		what: "LLaMA, heads not grouped, another rotary base, sharded bf16",
		model: randomModel(
			{
				...TINY_LLAMA,
				hidden_size: 64,
				num_key_value_heads: 4,
				intermediate_size: 129,
				rope_theta: 500,
				hidden_act: "gelu_pytorch_tanh",
			},
			3,
			"BF16",
		),
		shards: 3,
	},
	{
		what: "LLaMA, rotary positions scaled as in LLaMA 3, f32",
		model: randomModel(
			{
				...TINY_LLAMA,
				head_dim: 32,
				rope_theta: 500,
				rope_scaling: {
					rope_type: "llama3",
					factor: 8,
					low_freq_factor: 1,
					high_freq_factor: 4,
					original_max_position_embeddings: 32,
				},
			},
			31,
		),
	},
	{
		what: "LLaMA, rotary positions scaled linearly, f16",
		model: randomModel({ ...TINY_LLAMA, rope_scaling: { type: "linear", factor: 2.5 } }, 32, "F16"),
	},
	{
		what: "Mistral, sliding window, bf16",
		model: randomModel({ ...TINY_LLAMA, model_type: "mistral", sliding_window: 5 }, 33, "BF16"),
	},
	{
		what: "Qwen2, one layer of three with a sliding window, f32",
		model: randomModel({ ...TINY_QWEN, model_type: "qwen2" }, 34),
	},
	{
		what: "Qwen2, sliding from the second layer on, f16",
		model: randomModel(
			{ ...TINY_QWEN, model_type: "qwen2", layer_types: undefined, max_window_layers: 1 },
			35,
			"F16",
		),
	},
	{
		what: "Qwen3, norms of heads wider than the model, biases, f32",
		model: randomModel(
			{ ...TINY_QWEN, model_type: "qwen3", head_dim: 18, attention_bias: true },
			36,
		),
	},
	{
		what: "OPT, norms first, odd head size, projections, f16",
		model: randomModel({ ...TINY_OPT, word_embed_proj_dim: 26 }, 4, "F16"),
	},
	{
		what: "OPT, norms last, projections, f32",
		model: randomModel(
			{ ...TINY_OPT, hidden_size: 40, word_embed_proj_dim: 26, do_layer_norm_before: false },
			5,
		),
	},
	{
		what: "OPT, no final norm, own head, sharded bf16",
		model: randomModel(
			{ ...TINY_OPT, _remove_final_layer_norm: true, tie_word_embeddings: false },
			6,
			"BF16",
		),
		shards: 2,
	},
];

function logitsReference({ config, tensors }: RandomModel, windows: Int32Array[]): Float64Array[] {
	return windows.flatMap((window) => forwardReference(config, tensors, window).logits);
}

function flat(rows: Float64Array[]): number[] {
	return rows.flatMap((row) => [...row]);
}

for (const { what, model, shards } of CASES) {
	Deno.test(`logits and losses equal the reference: ${what}`, async () => {
		using folder = modelFolder(model, shards);
		const before = gpu.memory.current;
		{
			using loaded = await LoadedModel.open(gpu, folder.path);
			const afterLoading = gpu.memory.current;
			for (const length of [1, 2, 17, 33]) {
				const windows = randomWindows(3, length, TINY_LLAMA.vocab_size, length);
				const expected = logitsReference(model, windows);
				const named = { ...TOLERANCE, what: `length ${length}` };
				assertClose(await loaded.logits(windows), flat(expected), named);

				const losses = await loaded.losses(windows);
				assert.equal(losses.length, 3 * length);
				windows.forEach((window, i) => {
					for (let token = 0; token < length - 1; token++) {
						const at = i * length + token;
						const loss = crossEntropyReference(expected[at], window[token + 1]);
						assertClose([losses[at]], [loss], { ...named, what: `loss ${at} of length ${length}` });
					}
				});
			}
			loaded.decoder[Symbol.dispose](); // the tables of positions
			assert.equal(gpu.memory.current, afterLoading, "registers are freed");
		}
		assert.equal(gpu.memory.current, before, "weights are freed");
	});
}

for (
	const name of ["relu", "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"]
) {
	Deno.test(`the activation ${name} equals the reference in both architectures`, async () => {
		for (
			const model of [
				randomModel({ ...TINY_LLAMA, num_hidden_layers: 1, hidden_act: name }, 7),
				randomModel({ ...TINY_OPT, num_hidden_layers: 1, activation_function: name }, 8),
			]
		) {
			using folder = modelFolder(model);
			using loaded = await LoadedModel.open(gpu, folder.path);
			const windows = randomWindows(1, 5, TINY_LLAMA.vocab_size, 9);
			assertClose(await loaded.logits(windows), flat(logitsReference(model, windows)), {
				...TOLERANCE,
				what: model.config.model_type as string,
			});
		}
	});
}

for (const dtype of ["F32", "F16", "BF16"] as const) {
	Deno.test(`embedding and head in several parts give the same, stored as ${dtype}`, async () => {
		const model = randomModel({ ...TINY_OPT, tie_word_embeddings: false }, 10, dtype);
		using folder = modelFolder(model);
		const windows = randomWindows(2, 33, TINY_OPT.vocab_size, 11);
		const run = async (partBytes?: number) => {
			using loaded = await LoadedModel.open(gpu, folder.path, { partBytes });
			const logits = await loaded.logits(windows);
			const [embedding] = await loaded.decoder.embedding.embed([windows]);
			using embedded = embedding;
			const losses = await loaded.losses(windows);
			return { logits, embedded: await gpu.read(embedded), losses };
		};
		const whole = await run();
		// The head has 97 rows of 35 numbers: parts of 14 rows and 7 at the end; parts of one row, and
		// logits of 64 and 2 tokens at a time.
		for (const partBytes of [14 * 35 * 4, 1]) {
			const parts = await run(partBytes);
			assert.deepEqual(parts.embedded, whole.embedded); // a look-up rounds nothing
			// The sums over the vocabulary are grouped another way; the logits may be.
			assertClose(parts.logits, whole.logits, { abs: 4e-6, what: "logits" });
			const given = (losses: Float32Array) => losses.filter((_, at) => at % 33 < 32);
			assertClose(given(parts.losses), given(whole.losses), { abs: 4e-6, what: "losses" });
		}
	});
}

Deno.test("hidden states after each layer equal the reference", async () => {
	for (const { model } of CASES) {
		using folder = modelFolder(model);
		using loaded = await LoadedModel.open(gpu, folder.path);
		const windows = randomWindows(2, 9, TINY_LLAMA.vocab_size, 12);
		const expected = windows.map((window) => forwardReference(model.config, model.tensors, window));
		for (let layers = 1; layers <= 2; layers++) {
			const hidden = await loaded.forward(windows, (hidden) => gpu.read(hidden), layers);
			assertClose(hidden, expected.flatMap((window) => flat(window.hidden[layers - 1])), TOLERANCE);
		}
	}
});

Deno.test("a layer runs in pieces as it does in one go", async () => {
	for (const { model } of CASES) {
		using folder = modelFolder(model);
		using loaded = await LoadedModel.open(gpu, folder.path);
		const { decoder, layers: [weights] } = loaded;
		const windows = randomWindows(2, 9, TINY_LLAMA.vocab_size, 13);
		const whole = await loaded.forward(windows, (hidden) => gpu.read(hidden), 1);
		const before = gpu.memory.current;
		{
			const registers = new Map([["hidden", (await decoder.embedding.embed([windows]))[0]]]);
			for (let at = 0; at < weights.plan.ops.length; at++) {
				await decoder.run(weights, registers, 9, at, at + 1);
			}
			assert.deepEqual([...registers.keys()], ["hidden"]);
			using hidden = registers.get("hidden")!;
			assert.deepEqual(await gpu.read(hidden), whole);
		}
		assert.equal(gpu.memory.current, before);
	}
});

/** Opens a model in `folder`, runs it and expects it to be refused with `text`. */
async function expectRefusal(folder: string, windows: Int32Array[], text: string): Promise<void> {
	await assert.rejects(async () => {
		using loaded = await LoadedModel.open(gpu, folder);
		await loaded.logits(windows);
	}, new UserError(text));
}

const DAMAGED: { config: typeof TINY_LLAMA; dtype: StoredFloat; value: number }[] = [
	{
		config: { ...TINY_LLAMA, tie_word_embeddings: false, attention_bias: true, mlp_bias: true },
		dtype: "BF16",
		value: NaN,
	},
	{
		config: { ...TINY_OPT, hidden_size: 40, word_embed_proj_dim: 26, tie_word_embeddings: false },
		dtype: "F16",
		value: Infinity,
	},
	{ config: { ...TINY_OPT, tie_word_embeddings: true }, dtype: "F32", value: -Infinity },
];

for (const { config, dtype, value } of DAMAGED) {
	const what = `${value} in any tensor of a model is refused (${config.model_type}, ${dtype})`;
	Deno.test(what, async () => {
		const model = randomModel({ ...config, num_hidden_layers: 1 }, 14, dtype);
		const windows = [Int32Array.of(0, 1)]; // ids whose rows of the embedding are sound
		for (const [name, { data }] of model.tensors) {
			using folder = new TemporaryFolder();
			const last = data.length - 1;
			const sound = data[last];
			data[last] = value;
			writeModel(folder.path, model);
			data[last] = sound;
			await expectRefusal(
				folder.path,
				windows,
				`"${folder.path}": "${name}" holds 1 value that is NaN or infinite; ` +
					`the model is damaged, get it again`,
			);
		}
		assert.ok(model.tensors.size >= 19);
	});
}

Deno.test("NaN values are counted, in whichever part they are", async () => {
	const model = randomModel(TINY_LLAMA, 15);
	const { data } = model.tensors.get("model.embed_tokens.weight")!;
	using folder = new TemporaryFolder();
	data.fill(NaN, 50 * 40, 50 * 40 + 3);
	writeModel(folder.path, model);
	using files = openModel(folder.path);
	using decoder = new Decoder(gpu, files, { partBytes: 20 * 40 * 4 });
	const expected = new UserError(
		`"${folder.path}": "model.embed_tokens.weight" holds 3 values that are NaN or infinite; ` +
			`the model is damaged, get it again`,
	);
	await assert.rejects(() => decoder.embedding.embed([[Int32Array.of(0)]]), expected);
	await assert.rejects(() => decoder.embedding.embed([[Int32Array.of(0)]]), expected); // and still are
});

const BIASED = { ...TINY_LLAMA, attention_bias: true, mlp_bias: true };
const OWN_HEAD = { ...TINY_LLAMA, tie_word_embeddings: false };
const PROJECTED = { ...TINY_OPT, word_embed_proj_dim: 20 };

const MISFITS: [config: typeof TINY_LLAMA, name: string, shape: number[], wanted: number[]][] = [
	// A weight that does not fit its input.
	[BIASED, "model.layers.1.self_attn.q_proj.weight", [40, 39], [40, 40]],
	[BIASED, "model.layers.1.self_attn.o_proj.weight", [40, 41], [40, 40]],
	[BIASED, "model.layers.1.mlp.up_proj.weight", [52, 36], [52, 40]],
	[BIASED, "model.layers.1.mlp.down_proj.weight", [40, 40], [40, 52]],
	// One whose output does not fit what reads it.
	[TINY_LLAMA, "model.layers.0.self_attn.q_proj.weight", [30, 40], [40, 40]],
	[TINY_LLAMA, "model.layers.0.self_attn.k_proj.weight", [40, 40], [20, 40]],
	[TINY_LLAMA, "model.layers.0.self_attn.v_proj.weight", [10, 40], [20, 40]],
	[TINY_LLAMA, "model.layers.0.self_attn.o_proj.weight", [39, 40], [40, 40]],
	[TINY_LLAMA, "model.layers.0.mlp.up_proj.weight", [51, 40], [52, 40]],
	[TINY_LLAMA, "model.layers.0.mlp.down_proj.weight", [1, 52], [40, 52]],
	[TINY_LLAMA, "model.layers.0.mlp.gate_proj.weight", [2080], [52, 40]],
	[BIASED, "model.layers.1.mlp.up_proj.weight", [51, 40], [52, 40]],
	[TINY_OPT, "model.decoder.layers.1.self_attn.q_proj.weight", [30, 35], [35, 35]],
	[TINY_OPT, "model.decoder.layers.1.self_attn.out_proj.weight", [30, 35], [35, 35]],
	// Norms and biases.
	[BIASED, "model.layers.1.input_layernorm.weight", [39], [40]],
	[BIASED, "model.layers.1.post_attention_layernorm.weight", [41], [40]],
	[BIASED, "model.layers.1.self_attn.v_proj.bias", [40], [20]],
	[BIASED, "model.layers.1.mlp.gate_proj.bias", [1], [52]],
	[TINY_OPT, "model.decoder.layers.0.fc2.bias", [52], [35]],
	// Outside the layers.
	[TINY_LLAMA, "model.norm.weight", [20], [40]],
	[TINY_LLAMA, "model.embed_tokens.weight", [96, 40], [97, 40]],
	[TINY_LLAMA, "model.embed_tokens.weight", [98, 40], [97, 40]],
	[TINY_LLAMA, "model.embed_tokens.weight", [97, 64], [97, 40]],
	[OWN_HEAD, "lm_head.weight", [64, 40], [97, 40]],
	[TINY_OPT, "model.decoder.embed_positions.weight", [64, 35], [66, 35]],
	[TINY_OPT, "model.decoder.final_layer_norm.bias", [36], [35]],
	[PROJECTED, "model.decoder.project_in.weight", [20, 35], [35, 20]],
	[PROJECTED, "model.decoder.project_out.weight", [20, 20], [20, 35]],
];

for (const [config, name, shape, wanted] of MISFITS) {
	Deno.test(`${name} of ${shapeText(shape)} instead of ${shapeText(wanted)} is refused`, async () => {
		using folder = new TemporaryFolder();
		const model = randomModel(config, 16);
		const size = shape.reduce((product, length) => product * length, 1);
		assert.ok(model.tensors.has(name));
		model.tensors.set(name, { shape, data: new Float32Array(size) });
		writeModel(folder.path, model);
		await expectRefusal(
			folder.path,
			[Int32Array.of(0, 1)],
			`"${folder.path}": "${name}" has the shape ${shapeText(shape)}, ` +
				`expected ${shapeText(wanted)}; the weights do not fit config.json`,
		);
	});
}

Deno.test("a bias that config.json does not ask for is ignored, as transformers does", async () => {
	using folder = new TemporaryFolder();
	const model = randomModel(TINY_LLAMA, 23);
	const logits = async () => {
		writeModel(folder.path, model);
		using loaded = await LoadedModel.open(gpu, folder.path);
		return await loaded.logits([Int32Array.of(0, 1)]);
	};
	const without = await logits();
	const name = "model.layers.0.mlp.down_proj.bias";
	model.tensors.set(name, { shape: [40], data: new Float32Array(40).fill(1) });
	assert.deepEqual(await logits(), without);
});

Deno.test("a missing tensor is named, with the nearest names there are", async () => {
	for (
		const [config, name, near] of [
			[TINY_LLAMA, "model.norm.weight", ["model.embed_tokens.weight"]],
			[TINY_LLAMA, "model.layers.0.mlp.up_proj.weight", ["model.layers.1.mlp.up_proj.weight"]],
			// Without its bias this layer norm would pass for an RMS norm.
			[TINY_OPT, "model.decoder.final_layer_norm.bias", ["model.decoder.final_layer_norm.weight"]],
			[TINY_OPT, "model.decoder.layers.0.fc1.bias", ["model.decoder.layers.0.fc2.bias"]],
		] as const
	) {
		using folder = new TemporaryFolder();
		const model = randomModel(config, 17);
		assert.ok(model.tensors.delete(name));
		writeModel(folder.path, model);
		await assert.rejects(async () => {
			using loaded = await LoadedModel.open(gpu, folder.path);
			await loaded.logits([Int32Array.of(0)]);
		}, (error: Error) => {
			assert.ok(error instanceof UserError);
			const start = `Cannot find tensor "${name}" in "${folder.path}"; the nearest names are `;
			assert.ok(error.message.startsWith(start), error.message);
			for (const other of near) assert.ok(error.message.includes(`"${other}"`), error.message);
			return true;
		});
	}
});

Deno.test("a tensor that is stored as whole numbers is refused", async () => {
	const model = randomModel(TINY_LLAMA, 18);
	using folder = modelFolder(model);
	const path = `${folder.path}/model.safetensors`;
	const bytes = Deno.readFileSync(path);
	const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
	const header = new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes));
	const changed = header.replace(
		`"model.norm.weight":{"dtype":"F32"`,
		(found) => found.replace("F32", "I32"),
	);
	assert.notEqual(changed, header);
	bytes.set(new TextEncoder().encode(changed), 8);
	Deno.writeFileSync(path, bytes);
	await expectRefusal(
		folder.path,
		[Int32Array.of(0)],
		`"${path}": "model.norm.weight" is stored as I32; supported: F32, F16, BF16`,
	);
});

Deno.test("embed() refuses tokens and windows that the model does not take", async () => {
	using folder = modelFolder(randomModel(TINY_LLAMA, 19));
	using files = openModel(folder.path);
	using decoder = new Decoder(gpu, files);
	await assert.rejects(
		() => decoder.embedding.embed([[Int32Array.of(96, 97)]]),
		new UserError(
			`Token id 97 is not in the vocabulary of "${folder.path}" (97 ids); ` +
				`do the tokens belong to this model?`,
		),
	);
	await assert.rejects(
		() => decoder.embedding.embed([[new Int32Array(65)]]),
		new UserError(
			`The windows have 65 tokens, but the model "${folder.path}" takes at most 64; ` +
				`use a smaller sequence-length`,
		),
	);
	const [whole] = await decoder.embedding.embed([[new Int32Array(64)]]);
	assert.deepEqual(whole.shape, [64, 40]);
});

Deno.test("rotary frequencies can be rounded as in a model cast as a whole", async () => {
	// One head of 2 · 2 numbers: frequencies 1 and theta^-½ = 0.3162…, which no 16-bit format holds.
	const config = { ...TINY_LLAMA, hidden_size: 4, num_attention_heads: 1, num_key_value_heads: 1 };
	const model = randomModel({ ...config, rope_theta: 10 }, 20);
	using folder = modelFolder(model);
	const windows = randomWindows(1, 33, 97, 21);
	// The same frequencies come from another base: theta = frequency^-2.
	const frequency = Math.fround(10 ** -0.5);
	assert.equal(Math.f16round(frequency), 0.316162109375);
	for (
		const [ropeFrequencies, rounded] of [
			["f32", frequency],
			["f16", 0.316162109375],
			["bf16", 0.31640625], // between 0.314453125 and 0.31640625 the nearer one
		] as const
	) {
		using loaded = await LoadedModel.open(gpu, folder.path, { ropeFrequencies });
		const expected = forwardReference(
			{ ...config, rope_theta: rounded ** -2 },
			model.tensors,
			windows[0],
		);
		assertClose(await loaded.logits(windows), flat(expected.logits), {
			...TOLERANCE,
			what: ropeFrequencies,
		});
	}
});
