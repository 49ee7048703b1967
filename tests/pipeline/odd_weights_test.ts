// Weights of zeros, a weight of 1e30, and weights beyond f16, in each method: no figure of a record or page is
// NaN or infinite, and what changes nothing of the function changes nothing of the result.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";
import { endsWell } from "../mutations.ts";

const CHAINS: Record<string, (place: Workplace) => StageItem[]> = {
	"BiLLM, f16": (place) => [
		...place.method.slice(1, -2),
		{ "row-search": { rounds: 1, moves: 0.5 } },
		{ pack: { scales: "f16" } },
	],
	"BiLLM, rotated and corrected": (place) => [
		place.calibrate,
		"rotate",
		"hessian",
		"propagate-error",
		"salient-select",
		"residual-binarize",
		{ "split-search": { candidates: 9 } },
		{ compensate: { "block-size": 32 } },
		"refit-norm",
		"pack",
	],
	"rtn": () => [{ rtn: { bits: 4, "group-size": 32 } }, "pack"],
	"gptq": (place) => [place.calibrate, "hessian", { gptq: { bits: 3 } }, "pack"],
	"pb-llm": (place) => [place.calibrate, "hessian", "pb-llm", "pack"],
	"sign": () => ["sign", "pack"],
	"levels": (place) => [place.calibrate, "rotate", "hessian", { levels: { rounds: 1 } }, "pack"],
	"trellis": (place) => [
		place.calibrate,
		"rotate",
		"hessian",
		{ trellis: { bits: 2, table: 8 } },
		"pack",
	],
};

const odd: MicroModelOptions["alter"] = (tensors) => {
	for (const [name, { values }] of tensors) {
		if (/layers\.0\..*_proj/.test(name)) values.fill(0);
		if (/layers\.1\..*q_proj/.test(name)) values[5] = 1e30;
	}
};

const scaled: MicroModelOptions["alter"] = (tensors) => {
	for (const [name, { values }] of tensors) {
		const factor = name.includes("v_proj") ? 2 ** 23 : name.includes("o_proj") ? 2 ** -23 : 1;
		values.forEach((value, i) => values[i] = value * factor);
	}
};

for (const [name, chain] of Object.entries(CHAINS)) {
	Deno.test(`odd weights: ${name}`, async () => {
		const run = async (alter?: MicroModelOptions["alter"], layers = 1) => {
			using place = new Workplace({ layers, dtype: "F32", alter });
			const stages = ["download", ...chain(place), place.evaluate];
			const { record } = await place.run({ stages });
			for (const file of ["run.json", "histograms.json", "report.html"]) {
				const text = readFileSync(place.path("out", file), "utf8");
				assert.doesNotMatch(text, /\bNaN\b|\bInfinity\b|[:,[]\s*null\b/, file);
			}
			const { loss, perplexity } = record.evaluation!.packed![0];
			assert.ok(Number.isFinite(perplexity));
			return loss;
		};
		await endsWell("odd weights", () => run(odd, 2));
		if (["rtn", "gptq"].includes(name)) return; // scale_linears_test.ts scales their weights
		const [usual, other] = [await run(), await run(scaled)];
		assert.ok(Math.abs(other - usual) < 1e-4, `${other} instead of ${usual}`);
	});
}
