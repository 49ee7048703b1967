import assert from "node:assert/strict";
import { rmSync, writeFileSync } from "node:fs";
import { UserError } from "~/base/errors.ts";
import type { CacheDtype } from "~/gpu/kernels/attention/attention_decode.ts";
import { DENO_GPU } from "~/hosts/deno_gpu.ts";
import {
	generate,
	type GeneratedToken,
	type GenerateOptions,
	type GenerationEnd,
	ResidentModel,
	stopIdsOf,
} from "~/models/generation/generation.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { assertClose } from "../../assert_close.ts";
import { openGpu } from "../../gpu/open_gpu.ts";
import { Workplace, writeMicroModel } from "../../micro_model.ts";
import { openModel } from "../../open.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { LoadedModel } from "../loaded_model.ts";
import {
	modelFolder,
	randomModel,
	randomWindows,
	type StoredFloat,
	TINY_LLAMA,
	TINY_OPT,
	writeModel,
} from "../random_model.ts";

const gpu = await openGpu();

const MODELS: Record<string, [config: typeof TINY_LLAMA, dtype: StoredFloat]> = {
	"llama": [TINY_LLAMA, "F32"],
	"llama with a head of its own, in bf16": [{ ...TINY_LLAMA, tie_word_embeddings: false }, "BF16"],
	"opt": [TINY_OPT, "F32"],
	"opt with projections, norms last, in f16": [
		{ ...TINY_OPT, word_embed_proj_dim: 24, do_layer_norm_before: false },
		"F16",
	],
	"qwen3": [{ ...TINY_LLAMA, model_type: "qwen3", head_dim: 12 }, "F32"],
	"mistral with a sliding window": [
		{ ...TINY_LLAMA, model_type: "mistral", sliding_window: 7, num_key_value_heads: 1 },
		"F32",
	],
	"qwen2 of which one layer slides": [
		{
			...TINY_LLAMA,
			model_type: "qwen2",
			use_sliding_window: true,
			sliding_window: 5,
			max_window_layers: 1,
		},
		"F32",
	],
};

function greatest(logits: Float32Array): number {
	return logits.indexOf(Math.max(...logits));
}

/** Feeds a text to a cache, the first `prompt` tokens at once, and gives the logits after each step. */
async function* stepByStep(
	model: ResidentModel,
	text: Int32Array,
	prompt: number,
	dtype: CacheDtype,
): AsyncGenerator<Float32Array> {
	using cache = new KeyValueCache(gpu, model.files.architecture, text.length, dtype);
	for (let done = 0; done < text.length;) {
		const next = done === 0 ? prompt : 1;
		using logits = (await model.logits(text.subarray(done, done + next), cache))!;
		assert.deepEqual(logits.shape, [1, model.files.architecture.vocabularySize]);
		done += next;
		assert.equal(cache.length, done);
		yield await gpu.read(logits);
	}
}

for (const [name, [config, dtype]] of Object.entries(MODELS)) {
	Deno.test(`token by token, a ${name} computes what it does on the whole window`, async () => {
		using folder = modelFolder(randomModel(config, 5, dtype));
		using loaded = await LoadedModel.open(gpu, folder.path);
		using model = await ResidentModel.load(gpu, loaded.model);
		const vocabulary = config.vocab_size;
		const [text] = randomWindows(1, 24, vocabulary, 3);
		const all = await loaded.logits([text]);
		for (const prompt of [1, 2, 12, 24]) {
			for (const dtype of ["f32", "f16"] as const) {
				let token = prompt - 1;
				for await (const logits of stepByStep(model, text, prompt, dtype)) {
					const expected = all.subarray(token * vocabulary, (token + 1) * vocabulary);
					// Keys and values of f16 are off by up to 2^-11.
					assertClose(logits, expected, {
						abs: dtype === "f32" ? 2e-5 : 2e-2,
						what: `logits after token ${token}, prompt of ${prompt}, cache in ${dtype}`,
					});
					token++;
				}
				assert.equal(token, text.length);
			}
		}
	});

	Deno.test(`the greedy tokens of a ${name} are those of whole windows`, async () => {
		using folder = modelFolder(randomModel(config, 6, dtype));
		using loaded = await LoadedModel.open(gpu, folder.path);
		using model = await ResidentModel.load(gpu, loaded.model);
		const vocabulary = config.vocab_size;
		for (const prompt of [1, 9]) {
			const text = [...randomWindows(1, prompt, vocabulary, 4)[0]];
			const whole = [...text];
			using cache = new KeyValueCache(gpu, model.files.architecture, 30, "f32");
			let input = text.slice();
			while (text.length < 30) {
				using logits = (await model.logits(Int32Array.from(input), cache))!;
				input = [greatest(await gpu.read(logits))];
				text.push(...input);
				const all = await loaded.logits([Int32Array.from(whole)]);
				whole.push(greatest(all.subarray(-vocabulary)));
			}
			assert.deepEqual(text, whole);
		}
	});
}

