import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bytesText } from "../../base/units.ts";
import { scaledShapes, SHAPES } from "../../models/synthetic.ts";
import { loadPipeline } from "../../pipeline/config/config.ts";
import { runPipeline } from "../../pipeline/run/run.ts";
import { RECIPES, STAGES } from "../../stages/mod.ts";
import { count, runCommand, usageErrors } from "../task.ts";
import { writeSyntheticModel, writeSyntheticTokens } from "../write_synthetic.ts";

const HELP = `Usage: deno task bench:layer [--like NAME] [options]

Quantizes decoder layers of random weights in the shapes of a known model. Prints the GPU seconds
of each stage in the last layer, when all kernels are compiled, and the wall-clock time of the
layer. NAME is one of ${Object.keys(SHAPES).join(", ")}.

Options
  --like NAME           Model whose shapes are used (llama-7b)
  --hidden-size N       Another hidden size; the other sizes scale with it
  --layers N            Decoder layers to quantize (2)
  --samples N           Calibration windows (128)
  --sequence-length N   Tokens per window (2048)
  --recipe NAME         ${RECIPES.map(({ name }) => name).join(", ")} (default)
  --set PATH=VALUE      An option, such as stages.row-search.rounds=3; may be repeated
  --activations DTYPE   f32 or f16
  --memory SIZE         Limit of GPU memory, such as 12GB
  --json                Print the figures as JSON
  --help                Print this
`;

/** Stages in the order of execution, with a description. */
const PARTS: [stage: string, text: string][] = [
	["calibrate", "forward"],
	["rotate", "rotated inputs and weights"],
	["hessian", "Hessians"],
	["propagate-error", "original stream, correction"],
	["factor", "factors of the inverse Hessians"],
	["salient-select", "salient columns"],
	["residual-binarize", "bit planes of salient columns"],
	["split-search", "zones of the other columns"],
	["compensate", "bits, error to later columns"],
	["arb", "scales and bits in turns"],
	["hbllm", "Haar coefficients"],
	["row-search", "refits, search over rows"],
	["gptq", "codes, error to later columns"],
	["levels", "levels, codes, search over rows"],
	["rtn", "codes"],
	["output-error", "output error"],
	["pack", "readback, packing, writing"],
];

const usageError = usageErrors("bench:layer");

const command = {
	name: "bench:layer",
	help: HELP,
	options: {
		"like": { type: "string" },
		"hidden-size": { type: "string" },
		"layers": { type: "string" },
		"samples": { type: "string" },
		"sequence-length": { type: "string" },
		"recipe": { type: "string" },
		"set": { type: "string", multiple: true },
		"activations": { type: "string" },
		"memory": { type: "string" },
		"json": { type: "boolean" },
	},
	takesArguments: false,
} as const;

await runCommand(command, async ({ values, signal }) => {
	const { like = "llama-7b", recipe = "default", activations = "f32", memory, set = [] } = values;
	if (!Object.hasOwn(SHAPES, like)) {
		throw usageError(`--like must be one of ${Object.keys(SHAPES).join(", ")}, found "${like}"`);
	}
	const samples = count(usageError, "--samples", values.samples, 128);
	const length = count(usageError, "--sequence-length", values["sequence-length"], 2048);
	const layers = count(usageError, "--layers", values.layers, 2);
	const hiddenSize = count(usageError, "--hidden-size", values["hidden-size"], 0);
	const folder = mkdtempSync(join(tmpdir(), "billm-bench-"));
	try {
		const shapes = hiddenSize > 0 ? scaledShapes(SHAPES[like], hiddenSize) : SHAPES[like];
		const vocabulary = shapes.vocab_size as number;
		const model = join(folder, "model");
		const dataset = join(folder, "token_ids.safetensors");
		writeSyntheticModel(model, { ...shapes, num_hidden_layers: layers }, 0);
		writeSyntheticTokens(dataset, { samples, length, vocabulary, seed: 0 });
		const calibrate = { dataset, samples, "sequence-length": length, activations };
		const file = join(folder, "pipeline.yaml");
		const output = join(folder, "out");
		const gpu = memory ? { memory } : {};
		const stages = recipe === "rtn" ? {} : { calibrate };
		writeFileSync(file, JSON.stringify({ name: "layer", model, output, gpu, recipe, stages }));
		const config = await loadPipeline(file, { stages: STAGES, recipes: RECIPES, sets: set });
		const record = await runPipeline(config, { signal });
		const { adapter, peakGpuBytes = 0 } = record;
		const last = record.layers!.at(-1)!;
		const figures = {
			adapter,
			deno: Deno.version.deno,
			like,
			hiddenSize: shapes.hidden_size,
			samples,
			sequenceLength: length,
			recipe,
			set,
			activations,
			secondsOfLayer: last.seconds,
			secondsByStage: last.secondsByStage,
			peakGpuBytes,
		};
		if (values.json) {
			console.log(JSON.stringify(figures));
			return;
		}
		console.log(
			`${adapter}, Deno ${Deno.version.deno}: a layer of ${like}` +
				`${hiddenSize ? ` ${hiddenSize} wide` : ""}, ${samples} windows of ${length} tokens, ` +
				`recipe ${[recipe, ...set].join(", ")}, activations in ${activations}`,
		);
		for (const [stage, text] of PARTS) {
			const seconds = last.secondsByStage[stage];
			if (seconds !== undefined) {
				console.log(`${stage.padEnd(18)} ${text.padEnd(30)} ${seconds.toFixed(2).padStart(6)} s`);
			}
		}
		const all = SHAPES[like].num_hidden_layers as number;
		const line = (text: string, figure: string) => console.log(`${text.padEnd(49)} ${figure}`);
		line("layer, wall-clock time", `${last.seconds.toFixed(2).padStart(6)} s`);
		line(`${all} such layers`, `${(last.seconds * all).toFixed(0).padStart(6)} s`);
		line("Peak GPU memory", bytesText(peakGpuBytes).padStart(8));
	} finally {
		rmSync(folder, { recursive: true });
	}
});
