import assert from "node:assert/strict";
import { continueTokens, ResidentModel } from "~/models/generation/generation.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { logProbabilities } from "~/models/generation/logprobs.ts";
import { PrefixCaches } from "~/models/generation/prefix_caches.ts";
import { StopTexts } from "~/models/generation/stop_texts.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { join } from "node:path";
import { PROJECT } from "../../checkout.ts";
import { gpu } from "../../gpu/gpu.ts";
import { writeMicroModel } from "../../micro_model.ts";
import { openModel } from "../../open.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

/** A text of ids without pattern. */
function idsOf(count: number, seed: number): number[] {
	return Array.from({ length: count }, (_, i) => (i * 389 + seed * 977 + 7) % 4096);
}

type Options = Parameters<typeof continueTokens>[2];

async function generated(model: ResidentModel, prompt: readonly number[], options: Options) {
	const tokens = continueTokens(model, prompt, options);
	for (const ids: number[] = [];;) {
		const { value, done } = await tokens.next();
		if (done) return { ids, reused: value.reusedTokens };
		ids.push(value.id);
	}
}

async function collect(model: ResidentModel, prompt: readonly number[], options: Options) {
	return (await generated(model, prompt, options)).ids;
}

for (const dynamic of [false, true]) {
	const config = dynamic ? { rope_scaling: { type: "dynamic", factor: 4 } } : {};
	const name = dynamic ? " with dynamic NTK" : "";
	Deno.test(`texts that share a start give the same tokens as texts of their own${name}`, async () => {
		using folder = new TemporaryFolder();
		const path = writeMicroModel(folder.file("m"), { layers: 1, maxLength: 24, config });
		using files = openModel(path);
		using model = await ResidentModel.load(gpu, files);
		const { maxLength } = files.architecture; // four times as much with dynamic NTK
		assert.equal(maxLength, dynamic ? 96 : 24);
		const memory: number[] = [];
		for (let round = 0; round < (dynamic ? 1 : 2); round++) {
			memory.push(gpu.memory.current);
			using caches = new PrefixCaches(model, 2);
			const run = async (prompt: number[], maxTokens: number) => {
				const { ids, reused } = await generated(model, prompt, { maxTokens, caches });
				assert.deepEqual(ids, await collect(model, prompt, { maxTokens }));
				return { reused, text: [...prompt, ...ids] };
			};
			const first = await run(idsOf(8, 1), 6);
			assert.equal(first.reused, 0);
			const second = await run([...first.text, ...idsOf(3, 2)], 4);
			assert.equal(second.reused, first.text.length - 1); // the last token was not run
			const other = await run(idsOf(9, 3), 3);
			assert.equal(other.reused, 0);
			const branch = await run([...first.text.slice(0, 5), ...idsOf(6, 4)], 3);
			assert.equal(branch.reused, 5, "the rest of the longer text stays");
			const again = await run([...second.text.slice(0, -2), 9], 2);
			assert.equal(again.reused, second.text.length - 2);
			const same = await run(second.text.slice(0, 10), 2);
			assert.equal(same.reused, 9, "one token is left to be run");
			if (dynamic) {
				const long = await run([...first.text, ...idsOf(20, 5)], 4);
				const further = await run([...long.text, 5], 3);
				assert.equal(further.reused, 0, "its keys have other positions");
				const short = await run(long.text.slice(0, 12), 2);
				assert(short.reused <= 11);
			}
			for await (const _ of continueTokens(model, first.text, { maxTokens: 4, caches })) break;
			const tooLong = generated(model, idsOf(maxLength + 1, 1), { caches });
			await assert.rejects(tooLong, /takes at most/);
			// However a text ends, its cache is given back.
			const held = [caches.take(idsOf(3, 6), 4), caches.take(idsOf(3, 6), 4)];
			assert.throws(() => caches.take([1], 2), /All KV caches are taken/);
			for (const one of held) one.release([]);
		}
		// The first round leaves what a device keeps: tables and constants.
		if (!dynamic) assert.equal(gpu.memory.current, memory[1]);
	});
}