Deno.test("several tokens may follow what a cache holds", async () => {
	for (const name of ["llama", "mistral with a sliding window", "opt"]) {
		using folder = new TemporaryFolder();
		const [config] = MODELS[name];
		writeModel(folder.path, randomModel(config, 5));
		using loaded = await LoadedModel.open(gpu, folder.path);
		using model = await ResidentModel.load(gpu, loaded.model);
		const [text] = randomWindows(1, 24, config.vocab_size, 3);
		const all = await loaded.logits([text]);
		using cache = new KeyValueCache(gpu, model.files.architecture, 24, "f32");
		for (const [first, end] of [[0, 5], [5, 17], [17, 24]]) {
			using logits = (await model.logits(text.subarray(first, end), cache))!;
			const expected = all.subarray((end - 1) * config.vocab_size, end * config.vocab_size);
			assertClose(await gpu.read(logits), expected, { abs: 2e-5, what: `${name} after ${end}` });
		}
	}
});

Deno.test("a model in memory reads no file, and leaves no memory behind", async () => {
	using folder = modelFolder(randomModel(TINY_OPT, 5, "F16"));
	const before = gpu.memory.current;
	{
		using files = openModel(folder.path);
		using model = await ResidentModel.load(gpu, files);
		const text = Int32Array.of(1, 2, 3);
		using cache = new KeyValueCache(gpu, files.architecture, 5, "f16");
		(await model.logits(text, cache))!;
		await assert.rejects(
			model.logits(text, cache),
			new RangeError("A cache of 5 tokens, 3 of them in use, cannot take 3"),
		);
		const after = gpu.memory.current;
		files.checkpoint.readChunks = () => assert.fail("reads a file");
		const logits = (await model.logits(Int32Array.of(4), cache))!;
		gpu.free(logits);
		assert.equal(gpu.memory.current, after);
	}
	assert(gpu.memory.current <= before + 512); // the logits of the prompt
});

Deno.test("a text takes its buffers and bind groups from the one before it, within a limit", async () => {
	using place = new Workplace({ layers: 3, maxLength: 1500 });
	using files = openModel(place.model);
	const own = await openGpu({ poison: false });
	using model = await ResidentModel.load(own, files);
	const { device } = own;
	let created = 0;
	for (const name of ["createBuffer", "createBindGroup"] as const) {
		const create = device[name].bind(device) as (descriptor: unknown) => unknown;
		Object.defineProperty(device, name, {
			value: (descriptor: unknown) => {
				created++;
				return create(descriptor);
			},
		});
	}
	const weights = own.memory.current;
	for (const options of [{}, { temperature: 1 }]) {
		const prompt = Array.from({ length: 20 }, (_, i) => i);
		const texts = [];
		for (let turn = 0; turn < 4; turn++) {
			created = 0;
			texts.push((await run(model, { prompt, maxTokens: 3, stopIds: [], ...options })).ids);
			// The first ones leave buffers of one size in different orders.
			assert(created === 0 || turn < 2, `${created} created by text ${turn}`);
		}
		for (const text of texts) assert.deepEqual(text, texts[0]);
	}
	const prompt = new Array(1400).fill(3);
	for await (const _ of generate(model, { prompt, maxTokens: 1 })) {
		const { pooled, peak } = own.memory;
		assert(
			pooled <= weights && peak > 3 * weights,
			`${pooled} pooled beside ${weights} of weights`,
		);
	}
});

