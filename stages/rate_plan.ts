import { UserError } from "../base/errors.ts";
import { counted, sum } from "../base/figures.ts";
import { bytesOf } from "../base/units.ts";
import { elementsOf } from "../gpu/tensor.ts";
import { placeOf } from "../models/places.ts";
import { LayerPlan } from "../models/layer_plan.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { PlannedStage } from "../pipeline/config/config.ts";
import type { SomeOptions } from "../pipeline/quantizer.ts";
import type { GroupStage, LinearStage, Stage } from "../pipeline/stage.ts";
import { entryBytes, HEADER_BYTES, outsideBytes, type PackOptions } from "./pack.ts";

/** The stages that decide how a linear layer is quantized. */
export interface Chain {
	quantizer: PlannedStage<LinearStage>;
	/** The group stages before it, without those that compare with the original model. */
	before: PlannedStage<GroupStage>[];
}

/**
 * The chain of a pipeline with a stage that has rates.
 *
 * @throws {UserError} If there is none.
 */
export function chainOf(stages: readonly PlannedStage<Stage>[]): Chain {
	const at = stages.findIndex(({ stage }) => stage.scope === "linear" && stage.rates);
	if (at < 0) {
		throw new UserError(
			'Stage "allocate" needs a stage behind it that quantizes at several rates, such as gptq or ' +
				"trellis; put one there, or leave allocate out",
		);
	}
	const isGroup = ({ stage }: PlannedStage<Stage>) =>
		(stage.scope === "group" || stage.scope === "layer") && !stage.original;
	return {
		quantizer: stages[at] as PlannedStage<LinearStage>,
		before: stages.slice(0, at).filter(isGroup) as PlannedStage<GroupStage>[],
	};
}

/** A linear layer with the rates that it may have. */
export interface RatedLinear {
	name: string;
	/** Its name within its decoder layer. */
	module: string;
	weights: number;
	/** The rates; empty if the options of the file leave no choice. */
	rates: readonly number[];
	/** Stored bytes for each rate, or the only ones; its part of the file's header is included. */
	bytes: readonly number[];
}

/** Tensors that a codec stores for a linear layer, at most in the chains that have rates. */
const TENSORS = 3;

/** The longest suffix of their names. */
const SUFFIX = ".trellis_scales";

/**
 * The linear layers of a model with the rates that they may have and what these take, in the order of
 * execution.
 *
 * @param candidates The rates to choose from; those of the stage if absent.
 * @throws {UserError} If the stage refuses a candidate.
 */
export function ratedLinears(
	{ architecture, checkpoint }: ModelFiles,
	{ quantizer: { stage, options } }: Chain,
	candidates?: readonly number[],
): RatedLinear[] {
	const { option, values, bytes } = stage.rates!;
	const rates = [...new Set(candidates ?? values(options))].sort((a, b) => a - b);
	for (const rate of rates) {
		const { overrides: _, skip: __, ...base } = options;
		if (stage.options.safeParse({ ...base, [option]: rate }).success) continue;
		throw new UserError(
			`Candidate ${rate} of allocate is no ${option} of stage "${stage.name}" with its other ` +
				`options; it has ${values(options).join(", ")}`,
		);
	}
	const linears: RatedLinear[] = [];
	for (let layer = 0; layer < architecture.layers; layer++) {
		const prefix = architecture.names.layer(layer);
		const plan = new LayerPlan(architecture, layer);
		const header = Math.ceil(HEADER_BYTES / plan.modules.length);
		for (const group of plan.groups) {
			const { cols } = group;
			for (const [i, { module, rows }] of group.linears.entries()) {
				const name = prefix + module;
				const optionsAt = (rate: number) => stage.optionsOf!(options, name, { [option]: rate });
				const bytesOf = (own: unknown) =>
					bytes(own, { rows, cols }) + header + TENSORS * entryBytes(name + SUFFIX);
				const own = rates.map(optionsAt) as (SomeOptions | undefined)[];
				const isFixed = own.every((values) => values?.[option] === own[0]?.[option]);
				if (own[0] === undefined) {
					const { name: tensor } = placeOf(prefix, group, i, "weight");
					const { bytes, shape } = checkpoint.get(tensor);
					const dense = bytes / elementsOf(shape) * rows * cols + header + entryBytes(tensor);
					linears.push({ name, module, weights: rows * cols, rates: [], bytes: [dense] });
				} else {
					linears.push({
						name,
						module,
						weights: rows * cols,
						rates: isFixed ? [] : rates,
						bytes: isFixed ? [bytesOf(own[0])] : own.map(bytesOf),
					});
				}
			}
		}
	}
	return linears;
}

