import { distance } from "fastest-levenshtein";
import { z } from "zod";
import type { Output, ZodObject } from "../base/schema.ts";
import { UserError } from "../base/errors.ts";
import { globTest } from "../base/glob.ts";
import { LayerPlan } from "../models/layer_plan.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { LinearStage, ModelContext } from "./stage.ts";

/** Values of some options of a stage. */
export type SomeOptions = Readonly<Record<string, unknown>>;

/** The options that {@link defineQuantizer} adds to those of a stage. */
export interface LinearRules {
	/** Options of single linear layers by a pattern of their names; the last pattern that fits counts. */
	overrides?: Readonly<Record<string, SomeOptions>>;
	/** Patterns of the names of linear layers that stay as they are. */
	skip?: readonly string[];
}

/** The rates among which the bits of each linear layer can be chosen; see {@link LinearStage.rates}. */
export interface Rates<Options> {
	/** The option that sets the bits, a number. */
	option: string;
	/** Its values that the options of the stage allow, by rising bits. */
	values(options: Options): readonly number[];
	/**
	 * Bytes of the tensors that store a linear layer, without the header of their file.
	 *
	 * @param options Those of the linear layer, with the value of a rate.
	 */
	bytes(options: Options, shape: { rows: number; cols: number }): number;
}

/**
 * A stage that quantizes whole linear layers, before {@link defineQuantizer} completes it.
 *
 * @internal
 */
type Quantizer<Schema extends ZodObject> =
	& Omit<LinearStage<Output<Schema>>, "scope" | "options" | "optionsOf">
	& { options: Schema };

const OVERRIDES =
	"Options of single linear layers by a pattern of their names, in which * stands for " +
	'any characters: { "*.down_proj": { bits: 3 } }; the last pattern that fits counts';
const SKIP =
	"Linear layers that stay as they are, by patterns of their names: [ model.layers.0.* ]";

/**
 * A stage of scope "linear" that quantizes, with two more options that every such stage has: `overrides`,
 * other options for single linear layers, and `skip`, linear layers that stay dense. Its `run` gets the
 * options of the linear layer that it is called for.
 */
export function defineQuantizer<Schema extends ZodObject>(
	stage: Quantizer<Schema>,
): LinearStage<Output<Schema> & LinearRules> {
	type Options = Output<Schema>;
	const { options: own, needs, blockSize, check } = stage;
	const base = (options: SomeOptions): SomeOptions => {
		const { overrides: _, skip: __, ...rest } = options;
		return rest;
	};
	const optionsWith = (options: SomeOptions, ...more: (SomeOptions | undefined)[]): Options =>
		own.parse(Object.assign({}, base(options), ...more));
	/** The options of the stage and those with each of its overrides. */
	const variants = (options: LinearRules & SomeOptions): Options[] => [
		base(options) as Options,
		...Object.values(options.overrides ?? {}).map((values) => optionsWith(options, values)),
	];

	const schema = own.safeExtend({
		overrides: z.record(z.string().min(1), someOf(own)).optional().describe(OVERRIDES),
		skip: z.array(z.string().min(1)).min(1).optional().describe(SKIP),
	}).superRefine((options, issues) => {
		let size = blockSize?.(base(options) as Options);
		for (const [pattern, values] of Object.entries((options as LinearRules).overrides ?? {})) {
			const path = ["overrides", pattern];
			const { data, error } = own.safeParse({ ...base(options), ...values });
			for (const issue of error?.issues ?? []) {
				const isWritten = Object.hasOwn(values, issue.path[0]);
				issues.addIssue({
					code: "custom",
					path: isWritten ? [...path, ...issue.path] : path,
					message: isWritten
						? issue.message
						: `does not fit the other options: ${issue.path.join(".")} ${issue.message}`,
				});
			}
			const other = data && blockSize?.(data as Options);
			size ??= other;
			if (other === undefined || other === size) continue;
			issues.addIssue({
				code: "custom",
				path,
				message:
					`sets blocks of ${other} columns, but a model has blocks of one size, ${size} here`,
			});
		}
	});

	return {
		...stage,
		scope: "linear",
		options: schema,
		needs: typeof needs === "function"
			? (options) => [...new Set(variants(options).flatMap(needs))]
			: needs,
		...(blockSize && {
			blockSize: (options) => variants(options).map(blockSize).find((size) => size !== undefined),
		}),
		async check(context, options) {
			checkPatterns(context, stage.name, options);
			await check?.(context, options);
		},
		optionsOf(options, name, allocated) {
			const { overrides = {}, skip = [] } = options;
			if (skip.some((pattern) => globTest(pattern)(name))) return undefined;
			const pattern = Object.keys(overrides).findLast((pattern) => globTest(pattern)(name));
			if (pattern === undefined && !allocated) return base(options) as typeof options;
			return optionsWith(options, allocated, pattern === undefined ? {} : overrides[pattern]);
		},
	};
}

