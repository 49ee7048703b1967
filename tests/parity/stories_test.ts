// A really trained LLaMA of 260 K parameters against what an f64 program computes from it: logits,
// greedy continuation, perplexity. It lies outside the project; the test says so where it is missing.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { readText } from "~/data/texts.ts";
import { consecutiveWindows } from "~/data/windows.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { perplexity } from "~/models/metrics/perplexity.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { assertClose } from "../assert_close.ts";
import { LoadedModel } from "../models/loaded_model.ts";
import { openModel } from "../open.ts";

const FOLDER = "../shared/models";
const STORIES = "../shared/data/tinystories/tinystories_val_1k.txt";
const WIKITEXT = "../shared/data/wikitext2/wiki.test.raw";
const GOLDEN = `${FOLDER}/stories260K-golden.json`;

interface Golden {
	prompt: string;
	prompt_ids: number[];
	/** Logits after the prompt, to five digits. */
	last_logits_f64_rounded: number[];
	/** The prompt and 100 more. */
	greedy_ids_100: number[];
	[perplexity: `ppl ${string}`]: { tokens_total: number; mean_nll: number };
}

const there = [GOLDEN, STORIES, WIKITEXT].every((path) => existsSync(path));

/** The same tokens for both models: their tokenizers are the same. */
const texts = new Map<string, Int32Array[]>();

function windows(path: string, folder: string, count: number, total: number): Int32Array[] {
	let found = texts.get(path);
	if (!found) {
		// The WikiText file as it is: its rows are not joined anew.
		const text = path === WIKITEXT ? readFileSync(path, "utf8") : readText(path);
		const ids = TextTokenizer.load(denoFolder(folder)).encode(text);
		assert.equal(ids.length, total, `tokens of "${path}"`);
		found = consecutiveWindows(ids, 512, { limit: count });
		texts.set(path, found);
	}
	return found;
}

for (const name of ["stories260K-hf", "stories260K-hf-bf16-sharded"]) {
	const test = (what: string, fn: () => Promise<void>) =>
		Deno.test({ name: `${name}: ${what}${there ? "" : " (needs ../shared)"}`, ignore: !there, fn });
	const folder = `${FOLDER}/${name}`;
	const read = (): Golden => JSON.parse(readFileSync(GOLDEN, "utf8"))[name];

	test("the prompt's ids, the logits after it and the greedy ids", async () => {
		const golden = read();
		await using gpu = await openGpu();
		using loaded = await LoadedModel.open(gpu, folder);
		const { tokenizer } = loaded.model;
		const prompt = tokenizer.encode(golden.prompt);
		assert.deepEqual(prompt, golden.prompt_ids);

		const all = Int32Array.from(golden.greedy_ids_100);
		assert.equal(all.length, prompt.length + 100);
		const logits = await loaded.logits([all]);
		const rows = Array.from(all, (_, token) => logits.subarray(token * 512, (token + 1) * 512));
		// Five layers in f32, logits up to 10 in magnitude; the expected ones have five digits.
		assertClose(rows[prompt.length - 1], golden.last_logits_f64_rounded, {
			abs: 1e-4,
			what: "logits after the prompt",
		});
		// A token depends only on those before it. So if after each of them the greatest logit is
		// that of the next, generating them one by one gives the same.
		const next = rows.map((row) => row.indexOf(Math.max(...row)));
		assert.deepEqual(next.slice(prompt.length - 1, -1), [...all.subarray(prompt.length)]);
	});

	for (
		const [path, key, count] of [
			[STORIES, "ppl tinystories_val_1k.txt seqlen=512 windows=100", 100],
			[WIKITEXT, "ppl wiki.test.raw (whole file) seqlen=512 windows=40", 40],
		] as const
	) {
		test(key, async () => {
			const golden = read()[`${key} (nll over L-1 targets per window)`];
			await using gpu = await openGpu();
			using model = openModel(folder);
			const { loss } = await perplexity(gpu, model, {
				windows: windows(path, folder, count, golden.tokens_total),
				dataset: path,
			});
			// Deviations of single tokens cancel out; the expected mean has six digits.
			assertClose([loss], [golden.mean_nll], { abs: 1e-5, what: "mean loss in nats" });
		});
	}
}
