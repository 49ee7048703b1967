import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { generate, ResidentModel } from "../../models/generation/generation.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { Environment } from "../environment.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { Workplace } from "../micro_model.ts";

Deno.test("a run keeps how both models go on with the evaluation text, and nothing else changes", async () => {
	using place = new Workplace({ layers: 1 });
	using _ = new Environment({ BILLM_CACHE: place.path("cache") });
	const perplexity = [{ dataset: place.evaluation, "sequence-length": 64, windows: 2 }];
	const run = (output: string, options: Record<string, unknown>) =>
		place.run({
			output: place.path(output),
			stages: ["download", { rtn: { bits: 4 } }, "pack", { evaluate: { perplexity, ...options } }],
		});
	const { record: { evaluation, packed } } = await run("a", {});
	const { sample, ...figures } = evaluation!;

	using original = ModelFiles.open(denoFolder(place.model));
	const prompt = original.tokenizer.encode(readFileSync(place.evaluation, "utf8"))
		.slice(0, 24);
	assert.equal(sample!.prompt, original.tokenizer.decode(prompt));
	using quantized = ModelFiles.open(denoFolder(packed!.folder));
	await using gpu = await openGpu();
	for (
		const [model, said] of [[original, sample!.original], [quantized, sample!.packed]] as const
	) {
		using resident = await ResidentModel.load(gpu, model);
		let text = "";
		for await (const token of generate(resident, { prompt, maxTokens: 48 })) text += token.text;
		assert.equal(said, text);
		assert(text.length > 0);
	}

	// The second run takes the text of the original from the cache, and leaves it out if told so.
	const cached = () => readdirSync(place.path("cache", "figures")).map(String);
	assert.equal(cached().length, 2, "a perplexity and a text");
	const again = await run("b", {});
	assert.deepEqual(again.record.evaluation!.sample, sample);
	const without = (await run("c", { sample: false })).record.evaluation!;
	assert.equal(without.sample, undefined);
	const values = ({ original, packed }: typeof without) =>
		[original, packed].map((all) => all!.map(({ loss, divergence }) => [loss, divergence]));
	assert.deepEqual(values(without), values(figures as typeof without));
	const alone = (await run("d", { original: false })).record.evaluation!;
	assert.deepEqual(alone.sample, { prompt: sample!.prompt, packed: sample!.packed });
	assert.equal(cached().length, 2);

	assert.match(readFileSync(place.path("a", "report.html"), "utf8"), /Sample text/);
});
