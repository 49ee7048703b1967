import assert from "node:assert/strict";
import { contents, type StageItem, Workplace } from "../micro_model.ts";

/** The widest Hessian takes four times as much. */
const BINDING = 65536;

/** A layer of 256 columns at the most, and batches whose logits fit into a kernel's bindings. */
const WIDE = { layers: 1, intermediate: 256 };

const CHAINS: Record<string, (place: Workplace) => StageItem[]> = {
	"BiLLM with correction, rotation and search": (place) => [
		place.calibrate,
		"rotate",
		"hessian",
		"propagate-error",
		{ "salient-select": { columns: 4 } },
		"residual-binarize",
		{ "split-search": { candidates: 9 } },
		"compensate",
		{ "row-search": { moves: 0.1 } },
	],
	"a trellis": (place) => [place.calibrate, "rotate", "hessian", "propagate-error", "trellis"],
	"levels": (place) => [
		place.calibrate,
		"rotate",
		"hessian",
		{ levels: { count: 4, rounds: 1, sweeps: 1, moves: 0.1 } },
		"refit-norm",
	],
	"GPTQ": (place) => [place.calibrate, "hessian", { gptq: { bits: 3, "group-size": 32 } }],
	"PB-LLM": (place) => [place.calibrate, "hessian", "pb-llm"],
};

for (const [name, stages] of Object.entries(CHAINS)) {
	Deno.test(`bindings far smaller than matrices give the same bytes: ${name}`, async () => {
		using place = new Workplace(WIDE);
		const { evaluate } = place.evaluateWith({}) as { evaluate: Record<string, unknown> };
		const all = [
			"download",
			...stages(place),
			"pack",
			{ evaluate: { ...evaluate, "batch-tokens": 32 } },
		];
		const run = async (output: string) => {
			const { record } = await place.run({ stages: all, output: place.path(output) });
			const [{ loss, divergence }] = record.evaluation!.packed!;
			return { files: contents(place.path(output, "model")), loss, kl: divergence!.kl };
		};
		const whole = await run("whole");
		Deno.env.set("BILLM_BINDING", `${BINDING}`);
		try {
			const panels = await run("panels");
			assert.deepEqual(panels.files, whole.files);
			// The head comes in smaller parts, whose sums round differently.
			assert.ok(Math.abs(panels.loss - whole.loss) < 1e-5 && Math.abs(panels.kl - whole.kl) < 1e-5);
		} finally {
			Deno.env.delete("BILLM_BINDING");
		}
	});
}
