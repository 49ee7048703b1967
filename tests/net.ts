// Runs pipelines on micro models and prints, as JSON, hashes of what they leave. net_test.ts holds them
// against a fixture: `deno run -A tests/net.ts > tests/fixtures/net.json` makes it anew, and
// `deno run -A tests/fixture.ts tests/fixtures/net.json` compresses it.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { openGpu } from "../hosts/deno_gpu.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import {
	contents,
	type MicroModelOptions,
	type PipelineFields,
	type StageItem,
	Workplace,
} from "./micro_model.ts";

interface Pipeline {
	model?: MicroModelOptions;
	fields?: (place: Workplace) => PipelineFields;
	/** Interrupted once after this many layers. */
	interruptedAfter?: number;
}

const ODD: MicroModelOptions = { hidden: 72, intermediate: 90, heads: 4, dtype: "BF16" };

/** A chain with a method that puts weights on grids. */
function grids(method: StageItem, calibrated: boolean): Pipeline["fields"] {
	return (place) => ({
		stages: [
			"download",
			...(calibrated ? [place.calibrate, "hessian"] : []),
			method,
			"pack",
			place.evaluate,
		],
	});
}

/** Grids of the released programs. */
const PLAIN = { grid: "range", order: "none" };

/** What each takes through the program is different. */
const PIPELINES: Record<string, Pipeline> = {
	"billm": {},
	"billm, reference": { fields: () => ({ mode: "reference" }) },
	"billm, opt": { model: { family: "opt", layers: 2 } },
	"billm, odd widths, f16 activations, entropy, codes of 4 bits": {
		model: { ...ODD, layers: 2 },
		fields: (place) => ({
			gpu: { adapter: "software", memory: "1GB" },
			stages: [
				"download",
				place.calibrateWith({ activations: "f16", order: "layer" }),
				"hessian",
				"salient-select",
				{ "residual-binarize": { planes: 3 } },
				"split-search",
				"compensate",
				{ pack: { flags: "entropy", scales: "i4", embeddings: "stored" } },
				place.evaluate,
			],
		}),
	},
	"one plane, f16 scales": {
		model: { layers: 1 },
		fields: (place) => ({
			stages: [
				"download",
				place.calibrate,
				"hessian",
				"salient-select",
				{ pack: { scales: "f16" } },
				place.evaluate,
			],
		}),
	},
	"rtn": {
		model: ODD,
		fields: grids({ rtn: { bits: 3, "group-size": 32, grid: "range" } }, false),
	},
	"sign, opt": { model: { family: "opt", layers: 2 }, fields: grids("sign", false) },
	"gptq, 2 bits": { fields: grids({ gptq: { bits: 2, "group-size": 64, ...PLAIN } }, true) },
	"gptq, 4 bits a row, blocks": {
		model: { layers: 2 },
		fields: grids({ gptq: { bits: 4, "group-size": "row", feedback: "block", ...PLAIN } }, true),
	},
	"pb-llm": { model: { layers: 2 }, fields: grids({ "pb-llm": { grid: "mean" } }, true) },
	"rtn, searched": { model: ODD, fields: grids({ rtn: { bits: 3, "group-size": 32 } }, false) },
	"gptq, searched, columns by falling diagonal": {
		model: { layers: 2 },
		fields: grids({ gptq: { bits: 2, "group-size": 64, order: "falling" } }, true),
	},
	"gptq, one of two zeros, static": {
		model: { layers: 1 },
		fields: grids({ gptq: { bits: 3, zeros: "middle", order: "static" } }, true),
	},
	"billm, rotated, corrected, searched": {
		model: { ...ODD, hidden: 80, layers: 2 }, // 90 columns are not rotated
		fields: (place) => ({
			stages: [
				"download",
				place.calibrate,
				"rotate",
				"hessian",
				"propagate-error",
				{ "salient-select": { columns: 8 } },
				"residual-binarize",
				"split-search",
				{ compensate: { "block-size": 64 } },
				{ "row-search": { rounds: 1, moves: 0.5 } },
				"refit-norm",
				"pack",
				place.evaluate,
			],
		}),
	},
	"trellis, rotated, columns by falling diagonal": {
		model: { ...ODD, hidden: 80, layers: 2 },
		fields: (place) => ({
			stages: [
				"download",
				place.calibrateWith({ order: "module" }),
				"rotate",
				"hessian",
				"propagate-error",
				{ trellis: { bits: 2, table: 8 } },
				"pack",
				place.evaluate,
			],
		}),
	},
	"levels, 4": { model: { layers: 2 }, fields: grids("levels", true) },
	"levels, 5 of one scale, rotated, corrected": {
		model: { ...ODD, hidden: 80, layers: 2 }, // 90 columns are not rotated
		fields: (place) => ({
			stages: [
				"download",
				place.calibrate,
				"rotate",
				"hessian",
				"propagate-error",
				{ levels: { count: 5, pattern: "gaussian", rounds: 1, moves: 0.5 } },
				"pack",
				place.evaluate,
			],
		}),
	},
	"billm, resumed": { interruptedAfter: 2 },
	"billm, by the recipe light": {
		fields: (place) => ({
			recipe: "light",
			stages: {
				...place.calibrate as object,
				"split-search": { candidates: 9 },
				compensate: { "block-size": 32 },
				...place.evaluate as object,
			},
		}),
	},
};

async function run({ model, fields, interruptedAfter }: Pipeline) {
	using place = new Workplace(model);
	const wanted = fields?.(place);
	if (interruptedAfter !== undefined) {
		const controller = new AbortController();
		const report = ({ type }: { type: string }) => {
			if (type === "layer" && --interruptedAfter! === 0) controller.abort();
		};
		const run = place.run({ gpu: { adapter: "software" }, ...wanted }, {
			emit: report,
			signal: controller.signal,
		});
		await assert.rejects(run, { name: "AbortError" });
	}
	const { record } = await place.run({ gpu: { adapter: "software" }, ...wanted });
	const numbers = JSON.stringify(numbersOf(record));
	const files = contents(join(place.path("out"), "model"));
	const short = (hash: string) => hash.slice(0, 16); // 64 bits are enough to see a change
	return {
		files: Object.fromEntries(Object.entries(files).map(([name, hash]) => [name, short(hash)])),
		numbers: short(createHash("sha256").update(numbers).digest("hex")),
		bytes: record.packed!.bytes,
		loss: record.evaluation?.packed?.[0].loss,
	};
}

/** The numbers of a record that are no times, by the path of their keys. */
function numbersOf(record: RunRecord): Record<string, number> {
	const numbers: Record<string, number> = {};
	const visit = (value: unknown, path: string) => {
		if (typeof value === "number") numbers[path] = value;
		if (typeof value !== "object" || value === null) return;
		for (const [key, inner] of Object.entries(value)) {
			if (!key.startsWith("seconds")) visit(inner, path ? `${path}.${key}` : key);
		}
	};
	visit(record, "");
	return numbers;
}

const results: Record<string, unknown> = {};
for (const [name, pipeline] of Object.entries(PIPELINES)) results[name] = await run(pipeline);
await using gpu = await openGpu({ adapter: "software" });
console.log(JSON.stringify({ adapter: gpu.name, results }, null, 2));