/** All tokens of a text and how it ended. */
async function run(
	model: ResidentModel,
	options: GenerateOptions,
): Promise<{ tokens: GeneratedToken[]; ids: number[]; text: string; end: GenerationEnd }> {
	const tokens: GeneratedToken[] = [];
	const iterator = generate(model, options);
	for (;;) {
		const { done, value } = await iterator.next();
		if (done) {
			const text = tokens.map(({ text }) => text).join("");
			return { tokens, ids: tokens.map(({ id }) => id), text, end: value };
		}
		tokens.push(value);
	}
}

Deno.test("generate() gives tokens and their text, and says how the text ended", async () => {
	using place = new Workplace({ layers: 2, maxLength: 40 });
	using files = openModel(place.model);
	using model = await ResidentModel.load(gpu, files);
	const prompt = "The city of";
	const ids = files.tokenizer.encode(prompt);
	const greedy = await run(model, { prompt, maxTokens: 12, stopIds: [] });
	assert.equal(greedy.ids.length, 12);
	assert.equal(prompt + greedy.text, files.tokenizer.decode([...ids, ...greedy.ids]));
	assert.equal(greedy.end.reason, "max-tokens");
	assert.deepEqual([greedy.end.promptTokens, greedy.end.tokens], [ids.length, 12]);
	assert(greedy.end.promptSeconds > 0 && greedy.end.seconds > 0);

	using loaded = await LoadedModel.open(gpu, place.model);
	const whole = [...ids];
	for (let i = 0; i < 12; i++) {
		whole.push(greatest((await loaded.logits([Int32Array.from(whole)])).subarray(-4096)));
	}
	assert.deepEqual(greedy.ids, whole.slice(ids.length));

	assert.deepEqual((await run(model, { prompt: ids, maxTokens: 12, stopIds: [] })).ids, greedy.ids);
	const stop = greedy.ids[5];
	const stopped = await run(model, { prompt, stopIds: [stop] });
	const first = greedy.ids.indexOf(stop);
	assert.deepEqual(stopped.ids, greedy.ids.slice(0, first + 1));
	assert.equal(stopped.end.reason, "stop-token");
	assert.equal(
		prompt + stopped.text,
		files.tokenizer.decode([...ids, ...greedy.ids.slice(0, first)]),
	);
	const longest = await run(model, { prompt, stopIds: [] });
	assert.equal(longest.end.reason, "max-length");
	assert.equal(longest.ids.length, 40 - ids.length + 1); // the last one need not be taken in
	const full = await run(model, {
		prompt: longest.ids.slice(0, 20).concat(longest.ids.slice(0, 20)),
	});
	assert.deepEqual([full.end.reason, full.ids.length], ["max-length", 1]);
});

Deno.test("generate() samples the same tokens for the same seed", async () => {
	using place = new Workplace({ layers: 1 });
	using files = openModel(place.model);
	using model = await ResidentModel.load(gpu, files);
	const options = { prompt: "The", maxTokens: 10, stopIds: [] };
	const sampled = { ...options, temperature: 1.5, seed: 3 };
	const { ids } = await run(model, sampled);
	assert.deepEqual((await run(model, sampled)).ids, ids);
	assert.notDeepEqual((await run(model, { ...sampled, seed: 4 })).ids, ids);
	const greedy = await run(model, options);
	assert.notDeepEqual(greedy.ids, ids);
	for (const same of [{ topK: 1 }, { topP: 1e-9 }, { temperature: 0 }, { temperature: 1e-6 }]) {
		assert.deepEqual((await run(model, { ...sampled, ...same })).ids, greedy.ids);
	}
	const penalized = await run(model, { ...options, repetitionPenalty: 1e6, maxTokens: 20 });
	assert.equal(new Set(penalized.ids).size, 20, "no token comes twice");
});