/** A schema of some options of another: none is required, none has a default. */
function someOf(options: z.ZodObject): z.ZodObject {
	const shape = Object.entries(options.shape).map(([key, field]) => {
		let inner = field as z.ZodType;
		while (inner instanceof z.ZodDefault || inner instanceof z.ZodOptional) {
			inner = inner.unwrap() as z.ZodType;
		}
		const { description } = field as z.ZodType;
		return [key, description ? inner.optional().describe(description) : inner.optional()];
	});
	return z.strictObject(Object.fromEntries(shape));
}

/** The names of all linear layers of a model, in the order of execution. */
export function linearNames({ architecture }: ModelFiles): string[] {
	return Array.from({ length: architecture.layers }, (_, layer) => {
		const prefix = architecture.names.layer(layer);
		return new LayerPlan(architecture, layer).modules.map((module) => prefix + module);
	}).flat();
}

/** @throws {UserError} If a pattern fits no linear layer, or `skip` a part of a fused one. */
function checkPatterns(
	context: ModelContext,
	stage: string,
	{ overrides = {}, skip = [] }: LinearRules,
): void {
	const patterns = [
		...Object.keys(overrides).map((pattern) => ({ option: "overrides", pattern })),
		...skip.map((pattern) => ({ option: "skip", pattern })),
	];
	if (patterns.length === 0) return;
	const model = context.get("model-files");
	const names = linearNames(model);
	for (const { option, pattern } of patterns) {
		if (names.some(globTest(pattern))) continue;
		throw new UserError(
			`"${pattern}" in ${stage}.${option} fits no linear layer of "${model.name}"; near it: ` +
				nearest(pattern, names).join(", "),
		);
	}
	const isSkipped = (name: string) => skip.some((pattern) => globTest(pattern)(name));
	const { architecture } = model;
	for (let layer = 0; layer < architecture.layers; layer++) {
		const prefix = architecture.names.layer(layer);
		const parts = new Map<string, string[]>();
		for (const { linears, fused } of new LayerPlan(architecture, layer).groups) {
			if (!fused) continue;
			const names = linears.map(({ module }) => prefix + module);
			parts.set(fused, [...parts.get(fused) ?? [], ...names]);
		}
		for (const [fused, all] of parts) {
			const kept = all.filter(isSkipped);
			if (kept.length === 0 || kept.length === all.length) continue;
			throw new UserError(
				`${stage}.skip leaves out "${kept[0]}", but in "${model.name}" it is a part of ` +
					`"${prefix}${fused}"; skip all of ${shortened(all)}, or none`,
			);
		}
	}
}

/** How many parts of a fused linear layer a message lists. */
const PARTS = 6;

function shortened(names: readonly string[]): string {
	if (names.length <= PARTS) return names.join(", ");
	return `${names.slice(0, PARTS).join(", ")} and ${names.length - PARTS} more`;
}

/** How many names a message about a pattern lists. */
const NEAR = 4;

/** The names that are most similar to a pattern; of those that differ by layer only, the first one. */
function nearest(pattern: string, names: readonly string[]): string[] {
	const bare = pattern.replaceAll(/[*?]/g, "");
	const tail = bare.slice(bare.lastIndexOf(".") + 1);
	const far = (name: string) =>
		Math.min(distance(bare, name), distance(tail, name.slice(name.lastIndexOf(".") + 1)));
	const sorted = names.toSorted((a, b) => far(a) - far(b));
	const seen = new Set<string>();
	const isFirst = (name: string) => {
		const alike = name.replaceAll(/\d+/g, "#");
		return !seen.has(alike) && seen.add(alike);
	};
	return sorted.filter(isFirst).slice(0, NEAR);
}
