import { LayerPlan } from "../models/layer_plan.ts";
import { roleOf } from "../models/ops/experts.ts";
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { counted, listed, sum } from "../base/figures.ts";
import { BYTES_PATTERN } from "../base/units.ts";
import { pathOption, PATHS } from "../pipeline/config/json_schema.ts";
import { SENSITIVITIES } from "../pipeline/run/run_folder.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";
import { chooseCandidates } from "./allocation.ts";
import { measureLosses } from "./measure_losses.ts";
import type { PackOptions } from "./pack.ts";
import {
	type Chain,
	chainOf,
	type RatedLinear,
	ratedLinears,
	targetIn,
	targetOf,
} from "./rate_plan.ts";
import { secondsPerToken } from "./run_needs.ts";
import { type MeasuredChain, readSensitivities, writeSensitivities } from "./sensitivities.ts";

const optionsForm = z.strictObject({
	"target-bits": z.number().gt(0).max(16).optional().describe(
		"Stored bits per weight of the linear layers to stay below; either this or target-size",
	),
	"target-size": z.string().regex(BYTES_PATTERN, 'must be like "60MB" or "1.5GB"').optional()
		.describe(
			"Size of the packed model's weight files to stay below, with embeddings and head as pack " +
				"stores them",
		),
	"windows": z.int().min(1).max(4096).optional().describe(
		"Calibration windows on which predictions are compared; default 6, or 3 in cheap",
	),
	"candidates": z.array(z.number()).min(2).optional().describe(
		"Rates to choose from, as values of the option of the stage that quantizes (bits, or count of " +
			"levels); default all of the stage",
	),
	"sensitivities": pathOption.optional().describe(
		"A file of what was measured: read if it exists and fits, else written; default in the run's folder",
	).register(PATHS, { isPath: true, mayLack: true }),
	"mode": z.enum(["full", "cheap"]).default("full").describe(
		"full: each linear layer is measured at each rate; cheap: at one rate, and the others are " +
			"estimated by the ratio of their output errors in every fourth decoder layer",
	),
}).refine(
	(options) => (options["target-bits"] === undefined) !== (options["target-size"] === undefined),
	{ path: ["target-bits"], message: "must stand alone, or target-size in its place: one of them" },
);

type Options = z.output<typeof optionsForm>;

/** Rates of most stages that quantize. */
const USUAL_RATES = 4;

/** The windows that are compared, if the options name no number. */
const WINDOWS = { full: 6, cheap: 3 };

/**
 * The stage that chooses how many bits each linear layer gets from the stage that quantizes. It measures
 * how much the predictions lose if one linear layer alone is quantized, at each rate, and chooses the
 * rates that lose least in sum within a target of bits.
 */
export const allocate = defineStage({
	name: "allocate",
	scope: "model",
	summary: "Choose the bits of each linear layer by what the predictions lose",
	options: optionsForm,
	needs: ["model-files", "calibration"],
	gives: ["allocation"],
	excludes: ["allocation", "block-error", "packed-model"],

	async check(context, options) {
		planOf(context, options);
	},

	/** Each linear layer at each rate is followed by the layers behind it, half of all in the mean. */
	async plan(context, { mode, windows = WINDOWS[mode], candidates }) {
		const model = context.get("model-files");
		const { layers, head } = await secondsPerToken(context.gpu, model);
		const { options } = context.stages.find(({ stage }) => stage.name === "calibrate")!;
		const linears = sum(
			Array.from(
				{ length: model.architecture.layers },
				(_, i) => new LayerPlan(model.architecture, i).modules.length,
			),
		);
		const rates = mode === "cheap" ? 1 : candidates?.length ?? USUAL_RATES;
		const tokens = rates * linears * windows * options["sequence-length"];
		return [{ stage: "allocate", seconds: tokens * (layers / 2 + head) }];
	},

	async restore(context, { sensitivities }) {
		const path = join(context.folder.path, SENSITIVITIES);
		if (sensitivities !== undefined || existsSync(path)) return;
		const message = `"${path}" is gone, which the run had measured; --overwrite measures it again`;
		context.emit({ type: "warning", message });
	},

	async run(context, options) {
		const { chain, linears, target } = planOf(context, options);
		const { option } = chain.quantizer.stage.rates!;
		const losses = await lossesOf(context, options, chain, linears);
		const lossesFor = ({ name, rates }: RatedLinear) =>
			rates.length > 0 ? rates.map((rate) => losses[name][rate]) : [0];
		const choice = chooseCandidates(
			linears.map((linear) => ({
				losses: lossesFor(linear),
				bits: linear.bytes.map((bytes) => 8 * bytes),
			})),
			8 * target.bytes,
		)!; // the smallest rates meet the target
		const rateOf = ({ rates }: RatedLinear, i: number) => rates[choice[i]];
		const chosen = linears.map(rateOf);
		context.set(
			"allocation",
			new Map(
				linears.flatMap(({ name }, i) =>
					chosen[i] === undefined ? [] : [[name, { [option]: chosen[i] }]]
				),
			),
		);
		const weights = sum(linears.map(({ weights }) => weights));
		const bytes = sum(linears.map(({ bytes }, i) => bytes[choice[i]]));
		const say = (text: string) => context.emit({ type: "stage", stage: "allocate", text });
		say(
			`${(8 * bytes / weights).toFixed(3)} bits per weight for the target of ${target.text}; ` +
				`sum of KL divergences ${
					sum(linears.map((linear, i) => lossesFor(linear)[choice[i]])).toPrecision(3)
				} nats`,
		);
		for (const line of tableOf(linears, chosen, option)) say(line);
	},
});