Deno.test("a long prompt runs in turns; other texts run between them", async () => {
	using folder = new TemporaryFolder();
	const path = writeMicroModel(folder.file("m"), { layers: 1, maxLength: 1400, hidden: 32 });
	using files = openModel(path);
	using model = await ResidentModel.load(gpu, files);
	const prompt = idsOf(1200, 1);
	const alone = await collect(model, prompt, { maxTokens: 3, cache: "f32" });
	let turns = 0;
	const turn = <Result>(work: () => Promise<Result>) => {
		turns++;
		return work();
	};
	assert.deepEqual(await collect(model, prompt, { maxTokens: 3, turn }), alone);
	assert(turns >= 4, `${turns} turns`);
	const controller = new AbortController();
	const aborting = <Result>(work: () => Promise<Result>) => {
		controller.abort();
		return work();
	};
	const { signal } = controller;
	assert.deepEqual(await collect(model, prompt, { maxTokens: 3, turn: aborting, signal }), []);
	using small = new KeyValueCache(gpu, files.architecture, 5, "f32");
	await assert.rejects(
		collect(model, [1, 2, 3], { maxTokens: 4, kept: small }),
		new RangeError(
			"A cache of 5 tokens, 0 of them in use, cannot take a text of 6 whose prompt has 3",
		),
	);
});

Deno.test("log-probabilities sum to 1, whatever the size of the logits", () => {
	for (const [scale, shift] of [[1, 0], [30, 1e4], [1e-3, -1e4]]) {
		const logits = Float32Array.from(idsOf(50, 1), (id) => shift + scale * id / 4096);
		const of = logProbabilities(logits, 3);
		logits.fill(0); // later changes do not matter
		let sum = 0;
		for (let id = 0; id < 50; id++) sum += Math.exp(of(id).logprob);
		assert(Math.abs(sum - 1) < 1e-9);
		const { top } = of(0);
		const all = Array.from({ length: 50 }, (_, id) => of(id).logprob).sort((a, b) => b - a);
		assert.deepEqual(top.map(({ logprob }) => logprob), all.slice(0, 3));
		for (const { id, logprob } of top) assert.equal(of(id).logprob, logprob);
	}
});

Deno.test("stop texts are found wherever the pieces are cut, the first one counts", () => {
	const text = "abcabdabcabeab";
	const cases: [stops: string[], kept: string][] = [
		[["abe"], "abcabdabc"],
		[["dab", "bca"], "a"],
		[["abcabe"], "abcabd"],
		[["zz"], text],
		[["bb", "abx"], text],
		[[], text],
		[["a"], ""],
	];
	for (const [stops, kept] of cases) {
		for (let size = 1; size <= text.length; size++) {
			const scanner = new StopTexts(stops);
			let given = "";
			for (let at = 0; at < text.length && !scanner.found; at += size) {
				given += scanner.push(text.slice(at, at + size));
				assert(kept.startsWith(given), `${stops} in pieces of ${size}: ${given}`);
			}
			assert.equal(scanner.found, kept !== text);
			assert.equal(given + scanner.end(), kept);
		}
	}
});

Deno.test("the bytes of a text's tokens are those of the text", () => {
	const text = " A city — naïve 漢字 😀\n\tend";
	for (const family of ["llama", "opt"]) {
		const tokenizer = TextTokenizer.load(
			denoFolder(join(PROJECT, `examples/models/tiny-${family}`)),
		);
		const ids = tokenizer.encode(text, { specialTokens: false });
		const bytes = new Uint8Array(ids.flatMap((id) => [...tokenizer.bytesOf(id)]));
		assert.equal(new TextDecoder().decode(bytes), text);
		assert(ids.some((id) => new TextDecoder().decode(tokenizer.bytesOf(id)).includes("\ufffd")));
		assert.equal(new TextDecoder().decode(tokenizer.bytesOf(tokenizer.eosId!)), "</s>");
		assert.equal(tokenizer.bytesOf(1e6).length, 0);
	}
});
