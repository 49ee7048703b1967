// Families with experts against what transformers computes; see tests/fixtures/experts.py.

import assert from "node:assert/strict";
import { continueTokens, ResidentModel } from "~/models/generation/generation.ts";
import { assertClose } from "../../assert_close.ts";
import { fixture } from "../../fixture.ts";
import { gpu } from "../../gpu/gpu.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { LoadedModel } from "../loaded_model.ts";
import { EXPERT_MODELS, TEXT, writeExpertModel } from "./expert_models.ts";

interface Golden {
	/** Logits and hidden states after the first layer of some tokens, row after row. */
	logits: number[];
	hidden: number[];
	/** Ids behind the first four of the text. */
	greedy: number[];
}

const GOLDENS = fixture<Record<string, Golden>>("experts");
const TOKENS = [3, 9, 15];

function rowsOf(values: Float32Array): number[] {
	const width = values.length / TEXT.length;
	return TOKENS.flatMap((token) => [...values.subarray(token * width, (token + 1) * width)]);
}

for (const name of Object.keys(EXPERT_MODELS)) {
	Deno.test(`${name} with experts computes what transformers does`, async () => {
		using folder = new TemporaryFolder();
		writeExpertModel(folder.path, name);
		const { logits, hidden, greedy } = GOLDENS[name];
		using loaded = await LoadedModel.open(gpu, folder.path);
		assertClose(rowsOf(await loaded.logits([TEXT])), logits, { abs: 3e-4, what: "logits" });
		const after = await loaded.forward([TEXT], (hidden) => gpu.read(hidden), 1);
		const spread = Math.hypot(...hidden) / Math.sqrt(hidden.length);
		assertClose(rowsOf(after), hidden, {
			abs: 3e-4 * Math.max(1, spread),
			what: "hidden states after the first layer",
		});
		using resident = await ResidentModel.load(gpu, loaded.model);
		const ids: number[] = [];
		const prompt = [...TEXT.subarray(0, 4)];
		for await (const { id } of continueTokens(resident, prompt, { maxTokens: greedy.length })) {
			ids.push(id);
		}
		assert.deepEqual(ids, greedy);
	});
}
