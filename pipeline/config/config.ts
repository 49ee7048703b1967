import { basename, dirname, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { isMap, isScalar, isSeq, type Node, Scalar } from "yaml";
import { z } from "zod";
import type { ZodObject } from "../../base/schema.ts";
import { didYouMean } from "../../base/did_you_mean.ts";
import { UserError } from "../../base/errors.ts";
import { isRecord } from "../../base/record.ts";
import type { Precision } from "../../gpu/device.ts";
import type { Backend } from "../../hosts/deno_gpu.ts";
import { inHome } from "../../storage/home.ts";
import { pipelineFields } from "./json_schema.ts";
import { MOST_STAGES } from "./limits.ts";
import { type AbsentPath, folderOf, placePaths } from "./paths.ts";
import { expandRecipe, namedStages, type Recipe, type RecipeContext } from "./recipes.ts";
import { parseYaml, PipelineSource, type Place, readText, type Slot } from "./source.ts";
import { checkValue, cut, hint, type Issue, type Path, show } from "./values.ts";

export { pipelineJsonSchema } from "./json_schema.ts";
export type { Recipe } from "./recipes.ts";

/**
 * The scope of a stage: it runs once per model, per group of linear layers that share an input, per
 * linear layer, or per block of columns of each. "layer" is a deprecated name of "group".
 */
export type Scope = "model" | "group" | "layer" | "linear" | "block";

/** @internal */
type Presets = Record<string, unknown>;

/** The declaration of a stage, as needed to check pipeline files. */
export interface StageDeclaration {
	/** Name in pipeline files, such as "salient-select". */
	name: string;
	/** How often it runs. */
	scope: Scope;
	/** One-line description. */
	summary: string;
	/**
	 * Schema of the options: a strictObject with hyphenated keys, each with `.describe()` and usually
	 * `.default()`. Messages of checks follow the key: "must be odd".
	 */
	options: ZodObject;
	/** Default option values in `mode: reference`; a function if they depend on the written options. */
	presets?: { reference?: Presets | ((written: Readonly<Record<string, unknown>>) => Presets) };
	/** Artifacts that earlier stages must give; a function if they depend on the options. */
	// deno-lint-ignore no-explicit-any -- each stage knows the type of its own options
	needs: readonly string[] | ((options: any) => readonly string[]);
	/** Artifacts for later stages. */
	gives: readonly string[];
	/** Artifacts that no earlier stage may give because this one does not use them. */
	excludes?: readonly string[];
	/** The option that a list in place of the options gives; none if absent. */
	listOption?: string;
	/** Columns per block, for a stage that sets them; undefined if its options do not. */
	// deno-lint-ignore no-explicit-any -- each stage knows the type of its own options
	blockSize?(options: any): number | undefined;
	/**
	 * An artifact. The stage is appended, with its default options, to chains of scope "block" in which no
	 * stage gives the artifact; it cannot be named in a file.
	 */
	completes?: string;
}

/** A stage of a pipeline with its checked options, including defaults. */
export interface PlannedStage<S extends StageDeclaration> {
	/** The stage. */
	stage: S;
	/** Its options, checked. */
	// deno-lint-ignore no-explicit-any -- what `stage.options` parsed
	options: any;
	/** `file:line:column` of the stage's name, or of the module's if it has `use`. */
	where: string;
	/** Absolute path of the module if it has `use`. */
	module?: string;
	/** Whether the stage was appended; see {@link StageDeclaration.completes}. */
	implied?: boolean;
}

/** A checked pipeline file. */
export interface PipelineConfig<S extends StageDeclaration> {
	/** Path of the file, as given. */
	file: string;
	/** Name of the run. */
	name: string;
	/** The folder of the model or its name on the hub, as written. */
	model: string;
	/** The folder of the run, as written. */
	output: string;
	/** An integer from 0 to 2³² - 1. */
	seed: number;
	/** Whose defaults the stages have. */
	mode: "default" | "reference";
	/** `memory` and `host-memory` are strings such as "12GB". */
	gpu: {
		adapter: string | number;
		backend?: Backend;
		precision: Precision;
		memory?: string;
		"host-memory"?: string;
	};
	/** The stages, in order. */
	stages: PlannedStage<S>[];
	/** The name of the recipe that gave the stages, if any. */
	recipe?: string;
	/**
	 * The YAML as run: the text of the file, after `--set` the changed text with comments. It lists the
	 * stages of a recipe, and its paths are relative to the working directory.
	 */
	text: string;
	/** Paths that the file names, and that existed nowhere when it was loaded. */
	absent: AbsentPath[];
}

/** Options of {@link loadPipeline}. */
export interface LoadOptions<S extends StageDeclaration> {
	/** The available stages. */
	stages: readonly S[];
	/** The available recipes; none if absent. */
	recipes?: readonly Recipe[];
	/**
	 * Overrides `path=value`, such as `stages.calibrate.samples=16`; the value is YAML. `stages.NAME`
	 * is the stage of that name. A stage with `use` has the name given in its module, or that of its file.
	 * With a recipe, `stages.NAME=false` leaves the stage out and `stages.NAME={}` adds it.
	 */
	sets?: string[];
	/** Imports the default export of a `use` module; the message of a UserError becomes a problem. */
	importStage?: (absolutePath: string) => Promise<S>;
	/** The text of a file that does not exist; the path is then its name in messages. */
	text?: string;
}

/**
 * The pipeline of a file, with overrides applied and everything checked that does not need a run.
 *
 * @param path The YAML file; `use` modules are sought from its folder.
 * @returns The pipeline with all defaults. In `mode: reference`, presets of a stage override its defaults,
 *   key by key at the top level.
 * @throws {PipelineFileError} With all problems, in the order of the file, those of `sets` last.
 */
export async function loadPipeline<S extends StageDeclaration>(
	path: string,
	{ stages, recipes = [], sets = [], importStage = importDefault, text }: LoadOptions<S>,
): Promise<PipelineConfig<S>> {
	const source = new PipelineSource(
		path,
		text ?? await readText(path),
		text === undefined ? folderOf(path) : undefined,
	);
	const load = stageLoader(path, importStage);
	await applyChanges(source, setChanges(source, sets, load), { recipes, stages });
	if (source.has(["matrix"])) {
		const message = '"matrix" makes this file a grid of pipelines, not one; ' +
			"deno task quantize and loadGrid() read such files";
		source.report(source.place(["matrix"], "key"), message);
		source.throwProblems();
	}
	return await checkPipeline(source, stages, load);
}

/**
 * The checked form of one pipeline without a matrix, after all overrides.
 *
 * @throws {PipelineFileError} With all problems of the source.
 */
export async function checkPipeline<S extends StageDeclaration>(
	source: PipelineSource,
	stages: readonly S[],
	load: StageLoader<S>,
): Promise<PipelineConfig<S>> {
	const named = namedStages(stages);
	const absent = placePaths(source, await writtenOptions(source, named, load));
	const value = source.value();
	const checked = checkValue(pipelineFields, value, "");
	source.reportAll(checked.issues.map((issue) => explainMisplaced(issue, named, value)), []);
	const { mode } = checked.data ?? value;
	const list = Array.isArray(value.stages) ? value.stages.slice(0, MOST_STAGES) : [];
	const entries: Entry<S>[] = [];
	for (const [index, item] of list.entries()) {
		entries.push(await readEntry(source, item, index, named, mode === "reference", load));
	}
	checkChain(source, entries, named);
	source.throwProblems();

	const { matrix: _, recipe: __, ...fields } = checked.data!;
	return {
		...fields,
		...(source.recipe !== undefined && { recipe: source.recipe }),
		file: source.file,
		output: fields.output ?? `out/${fields.name}`,
		stages: completed(
			entries.map(({ stage, options, place, module }) => ({
				stage: stage!,
				options,
				where: place.where,
				module,
			})),
			stages,
		),
		text: source.text(),
		absent,
	};
}

/** The issue of a key; if it is a stage or an option of one, the message says where it belongs. */
function explainMisplaced(
	issue: Issue,
	stages: readonly StageDeclaration[],
	{ stages: list }: { stages?: unknown },
): Issue {
	const { path: [key, ...rest], part, message } = issue;
	if (part !== "key" || rest.length > 0) return issue;
	const [start] = message.split(";");
	if (stages.some(({ name }) => name === key)) {
		const text = `${start}; it is a stage: write stages.${String(key)}, or put it under "stages"`;
		return { ...issue, message: text };
	}
	const inChain = JSON.stringify(list ?? []);
	const owner = stages.find(({ name, options }) =>
		inChain.includes(`"${name}"`) && Object.hasOwn(options.shape, key)
	);
	if (!owner) return issue;
	const text = `${start}; it is an option of ${owner.name}: stages.${owner.name}.${String(key)}`;
	return { ...issue, message: text };
}

/** The places of the options in the file, with their schemas. */
async function writtenOptions<S extends StageDeclaration>(
	source: PipelineSource,
	stages: readonly S[],
	load: StageLoader<S>,
) {
	const { stages: list } = source.value();
	const found: { path: Path; name: string; options: z.ZodObject }[] = [];
	for (const [i, item] of (Array.isArray(list) ? list.slice(0, MOST_STAGES) : []).entries()) {
		if (!isRecord(item)) continue;
		const [name] = Object.keys(item);
		const stage = typeof item.use === "string"
			? (await load(item.use)).stage
			: stages.find((stage) => stage.name === name);
		if (!stage) continue;
		const path = ["stages", i, ...("use" in item ? [] : [name])];
		found.push({ path, name: stage.name, options: stage.options });
	}
	return found;
}

/** The chain with appended stages; see {@link StageDeclaration.completes}. */
function completed<S extends StageDeclaration>(
	chain: PlannedStage<S>[],
	stages: readonly S[],
): PlannedStage<S>[] {
	const last = chain.findLastIndex(({ stage }) => stage.scope === "block");
	if (last < 0) return chain;
	const { where } = chain[last];
	const missing = stages.filter(({ completes }) =>
		completes !== undefined && !chain.some(({ stage }) => stage.gives.includes(completes))
	).map((stage) => ({ stage, options: stage.options.parse({}), where, implied: true }));
	return chain.toSpliced(last + 1, 0, ...missing);
}

/** The question whether another word is meant. */
function meant(word: string, known: readonly string[]): string {
	const guess = didYouMean(word, known);
	return guess === undefined ? "" : `; did you mean "${guess}"?`;
}

/** The artifacts that a stage declares, without needs that depend on its options. */
function artifactsOf({ needs, gives, excludes = [] }: StageDeclaration): string[] {
	return [...typeof needs === "function" ? [] : needs, ...gives, ...excludes];
}

/** The artifacts that a stage needs with these options. */
export function needsOf(stage: StageDeclaration, options: unknown): readonly string[] {
	return typeof stage.needs === "function" ? stage.needs(options) : stage.needs;
}

// --- Overrides ----------------------------------------------------------------------------------

/** A change of a pipeline: an override, or what a cell of a grid sets. */
export interface Change {
	keys: readonly string[];
	/** Applies the change and reports its problem, if any. */
	apply(): Promise<void>;
}

/** The changes of overrides `path=value`. */
export function setChanges<S extends StageDeclaration>(
	source: PipelineSource,
	sets: readonly string[],
	load: StageLoader<S>,
): Change[] {
	return sets.map((text, index) => {
		const place = {
			where: `--set ${cut(text, 200)}`,
			order: Number.MAX_SAFE_INTEGER - sets.length + index,
		};
		return {
			keys: pathOf(text),
			apply: async () => {
				const problem = await applySet(source, text, place, load);
				if (problem) source.report(place, problem);
			},
		};
	});
}

/** The keys of the path of an override. */
export function pathOf(set: string): string[] {
	return set.split("=", 1)[0].split(".");
}

/**
 * Applies changes, and expands the recipe of a pipeline without a matrix.
 *
 * Changes of the recipe and of stages as a whole come first, so that they can replace the recipe, leave
 * out stages and add others; those of single options are made in the list of stages.
 */
export async function applyChanges(
	source: PipelineSource,
	changes: readonly Change[],
	context: RecipeContext,
): Promise<void> {
	let left = changes;
	const apply = async (isNext: (keys: readonly string[]) => boolean): Promise<number> => {
		const next = left.filter(({ keys }) => isNext(keys));
		left = left.filter((change) => !next.includes(change));
		for (const change of next) await change.apply();
		return next.length;
	};
	const namesRecipe = await apply(([first]) => first === "recipe") > 0;
	if (source.awaitsRecipe) {
		source.value(); // checks aliases
		source.inlineAliases(); // the order of the stages may become another
		const givesStages = await apply((keys) => keys[0] === "stages" && keys.length === 1) > 0;
		// The recipe of the file gives way to a list.
		if (givesStages && !namesRecipe && isSeq(source.node(["stages"]))) source.remove("recipe");
	}
	if (source.awaitsRecipe) await apply((keys) => keys[0] === "stages" && keys.length === 2);
	if (!source.has(["matrix"])) expandRecipe(source, context);
	await apply(() => true);
}

/** Applies one override. @returns The problem, if any. */
async function applySet<S extends StageDeclaration>(
	source: PipelineSource,
	text: string,
	place: Place,
	load: StageLoader<S>,
): Promise<string | undefined> {
	const [, name, written] = text.match(/^([^=]+)=(.*)$/s) ?? [];
	const keys = name?.split(".") ?? [""];
	if (keys.includes("")) return "Not of the form path=value, as in seed=3";
	const { document, problems: [problem] } = parseYaml(written);
	if (problem) return problem.message;
	const value = document.contents ?? new Scalar(null);
	return await setValue(source, keys, value, place, load, place);
}

/**
 * Sets the value at a path such as `stages.calibrate.samples`.
 *
 * @param place Reported place of problems of the path and of added keys.
 * @param origin Reported place of problems of the value; its place in the file if absent.
 * @returns The problem, if any.
 */
export async function setValue<S extends StageDeclaration>(
	source: PipelineSource,
	keys: readonly string[],
	value: Node,
	place: Place,
	load: StageLoader<S>,
	origin?: Place,
): Promise<string | undefined> {
	let slot = source.root();
	let done = 0;
	if (keys[0] === "stages" && keys.length > 1 && !source.awaitsRecipe) {
		const found = await stageSlot(source, keys[1], keys.length > 2, place, load);
		if (typeof found === "string") return found;
		slot = found;
		done = 2;
	}
	for (; done < keys.length; done++) {
		const found = source.child(slot, keys[done], keys.slice(0, done).join("."), place);
		if (typeof found === "string") return found;
		slot = found;
	}
	source.set(slot, value, origin);
}

/** The slot of the options of the stage that an override names, or the problem. */
async function stageSlot<S extends StageDeclaration>(
	source: PipelineSource,
	name: string,
	goesOn: boolean,
	place: Place,
	load: StageLoader<S>,
): Promise<Slot | string> {
	const names: string[] = [];
	for (const { item, itemNames, use } of await stageItems(source, load)) {
		names.push(...itemNames);
		if (!itemNames.includes(name)) continue;
		if (use) return goesOn ? item : 'A stage with "use" has its options set one by one';
		const map = isScalar(item.node) ? source.giveOptions(item, item.node) : item.node;
		return source.child({ ...item, node: map }, name, "stages", place);
	}
	return `"stages.${name}" names no stage of this pipeline${hint(name, names)}`;
}

/** The items of `stages` with their names in paths. */
async function stageItems<S extends StageDeclaration>(
	source: PipelineSource,
	load: StageLoader<S>,
): Promise<{ item: Slot; itemNames: string[]; use: boolean }[]> {
	const items: { item: Slot; itemNames: string[]; use: boolean }[] = [];
	for (const item of source.stageSlots()) {
		const use = isMap(item.node) ? item.node.get("use") : undefined;
		const itemNames = typeof use === "string"
			? [(await load(use)).stage?.name, basename(use, extname(use))]
			: [isMap(item.node) ? item.node.items[0]?.key : item.node].map(String);
		items.push({
			item,
			itemNames: itemNames.filter((name) => name !== undefined),
			use: use !== undefined,
		});
	}
	return items;
}

/** Whether a path names a stage that this pipeline lacks; a recipe that is not expanded lacks none. */
export async function lacksStage<S extends StageDeclaration>(
	source: PipelineSource,
	keys: readonly string[],
	load: StageLoader<S>,
): Promise<boolean> {
	if (keys[0] !== "stages" || keys.length === 1 || source.awaitsRecipe) return false;
	const items = await stageItems(source, load);
	return !items.some(({ itemNames }) => itemNames.includes(keys[1]));
}

// --- Stages -------------------------------------------------------------------------------------

/** An item of `stages`; `stage` and `options` are absent if they could not be determined. */
interface Entry<S extends StageDeclaration> {
	stage?: S;
	/** The stage that an unknown name most likely means. */
	guess?: S;
	// deno-lint-ignore no-explicit-any -- what `stage.options` parsed
	options?: any;
	place: Place;
	module?: string;
}

/** Reads one item of `stages`: `- name`, `- name: {options}` or `- {use: module, ...options}`. */
async function readEntry<S extends StageDeclaration>(
	source: PipelineSource,
	item: unknown,
	index: number,
	stages: readonly S[],
	reference: boolean,
	load: StageLoader<S>,
): Promise<Entry<S>> {
	let path: Path = ["stages", index];
	let place = source.place(path);
	let stage: S | undefined;
	let written: unknown;
	let module: string | undefined;
	if (isRecord(item) && "use" in item) {
		const { use, ...options } = item;
		written = options;
		place = source.place([...path, "use"]);
		const loaded: LoadedStage<S> = typeof use === "string"
			? await load(use)
			: { problems: [`use must be a string, found ${show(use)}`] };
		loaded.problems.forEach((problem) => source.report(place, problem));
		({ stage, module } = loaded);
		if (!stage) return { place };
	} else {
		const keys = isRecord(item) ? Object.keys(item) : typeof item === "string" ? [item] : [];
		if (keys.length === 0) {
			const forms = 'its name, its name with options, or "use" with a module';
			source.report(place, `A stage must be ${forms}, found ${show(item)}`);
			return { place };
		}
		const [name] = keys;
		place = source.place([...path, name], "key");
		stage = stages.find((stage) => stage.name === name);
		if (!stage) {
			const names = stages.map(({ name }) => name);
			const guess = didYouMean(name, names);
			const known = `Known stages: ${names.join(", ")}`;
			source.report(place, `Unknown stage "${name}"${meant(name, names) || "."} ${known}`);
			return { place, guess: stages.find((stage) => stage.name === guess) };
		}
		if (keys.length > 1) {
			const message = `Key "${keys[1]}" stands beside stage "${name}"; ` +
				`indent the options of ${name} under it, or begin a new item with "-"`;
			source.report(source.place([...path, keys[1]], "key"), message);
			return { place, stage };
		}
		if (isRecord(item)) {
			path = [...path, name];
			written = item[name];
		}
	}
	written ??= {};
	const { listOption } = stage;
	const isList = listOption !== undefined && Array.isArray(written);
	if (isList) written = { [listOption]: written };
	const presets = reference ? stage.presets?.reference : undefined;
	const presetsFor = (written: Presets) =>
		typeof presets === "function" ? presets(written) : presets;
	const value = isRecord(written) ? { ...presetsFor(written), ...written } : written;
	const { data, issues } = checkValue(stage.options, value, stage.name);
	const placed = isList // the list stands in place of the option
		? issues.map((issue) => ({ ...issue, path: issue.path.slice(1) }))
		: issues;
	source.reportAll(placed, path);
	return { place, stage, options: data, module };
}

/** Checks that each stage occurs once, in a valid order of scopes, after the stages that it needs. */
function checkChain<S extends StageDeclaration>(
	source: PipelineSource,
	entries: Entry<S>[],
	stages: readonly S[],
): void {
	const seen = new Set<string>();
	for (const { stage, place } of entries) {
		if (stage && seen.has(stage.name)) {
			source.report(place, `Stage "${stage.name}" occurs twice; a stage may occur once`);
		}
		if (stage) seen.add(stage.name);
	}

	const isInner = ({ stage }: Entry<S>) => stage !== undefined && stage.scope !== "model";
	const first = entries.findIndex(isInner);
	const last = entries.findLastIndex(isInner);
	for (const { stage, place } of entries.slice(first + 1, Math.max(last, 0))) {
		if (stage?.scope !== "model") continue;
		source.report(
			place,
			`Stage "${stage.name}" runs once per model and cannot stand between the stages of a layer; ` +
				`put it before "${entries[first].stage!.name}" or after "${entries[last].stage!.name}"`,
		);
	}

	// An entry that could not be read at all may be what gives the artifact.
	if (!entries.every(({ stage, guess }) => stage ?? guess)) return;
	const planned = entries.map(({ stage, guess }) => (stage ?? guess)!);
	const builtIn = stages.flatMap(artifactsOf);
	for (const { stage, place, module } of entries) {
		if (!stage || module === undefined) continue;
		const others = planned.filter((other) => other !== stage).flatMap(artifactsOf);
		const known = [...new Set([...builtIn, ...others])];
		for (const name of [...stage.gives, ...stage.excludes ?? []]) {
			if (known.includes(name)) continue;
			const message = `Stage "${stage.name}" names the artifact "${name}", which no other stage ` +
				`knows${hint(name, known, "known are")}`;
			source.report(place, message);
		}
	}

	const given = new Set<string>();
	for (const [index, { stage, options, place }] of entries.entries()) {
		const unread = stage && options === undefined && typeof stage.needs === "function";
		for (const need of stage && !unread ? needsOf(stage, options) : []) {
			if (given.has(need)) continue;
			const giver = [...planned, ...stages].find((other) =>
				other.name !== stage!.name && other.gives.includes(need)
			);
			const remedy = giver
				? `which stage "${giver.name}" gives; put ${giver.name} before it`
				: `which no stage gives${meant(need, planned.flatMap(({ gives }) => gives))}`;
			source.report(place, `Stage "${stage!.name}" needs "${need}", ${remedy}`);
		}
		for (const artifact of stage?.excludes ?? []) {
			if (!given.has(artifact)) continue;
			const giver = planned.slice(0, index).find((other) => other.gives.includes(artifact))!;
			const { name, gives } = stage!;
			const remedy = gives.some((given) => giver.excludes?.includes(given))
				? "leave one of them out"
				: `put ${name} before it`;
			const made = `"${artifact}", which stage "${giver.name}" gives`;
			source.report(place, `Stage "${name}" makes no use of ${made}; ${remedy}`);
		}
		planned[index].gives.forEach((artifact) => given.add(artifact));
	}
}

// --- Custom stages ------------------------------------------------------------------------------

export interface LoadedStage<S> {
	stage?: S;
	module?: string;
	problems: string[];
}

/** Loads the stage of a `use` module. */
export type StageLoader<S> = (use: string) => Promise<LoadedStage<S>>;

const isStrictObject = (value: unknown) =>
	(value as z.ZodObject | undefined)?._zod?.def?.catchall?._zod.def.type === "never";

const isOptionalFunction = (value: unknown) => value === undefined || typeof value === "function";

const artifactNames = z.array(z.string());

/** Schema of a custom stage, whose module may not be type-checked. */
const stageForm = z.object({
	name: z.string().min(1).describe("its name in messages"),
	scope: z.enum(["model", "group", "layer", "linear", "block"]).describe("how often it runs"),
	summary: z.string().describe("a one-line description"),
	options: z.custom<z.ZodObject>(isStrictObject, "must be a zod strictObject")
		.describe("a zod strictObject of its options"),
	presets: z.object({
		reference: z.union([
			z.record(z.string(), z.unknown()),
			z.custom<(written: Presets) => Presets>((value) => typeof value === "function"),
		]).optional(),
	}).optional(),
	needs: z.custom<StageDeclaration["needs"]>(
		(value) => typeof value === "function" || artifactNames.safeParse(value).success,
		"must be a list of artifact names, or a function of the options that gives one",
	).describe("the artifacts that earlier stages must give"),
	gives: artifactNames.describe("the artifacts that later stages may need"),
	excludes: artifactNames.optional().describe("the artifacts that earlier stages must not give"),
	original: z.boolean().optional()
		.describe("whether the calibration data also pass through the original model"),
	blockSize: z.custom<StageDeclaration["blockSize"]>(isOptionalFunction, "must be a function")
		.optional().describe("the columns of a block that its options set"),
	run: z.custom((value) => typeof value === "function", "must be a function")
		.describe("the function that does the work"),
});

export function stageLoader<S extends StageDeclaration>(
	file: string,
	importStage: (absolutePath: string) => Promise<S>,
): StageLoader<S> {
	const loaded = new Map<string, Promise<LoadedStage<S>>>();
	const load = async (use: string): Promise<LoadedStage<S>> => {
		const fail = (reason: string) => `Cannot load the stage "${use}": ${reason}`;
		const module = resolve(dirname(file), inHome(use));
		let stage: S;
		try {
			stage = await importStage(module);
		} catch (error) {
			const reason = error instanceof Error ? error.message.split("\n")[0] : show(error);
			return { problems: [fail(reason)] };
		}
		if (stage === undefined) return { problems: [fail("it has no default export")] };
		const { issues } = checkValue(stageForm, stage, "stage");
		if (issues.length > 0) return { problems: issues.map(({ message }) => fail(message)) };
		return { stage, module, problems: [] };
	};
	return (use) => {
		if (!loaded.has(use)) loaded.set(use, load(use));
		return loaded.get(use)!;
	};
}

/** The default export of a module. @throws {UserError} If there is no such file. */
export async function importDefault<S>(absolutePath: string): Promise<S> {
	try {
		await Deno.stat(absolutePath);
	} catch (error) {
		if (error instanceof Deno.errors.NotFound) throw new UserError("no such file");
		throw error;
	}
	return (await import(pathToFileURL(absolutePath).href)).default;
}