/** What a target leaves for the linear layers. */
export interface Target {
	/** Bytes of all linear layers. */
	bytes: number;
	/** "2.0 bits per weight" */
	text: string;
}

/** The target of a choice: bits per weight of the linear layers, or the size of the weight files. */
export interface TargetOptions {
	bits?: number;
	/** Bytes. */
	size?: number;
}

/**
 * The target in bytes of the linear layers.
 *
 * @param pack The options of the stage `pack`, which stores what is not a linear layer.
 * @throws {UserError} If the smallest rates take more.
 */
export function targetOf(
	model: ModelFiles,
	linears: readonly RatedLinear[],
	{ bits, size }: TargetOptions,
	pack: PackOptions | undefined,
): Target {
	const weights = sum(linears.map(({ weights }) => weights));
	const least = sum(linears.map(({ bytes }) => Math.min(...bytes)));
	if (size === undefined) {
		const target = { bytes: bits! * weights / 8, text: `${bits} bits per weight` };
		if (least > target.bytes) {
			throw new UserError(
				`The target-bits ${bits} are below what the smallest rates take, ` +
					`${(8 * least / weights).toFixed(3)} bits per weight`,
			);
		}
		return target;
	}
	const outside = outsideBytes(model, pack);
	if (least + outside > size) {
		const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
		throw new UserError(
			`The target-size ${mb(size)} is below the smallest size, ${mb(least + outside)}: ` +
				`${counted(linears.length, "linear layer")} with at least ${mb(least)}, and ` +
				`${mb(outside)} of embeddings, head and norms`,
		);
	}
	return { bytes: size - outside, text: `weight files of ${(size / 1e6).toFixed(1)} MB` };
}

/** The size of a packed model, as far as it is known before a run. */
export interface ExpectedSize {
	/** Bytes of the weight files, a few more than they will take; the most are those of a target. */
	bytes: [least: number, most: number];
	/** Stored bits per weight of the linear layers, of the same. */
	bits: [least: number, most: number];
}

/**
 * The size that a model will have after a pipeline.
 *
 * @returns Undefined if no stage quantizes with rates or nothing is packed.
 * @throws {UserError} If `allocate` has an impossible target or candidate.
 */
export function expectedSize(
	model: ModelFiles,
	stages: readonly PlannedStage<Stage>[],
): ExpectedSize | undefined {
	const optionsOf = (name: string) => stages.find(({ stage }) => stage.name === name)?.options;
	const pack: PackOptions | undefined = optionsOf("pack");
	if (!pack || !stages.some(({ stage }) => stage.scope === "linear" && stage.rates)) {
		return undefined;
	}
	const chain = chainOf(stages);
	const { stage, options } = chain.quantizer;
	const allocate = optionsOf("allocate");
	const candidates = allocate ? allocate.candidates : [options[stage.rates!.option]];
	const linears = ratedLinears(model, chain, candidates);
	const least = sum(linears.map(({ bytes }) => Math.min(...bytes)));
	let most = sum(linears.map(({ bytes }) => Math.max(...bytes)));
	if (allocate) most = Math.min(most, targetOf(model, linears, targetIn(allocate), pack).bytes);
	const outside = outsideBytes(model, pack);
	const weights = sum(linears.map(({ weights }) => weights));
	return {
		bytes: [least + outside, most + outside],
		bits: [8 * least / weights, 8 * most / weights],
	};
}

/** The target in the options of `allocate`. */
export function targetIn(
	options: { "target-bits"?: number; "target-size"?: string },
): TargetOptions {
	const { "target-bits": bits, "target-size": size } = options;
	return { bits, size: size === undefined ? undefined : bytesOf(size) };
}