/** What the stage chooses from. @throws {UserError} If the chain or the target is impossible. */
function planOf(context: ModelContext, options: Options) {
	const model = context.get("model-files");
	const chain = chainOf(context.stages);
	const linears = ratedLinears(model, chain, options.candidates);
	if (linears.every(({ rates }) => rates.length === 0)) {
		const { name } = chain.quantizer.stage;
		throw new UserError(
			`Stage "allocate" has nothing to choose: overrides and skip of ${name} set the rate of every ` +
				"linear layer",
		);
	}
	const pack = context.stages.find(({ stage }) => stage.name === "pack")?.options as
		| PackOptions
		| undefined;
	const target = targetOf(model, linears, targetIn(options), pack);
	return { chain, linears, target };
}

/** The losses from a file, or measured and written to it. */
async function lossesOf(
	context: ModelContext,
	{ mode, windows = WINDOWS[mode], sensitivities }: Options,
	chain: Chain,
	linears: readonly RatedLinear[],
) {
	const path = sensitivities ?? join(context.folder.path, SENSITIVITIES);
	const measuredChain = measuredChainOf(context, chain);
	const known = readSensitivities(path, measuredChain, linears);
	if (typeof known === "object") {
		const text = `sensitivities of ${path}`;
		context.emit({ type: "stage", stage: "allocate", text });
		return known;
	}
	if (known !== undefined) {
		const message = `The sensitivities in "${path}" do not fit and are measured anew: ${known}`;
		context.emit({ type: "warning", message });
	}
	const losses = await measureLosses(context, chain, linears, {
		windows,
		isCheap: mode === "cheap",
	});
	const calibrate = context.stages.find(({ stage }) => stage.gives.includes("calibration"));
	const { length } = context.get("calibration");
	const calibration = calibrate?.options ?? null;
	const { seed } = context;
	context.checkInputs();
	writeSensitivities(path, measuredChain, { mode, windows, length, calibration, seed }, losses);
	return losses;
}

function measuredChainOf(context: ModelContext, { quantizer, before }: Chain): MeasuredChain {
	const { files } = context.get("model-files");
	const { option } = quantizer.stage.rates!;
	const { overrides: _, skip: __, [option]: ___, ...own } = quantizer.options;
	return {
		model: Object.fromEntries(files.map((path) => [basename(path), context.sha256(path)])),
		stages: Object.fromEntries([
			...before.map(({ stage, options }) => [stage.name, options]),
			[quantizer.stage.name, own],
		]),
		option,
	};
}

/** A line for each module: which rates it got in how many decoder layers. */
function tableOf(
	linears: readonly RatedLinear[],
	chosen: readonly (number | undefined)[],
	option: string,
): string[] {
	// Experts of a layer are told of together.
	const modules = Map.groupBy(linears.keys(), (i) => roleOf(linears[i].module));
	const width = Math.max(...[...modules.keys()].map(({ length }) => length));
	return [...modules].map(([module, indices]) => {
		const counts = Map.groupBy(indices, (i) => chosen[i]);
		const rates = [...counts].sort(([a = Infinity], [b = Infinity]) => a - b).map(
			([rate, { length }]) =>
				`${rate === undefined ? "as set" : `${option} ${rate}`} in ${counted(length, "layer")}`,
		);
		return `${module.padEnd(width)}  ${listed(rates, "and")}`;
	});
}