Deno.test("generate() ends when its signal aborts", async () => {
	using place = new Workplace({ layers: 2 });
	using files = openModel(place.model);
	using model = await ResidentModel.load(gpu, files);
	await run(model, { prompt: "The", maxTokens: 200 }); // its rotary positions stay
	for (const after of [0, 1, 3]) {
		const controller = new AbortController();
		if (after === 0) controller.abort();
		const before = gpu.memory.current;
		const iterator = generate(model, { prompt: "The", signal: controller.signal, stopIds: [] });
		let count = 0;
		for (;;) {
			const { done, value } = await iterator.next();
			if (done) {
				assert.deepEqual([value.reason, value.tokens], ["interrupted", after]);
				break;
			}
			if (++count === after) controller.abort();
		}
		assert.equal(count, after);
		assert.equal(gpu.memory.current, before);
	}
	const controller = new AbortController();
	setTimeout(() => controller.abort(), 0); // while the prompt is on its way
	const prompt = new Array(100).fill(5);
	const { end } = await run(model, { prompt, signal: controller.signal });
	assert.deepEqual([end.reason, end.tokens], ["interrupted", 0]);
	const before = gpu.memory.current;
	for await (const _ of generate(model, { prompt: "The" })) break; // who leaves early frees the cache
	assert.equal(gpu.memory.current, before);
});

Deno.test("generate() refuses what it cannot do", async () => {
	using place = new Workplace({ layers: 1, maxLength: 16 });
	using files = openModel(place.model);
	using model = await ResidentModel.load(gpu, files);
	const refuses = (options: GenerateOptions, message: string) =>
		assert.rejects(run(model, options), new UserError(message));
	await refuses({}, "Give either a prompt or messages");
	await refuses({ prompt: "a", messages: [] }, "Give either a prompt or messages");
	await refuses(
		{ prompt: new Array(17).fill(5) },
		`The prompt has 17 tokens, but the model "${place.model}" takes at most 16`,
	);
	await refuses(
		{ prompt: "a", maxTokens: 0 },
		"maxTokens must be a whole number of at least 1, found 0",
	);
	await refuses(
		{ prompt: "a", topP: 0 },
		"The top-p must be a number above 0 and at most 1, found 0",
	);
	await refuses(
		{ prompt: [4096] },
		`Token id 4096 is not in the vocabulary of "${place.model}" (4096 ids); do the tokens belong to this model?`,
	);
	await assert.rejects(
		run(model, { messages: [{ role: "user", content: "Hi" }] }),
		/has no chat template, neither/,
	);
});

Deno.test("generate() refuses logits that are not numbers", async () => {
	using folder = new TemporaryFolder();
	writeMicroModel(folder.path, {
		layers: 1,
		dtype: "F32",
		alter: (tensors) => tensors.get("model.layers.0.mlp.up_proj.weight")!.values.fill(3e38),
	});
	using files = openModel(folder.path);
	using model = await ResidentModel.load(gpu, files);
	for (const temperature of [0, 1]) {
		await assert.rejects(
			run(model, { prompt: "a", temperature }),
			new UserError(
				`The logits of "${folder.path}" are not numbers: activations exceed what f32 holds`,
			),
		);
	}
});

Deno.test("a model that is too large for the GPU's memory is refused", async () => {
	using place = new Workplace({ layers: 4 });
	using files = openModel(place.model);
	await using small = await openGpu({ memory: 500_000 });
	await assert.rejects(
		ResidentModel.load(small, files),
		new UserError(
			`500.0 kB of GPU memory is too little for "${place.model}": its weights take 897.3 kB`,
		),
	);
	assert.equal(small.memory.current, 0);
});

