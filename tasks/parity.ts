// Compares perplexities on WikiText-2 test with those of the released BiLLM program. The data and the
// expected figures are outside the project, in ../shared. Takes about an hour on two CPU cores; an
// interrupted run resumes.

import { existsSync, readFileSync } from "node:fs";
import { percentText } from "../base/units.ts";
import { loadPipeline } from "../pipeline/config/config.ts";
import { runPipeline } from "../report/run_with_report.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { showProgress } from "./progress.ts";
import { RESUMES, runTask } from "./task.ts";

/** Tolerances relative to the figures in NAME.expected.json; the default has none. */
const COMPARISONS = [
	{ model: "tiny-llama", variant: "no-compensation", within: 0.01 },
	{ model: "tiny-llama", variant: "hessian", within: 0.05 },
	{ model: "tiny-llama", variant: "magnitude", within: 0.05 },
	{ model: "tiny-llama", variant: "gptq-2bit", within: 0.1 }, // the loop amplifies rounding
	{ model: "tiny-llama", variant: "gptq-4bit", within: 0.01 },
	{ model: "tiny-llama", variant: "light" },
	{ model: "tiny-llama", variant: "default" },
	{ model: "tiny-opt", variant: "no-compensation", within: 0.05 },
	{ model: "tiny-opt", variant: "hessian", within: 0.15 },
	{ model: "tiny-opt", variant: "magnitude", within: 0.15 },
	{ model: "tiny-opt", variant: "gptq-2bit", within: 0.1 },
	{ model: "tiny-opt", variant: "gptq-4bit", within: 0.01 },
	{ model: "tiny-opt", variant: "light" },
	{ model: "tiny-opt", variant: "default" },
];
const EXPECTED_KEYS: Record<string, string> = {
	"no-compensation": "billm-hessian-no-compensation",
	hessian: "billm-hessian",
	magnitude: "billm-magnitude",
	"gptq-2bit": "2bit-rtn-in-gptq",
	"gptq-4bit": "4bit-in-gptq",
};
const FIXTURES = "../shared/fixtures/billm-reference";

await runTask(async (signal, watched) => {
	watched();
	if (!existsSync(FIXTURES)) {
		console.log(`Skipped: the expected figures are not there ("${FIXTURES}")`);
		return;
	}
	const rows: Record<string, unknown>[] = [];
	let failed = 0;
	const compare = (name: string, expected: number, found: number, within?: number) => {
		const ours = found.toFixed(2);
		if (within === undefined) {
			rows.push({ name, ours });
			return;
		}
		const off = found / expected - 1;
		const holds = Math.abs(off) <= within;
		failed += Number(!holds);
		rows.push({
			name,
			released: expected.toFixed(2),
			ours,
			difference: percentText(off, 2),
			allowed: `${100 * within} %`,
			holds,
		});
	};
	for (const { model, variant, within } of COMPARISONS) {
		const expected = JSON.parse(readFileSync(`${FIXTURES}/${model}.expected.json`, "utf8"));
		const config = await loadPipeline(`tests/parity/${model}-${variant}.yaml`, {
			stages: STAGES,
			recipes: RECIPES,
		});
		const progress = showProgress();
		const { evaluation } = await runPipeline(config, {
			signal,
			emit: progress,
			overwrite: false,
		});
		for (const { perplexity } of evaluation!.original) {
			compare(`${model} full precision`, expected.fp32[0], perplexity, 0.001);
		}
		const [{ perplexity }] = evaluation!.packed!;
		compare(`${model} ${variant}`, expected[EXPECTED_KEYS[variant]]?.[0], perplexity, within);
	}
	console.table(rows);
	if (failed > 0) Deno.exitCode = 1;
}, RESUMES);
