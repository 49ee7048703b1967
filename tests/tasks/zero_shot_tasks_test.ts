// The commands that have to do with zero-shot tasks, in processes of their own.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import type { RunRecord } from "../../pipeline/run/record.ts";
import type { ZeroShot } from "../../models/metrics/figures.ts";
import { Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

Deno.test("quantize prints accuracies before and after with their errors", async () => {
	using place = new Workplace({ layers: 1 });
	const dataset = place.path("questions.jsonl");
	const rows = Array.from({ length: 6 }, (_, i) => ({
		query: `The door ${i} is`,
		choices: ["open", "closed again"],
		gold: i % 2,
	}));
	writeFileSync(dataset, rows.map((row) => JSON.stringify(row) + "\n").join(""));
	const tasks = ["hellaswag", "boolq"].map((task) => ({ task, dataset }));
	const evaluate = { "zero-shot": tasks, cache: false };
	const file = place.pipeline({
		stages: ["download", place.calibrate, "split-search", "pack", { evaluate }],
	});
	const { code, stdout, stderr } = await startTask("quantize", [file]);
	assert.deepEqual([code, stderr], [0, ""]);
	const record: RunRecord = JSON.parse(readFileSync(place.path("out/run.json"), "utf8"));
	const { original, packed } = record.evaluation!.zeroShot!;
	const percent = (value?: number) => (100 * value!).toFixed(2);
	const figures = (name: string, key: "acc" | "accNorm", i: number) =>
		`${name} ${percent(original[i][key])} -> ${percent(packed![i][key])} ± ` +
		`${percent(packed![i][`${key}Stderr` as keyof ZeroShot] as number)} %`;
	const lines = stdout.split("\n").filter((line) => line.startsWith("Zero-shot"));
	assert.deepEqual(lines, [
		`Zero-shot        hellaswag     ${figures("acc", "acc", 0)}, ${
			figures("acc_norm", "accNorm", 0)
		}`,
		`Zero-shot        boolq         ${figures("acc", "acc", 1)}`,
	]);
	assert.match(stdout, /^evaluate {3}acc of the packed model: [\d.]+ % ± [\d.]+ % on boolq, 6 /m);
});

Deno.test("bench:zero-shot measures windows, shared and separate contexts", async () => {
	const sizes = ["--hidden-size", "64", "--layers", "1", "--questions", "2"];
	const small = [...sizes, "--sequence-length", "16", "--batch-tokens", "256"];
	const { code, stdout, stderr } = await startTask("bench/zero_shot", [...small, "--json"]);
	assert.deepEqual([code, stderr], [0, ""]);
	const { like, layers, hiddenSize, figures } = JSON.parse(stdout);
	assert.deepEqual([like, layers, hiddenSize], ["llama-7b", 32, 64]);
	const [windows, shared, separate] = figures;
	assert.deepEqual([windows.name, shared.name, separate.name], ["windows", "shared", "separate"]);
	assert.equal(windows.tokens % 16, 0);
	assert(shared.tokens < separate.tokens);
	assert.equal(shared.separateTokens, separate.tokens);
	for (const { tokens, secondsOfLayer, secondsOfHead, ...rates } of figures) {
		assert.equal(rates.tokensPerSecondOfLayer, tokens / secondsOfLayer);
		assert.equal(rates.tokensPerSecond, tokens / (32 * secondsOfLayer + secondsOfHead));
	}
});
