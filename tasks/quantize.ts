import { existsSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { UserError } from "../base/errors.ts";
import { listed } from "../base/figures.ts";
import { bytesText, percentText } from "../base/units.ts";
import { type Gpu, NoAdapter } from "../gpu/device.ts";
import { openGpu } from "../hosts/deno_gpu.ts";
import { ModelFiles, readConfig } from "../models/model_files.ts";
import { needsOf, type PipelineConfig } from "../pipeline/config/config.ts";
import { chooseCell } from "../pipeline/grid/grid.ts";
import { loadGrid, type RunCell, type RunGrid } from "../pipeline/grid/load_grid.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import { checkStages, gpuOptions, type RunOptions } from "../pipeline/run/run.ts";
import { runGrid, runPipeline } from "../report/run_with_report.ts";
import type { Stage } from "../pipeline/stage.ts";
import { checkPurpose } from "../stages/check_purpose.ts";
import { pairsIn } from "../stages/metrics/metric.ts";
import { METRICS } from "../stages/metrics/mod.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { expectedSize } from "../stages/rate_plan.ts";
import { checkNeeds, needsText, quantizes, runNeeds } from "../stages/run_needs.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { refuseOtherThanModel } from "../storage/model_folder.ts";
import { cellsText, resultsText } from "./grid_text.ts";
import { runName, windowLength } from "./pipeline_of_model.ts";
import { printLabelled, showJson, showProgress } from "./progress.ts";
import {
	checkPipelineArguments,
	commandName,
	importStage,
	isModel,
	RESUMES,
	runCommand,
	usageErrors,
} from "./task.ts";

/** The rates of the recipes that are named after theirs. */
const RATES = RECIPES.flatMap(({ name }) => name.match(/^([\d.]+)-bit$/)?.[1] ?? []);

/** Names with their summaries, one per line. */
function listText(items: readonly { name: string; summary: string }[]): string {
	return items.map(({ name, summary }) => `  ${name.padEnd(18)} ${summary}`).join("\n");
}

const HELP = `Usage: deno task quantize PIPELINE.yaml [options]
       deno task quantize MODEL [--bits BITS] [options]

Runs a pipeline file: reads the model, calibrates, quantizes, packs and evaluates. The same
command resumes an interrupted run.

A file with "matrix" is a grid: its cells run one after another, each in its own folder in the
output folder. Finished cells are skipped. A cell that fails does not stop the others.

No file is needed: MODEL, a folder or a name on the hub, is quantized by the recipe of its bits,
calibrated and evaluated on WikiText-2, into out/MODEL-BITS-bit.

Options
  --bits BITS        Bits per weight of the linear layers of a model: ${listed(RATES, "or")} (2)
  --set PATH=VALUE   Override a value of the file (repeatable):
                     --set stages.calibrate.samples=16 --set mode=reference
                     With a recipe, also --set recipe=NAME, --set stages.NAME=false to leave out a
                     stage and --set stages.NAME={} to add one
  --cell CELL        Run one cell of a grid, by number, such as 3/12, or by name (repeatable). A
                     file without "matrix" counts as a grid of one cell
  --check            Check the file without running it, and print the plan or the cells of a grid;
                     modules that it names with "use:" are loaded, which runs their code
  --json             Print events as JSON, one per line
  --overwrite        Replace what a different run left in the output folder
  --help             Print this

A path that begins with ~ is in your home.

Exit codes: 0 done, 1 failed (in a grid: at least one cell), 2 bad pipeline file or arguments, 70 a
fault of this program (BILLM_TRACE=1 prints where), 130 interrupted.

Recipes, as recipe: NAME in place of a list of stages
${listText(RECIPES)}

Stages
${listText(STAGES.filter(({ completes }) => !completes))}
`;

const options = {
	bits: { type: "string" },
	set: { type: "string", multiple: true },
	cell: { type: "string", multiple: true },
	check: { type: "boolean" },
	json: { type: "boolean" },
	overwrite: { type: "boolean" },
} as const;

await runCommand(
	{ name: "quantize", help: HELP, options, interrupted: RESUMES },
	async ({ values, positionals, signal }) => {
		const usageError = usageErrors("quantize");
		const isOne = positionals.length === 1;
		const { bits = isOne && isModel(positionals[0]) ? "2" : undefined } = values;
		if (bits === undefined) checkPipelineArguments(usageError, positionals, values.set);
		if (!isOne) {
			throw usageError(
				`Give one pipeline file or one model, found ${positionals.length}; ` +
					`${commandName("quantize")} --help prints the usage`,
			);
		}
		const [given] = positionals;
		const ofBits = bits === undefined ? undefined : pipelineOfBits(given, bits);
		const grid = await loadGrid(ofBits?.name ?? given, {
			stages: STAGES,
			recipes: RECIPES,
			sets: values.set,
			importStage,
			...(ofBits && { text: ofBits.text }),
		});
		const cells = values.cell?.map((cell) => chooseCell(grid.cells, cell));
		for (const { config } of cells ?? grid.cells) {
			checkPurpose(config);
			checkStages(config.stages);
		}
		const emit = values.json ? showJson() : showProgress();
		const runOptions = { emit, signal, overwrite: values.overwrite };
		if (grid.hasMatrix || cells) {
			if (values.check) printCells(grid, cells, values.json);
			else await quantizeCells(grid, cells, values.json, runOptions);
			return;
		}
		const config = { ...grid.cells[0].config, output: grid.output };
		if (values.check) {
			console.log(
				values.json ? JSON.stringify(planOf(config)) : `${planText(config)}\n${sizeLine(config)}`,
			);
			if (!values.json) await printNeeds(config);
			return;
		}
		const record = await runPipeline(config, runOptions);
		if (values.json) console.log(JSON.stringify({ type: "record", ...record }));
		else printLabelled(summary(record, config.output));
	},
);

/**
 * The pipeline that quantizes a model by the recipe of some bits.
 *
 * @returns Its text, and its name in messages.
 * @throws {PipelineFileError} If there is no such recipe, or the model is a pipeline file.
 */
function pipelineOfBits(model: string, bits: string): { name: string; text: string } {
	const usageError = usageErrors("quantize");
	if (!RATES.includes(bits)) {
		throw usageError(
			`--bits must be ${listed(RATES, "or")}, found ${JSON.stringify(bits)}; for 4 or more bits ` +
				"write a file with recipe: gptq",
		);
	}
	if (/\.ya?ml$/i.test(model)) {
		throw usageError(
			`--bits takes a model, found the pipeline file "${model}"; give the model, or leave --bits out`,
		);
	}
	if (existsSync(model) || !HUB_ID.test(model)) refuseOtherThanModel(model);
	const recipe = `${bits}-bit`;
	const name = runName(model, recipe);
	const isThere = existsSync(join(model, "config.json"));
	const length = windowLength(isThere ? readConfig(denoFolder(model)).architecture : undefined);
	const text = stringify({
		name,
		model,
		recipe,
		stages: {
			calibrate: { dataset: "wikitext2", "sequence-length": length },
			evaluate: { perplexity: [{ dataset: "wikitext2", "sequence-length": length }] },
		},
	});
	return { name: `${model} --bits ${bits}`, text };
}

function printCells(
	grid: RunGrid<Stage>,
	chosen: RunCell<Stage>[] | undefined,
	json: boolean | undefined,
): void {
	const cells = chosen ?? grid.cells;
	if (json) {
		const plans = cells.map(({ name, index, values, config }) => ({
			cell: name,
			index,
			values,
			plan: planOf(config),
		}));
		const { name, output } = grid;
		console.log(JSON.stringify({ name, output, count: grid.cells.length, cells: plans }));
	} else if (chosen) console.log(chosen.map(({ config }) => planText(config)).join("\n\n"));
	else console.log(cellsText(grid));
}

/** @throws {UserError} If a cell failed. */
async function quantizeCells(
	grid: RunGrid<Stage>,
	cells: RunCell<Stage>[] | undefined,
	json: boolean | undefined,
	options: RunOptions,
): Promise<void> {
	const results = await runGrid(grid, options, cells);
	const [{ run }] = results;
	if (json) results.forEach((result) => console.log(JSON.stringify({ type: "result", ...result })));
	else if (results.length === 1 && run) {
		const [cell] = cells ?? grid.cells;
		printLabelled(summary(run, cell.config.output));
	} else console.log(`\n${resultsText(results)}`);
	const failed = results.filter(({ record }) => record.status === "failed");
	if (failed.length === 0) return;
	const what = results.length === 1 ? "The cell" : `${failed.length} of ${results.length} cells`;
	throw new UserError(`${what} failed; the same command retries unfinished cells`);
}

function planOf(config: PipelineConfig<Stage>) {
	const stages = config.stages.filter(({ implied }) => !implied)
		.map(({ stage: { name, scope }, options }) => ({ name, scope, options }));
	const { name, model, output, mode, seed, recipe } = config;
	return { name, model, output, mode, seed, recipe, stages };
}

function planText(config: PipelineConfig<Stage>): string {
	const plan = planOf(config);
	const lines = [
		`${config.file} is valid (model and data not checked).`,
		`name ${plan.name}, model ${plan.model}, output ${plan.output}, mode ${plan.mode}, ` +
		`seed ${plan.seed}${plan.recipe === undefined ? "" : `, recipe ${plan.recipe}`}`,
	];
	for (const { name, scope, options } of plan.stages) {
		const text = Object.entries(options)
			.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ");
		lines.push(`  once per ${scope}`.padEnd(18) + `${name.padEnd(18)} ${text}`);
		const { stage } = config.stages.find(({ stage }) => stage.name === name)!;
		const flow = [["takes", needsOf(stage, options)], ["gives", stage.gives]] as const;
		const flowText = flow.filter(([, names]) => names.length > 0)
			.map(([verb, names]) => `${verb} ${names.join(", ")}`).join("; ");
		if (flowText) lines.push(" ".repeat(20) + flowText);
	}
	for (const { where, name, path, places } of config.absent) {
		if (existsSync(path)) continue;
		const rest = name === "model" && HUB_ID.test(path) ? ", so it is sought on the hub" : "";
		lines.push(`Not there now: ${name} "${path}" (${where}); ${places}${rest}`);
	}
	return lines.join("\n");
}

/** What is known of the size of the packed model. */
function sizeLine({ model, stages }: PipelineConfig<Stage>): string {
	if (!existsSync(join(model, "config.json"))) {
		return "Size: known once the model is there";
	}
	using files = ModelFiles.open(denoFolder(model));
	const size = expectedSize(files, stages);
	if (!size) return "Size: not known before the run with these stages";
	const { bytes: [least, most], bits: [fewest, greatest] } = size;
	const range = (a: string, b: string) => a === b ? a : `${a} to ${b}`;
	return `Size: weight files of ${range(bytesText(least), bytesText(most))} at most, ` +
		`${range(fewest.toFixed(2), greatest.toFixed(2))} bits per weight of the linear layers`;
}

/**
 * Prints what the run will take.
 *
 * @throws {UserError} If that is more than there is.
 */
async function printNeeds(
	config: PipelineConfig<Stage>,
) {
	const { model, stages, output } = config;
	if (!quantizes(stages) || !existsSync(join(model, "config.json"))) return;
	using files = ModelFiles.open(denoFolder(model));
	let gpu: Gpu;
	try {
		gpu = await openGpu(gpuOptions(config));
	} catch (error) {
		if (!(error instanceof NoAdapter)) throw error;
		console.log(
			`Needs: ${needsText(await runNeeds(files, stages))}\n(no GPU here: ${error.message})`,
		);
		return;
	}
	await using device = gpu;
	const needs = await runNeeds(files, stages, device);
	console.log(`Needs: ${needsText(needs)}`);
	await checkNeeds(needs, device, { name: model, output });
}

/** The lines that summarize a finished run. */
function summary(
	{ packed, evaluation, peakGpuBytes, stages }: RunRecord,
	output: string,
): string[] {
	const lines: string[] = [""];
	const label = (text: string) => text.padEnd(17);
	if (packed) {
		const share = percentText(packed.bytes / packed.originalBytes);
		const what = "signs" in packed.storedBitsByPart ? "signs" : "codes";
		lines.push(
			label("Size") + `${bytesText(packed.bytes)} in total, ${share} of ` +
				`${bytesText(packed.originalBytes)}, ` +
				`${(packed.originalBytes / packed.bytes).toFixed(1)} times smaller (embeddings and head ${
					tablesText(stages)
				})`,
			label("Paper bits") + `${packed.paperBits.toFixed(2)} per weight of the linear layers ` +
				`(${what} only)`,
			label("Stored bits") + `${packed.storedBits.toFixed(2)} per weight of the linear layers: ` +
				Object.entries(packed.storedBitsByPart)
					.map(([part, bits]) => `${part} ${bits.toFixed(3)}`).join(", "),
		);
	}
	for (const metric of METRICS) {
		const { name, line } = metric.terminal;
		lines.push(...pairsIn(metric, evaluation).map((pair) => label(name) + line(pair)));
	}
	if (peakGpuBytes) lines.push(label("Peak GPU memory") + bytesText(peakGpuBytes));
	const report = join(output, "report.html");
	if (existsSync(report)) lines.push(label("Report") + report);
	if (packed) {
		const command = commandName(`generate ${output} --prompt "Once upon a time" --temperature 0.8`);
		lines.push(label("Try it") + command);
	}
	return lines;
}

/** The form in which `pack` stored embeddings and head. */
function tablesText(stages: RunRecord["stages"]): string {
	const options = stages.find(({ name }) => name === "pack")?.options as { embeddings?: unknown };
	const { embeddings = "stored" } = options ?? {};
	return embeddings === "stored" ? "as in the original" : `in ${embeddings} bits`;
}