Deno.test("generate() answers messages with a text of its own", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(
		place.path("model/chat_template.jinja"),
		"{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
	);
	using files = openModel(place.model);
	using model = await ResidentModel.load(gpu, files);
	const options = { maxTokens: 8, stopIds: [] };
	const messages = [
		{ role: "system", content: "Be brief" } as const,
		{ role: "user", content: "Why?" } as const,
	];
	const answer = await run(model, { ...options, messages });
	const prompt = files.tokenizer.encode("system: Be brief\nuser: Why?\nassistant:", {
		specialTokens: false,
	});
	assert.equal(answer.end.promptTokens, prompt.length);
	assert.deepEqual(answer.ids, (await run(model, { ...options, prompt })).ids);
	assert.equal(answer.text, files.tokenizer.decode(answer.ids));
});

Deno.test("an empty prompt is the token that begins texts", async () => {
	using place = new Workplace({ layers: 1 });
	using files = openModel(place.model);
	using model = await ResidentModel.load(gpu, files);
	const options = { maxTokens: 3, stopIds: [] };
	const { ids, end } = await run(model, { ...options, prompt: "" });
	assert.equal(end.promptTokens, 1);
	assert.deepEqual(ids, (await run(model, { ...options, prompt: [files.tokenizer.bosId!] })).ids);
});

Deno.test("stopIdsOf() reads generation_config.json, else config.json, and the tokenizer", () => {
	using place = new Workplace({ layers: 1, config: { eos_token_id: [7, 8] } });
	const path = place.path("model/generation_config.json");
	const read = () => {
		using files = openModel(place.model);
		assert.equal(files.tokenizer.eosId, 2);
		return stopIdsOf(files);
	};
	const write = (value: unknown) => writeFileSync(path, JSON.stringify({ eos_token_id: value }));
	write(5);
	assert.deepEqual(read(), [5, 2]);
	write([5, 2, 6]);
	assert.deepEqual(read(), [5, 2, 6]);
	for (const nothing of [undefined, null]) {
		write(nothing);
		assert.deepEqual(read(), [7, 8, 2]);
	}
	rmSync(path);
	assert.deepEqual(read(), [7, 8, 2]);
	write("</s>");
	assert.throws(
		read,
		new UserError(`"${path}": eos_token_id must be a token id or a list of them, found "</s>"`),
	);
});

/** Deno, but it cannot follow what a function awaits, as browsers cannot. */
const { scope: _, ...WITHOUT_SCOPE } = DENO_GPU;

for (
	const [family, host] of [["llama", DENO_GPU], ["llama", WITHOUT_SCOPE], [
		"opt",
		DENO_GPU,
	]] as const
) {
	const where = host === DENO_GPU ? "" : ", on a host without scopes";
	Deno.test(`greedy texts of one ${family} may take turns, each with a cache of its own length${where}`, async () => {
		await using gpu = await openGpu({}, host);
		using place = new Workplace({ layers: 2, maxLength: 64, family });
		using files = openModel(place.model);
		using model = await ResidentModel.load(gpu, files);
		const options = [
			{ prompt: [5, 6, 7], maxTokens: 8, stopIds: [] },
			{ prompt: [9, 8], maxTokens: 40, stopIds: [] },
		];
		const alone: number[][] = [];
		for (const one of options) alone.push((await run(model, one)).ids);
		using loaded = await LoadedModel.open(gpu, place.model);
		const whole = Int32Array.from([...options[0].prompt, ...alone[0]]);
		const logits = await loaded.logits([whole]);
		for (let i = 0; i < 8; i++) {
			const at = options[0].prompt.length - 1 + i;
			assert.equal(alone[0][i], greatest(logits.subarray(at * 4096, (at + 1) * 4096)));
		}

		using another = await ResidentModel.load(gpu, files);
		const texts = options.map((one) => generate(another, one));
		const together: number[][] = [[], []];
		for (let open = 2; open > 0;) {
			open = 0;
			for (const [i, text] of texts.entries()) {
				const { done, value } = await text.next();
				if (done) continue;
				together[i].push(value.id);
				open++;
			}
		}
		assert.deepEqual(together, alone);
		const atOnce = await Promise.all(options.map((one) => run(another, one)));
		assert.deepEqual(atOnce.map(({ ids }) => ids), alone);
	});
}
