import { isMap, isScalar, isSeq, type Node, Pair, Scalar, YAMLMap, YAMLSeq } from "yaml";
import { didYouMean } from "../../base/did_you_mean.ts";
import type { StageDeclaration } from "./config.ts";
import { MOST_STAGES } from "./limits.ts";
import type { PipelineSource } from "./source.ts";
import { show } from "./values.ts";

/** A named chain of stages, which a pipeline file takes with `recipe: NAME`. */
export interface Recipe {
	/** Name in pipeline files, such as "light". */
	name: string;
	/** One-line description. */
	summary: string;
	/** The mode, unless the file sets one. */
	mode?: "default" | "reference";
	/** Names of stages with options, which those of the file replace key by key. */
	stages: readonly (readonly [name: string, options?: Readonly<Record<string, unknown>>])[];
}

/** What the expansion of recipes knows. */
export interface RecipeContext {
	recipes: readonly Recipe[];
	stages: readonly StageDeclaration[];
}

/** A stage of the chain with the recipe's options, and its key and value in the file, if it is there. */
interface Link {
	name: string;
	options?: Readonly<Record<string, unknown>>;
	written?: Pair<Scalar, Node | null>;
}

/** The stages that a file can name. */
export function namedStages<S extends StageDeclaration>(stages: readonly S[]): S[] {
	return stages.filter(({ completes }) => completes === undefined);
}

/**
 * Replaces `recipe`, and the map of options in `stages`, by the list of stages that they mean.
 *
 * A stage of the map that the recipe lacks is inserted before the first one that comes later in the order
 * of all stages; the value `false` leaves a stage out. A file without a recipe stays as it is.
 *
 * @throws {PipelineFileError} With all problems so far, if there is no such recipe or no map beside it.
 */
export function expandRecipe(source: PipelineSource, { recipes, stages }: RecipeContext): void {
	const written = source.node(["stages"]);
	if (!source.has(["recipe"])) {
		if (!isMap(written) || recipes.length === 0) return;
		const remedy = `add "recipe: ${recipes[0].name}", or write them as a list`;
		const message = `"stages" is a map of options, which needs a recipe; ${remedy}`;
		source.report(source.place(["stages"], "key"), message);
		source.throwProblems();
	}
	const { recipe: name, stages: options = null } = source.value();
	const place = source.origin(["recipe"]) ?? source.place(["recipe"], "key");
	const recipe = recipes.find((recipe) => recipe.name === name);
	if (!recipe) source.report(source.place(["recipe"]), unknownRecipe(name, recipes));
	const map = source.node(["stages"]);
	if (isSeq(map)) {
		const message = '"recipe" stands beside a list of stages; leave out one of them, ' +
			'or write "stages" as a map of options';
		source.report(place, message);
	} else if (!isMap(map) && options !== null) {
		const message = `stages must be a map of options beside "recipe", found ${show(options)}`;
		source.report(source.place(["stages"]), message);
	}
	if (isMap(map) && map.items.length > MOST_STAGES) {
		const message = `stages must have at most ${MOST_STAGES} keys, found ${map.items.length}`;
		source.report(source.place(["stages"]), message);
		source.throwProblems();
	}
	if (!recipe || (!isMap(map) && options !== null)) source.throwProblems();

	const pairs = isMap(map) ? map.items as Pair<Scalar, Node | null>[] : [];
	const given = (value: unknown) => source.given(value, place);
	const list = isMap(map) ? new YAMLSeq<Node>() : given([]) as YAMLSeq<Node>;
	list.items = chainOf(recipe!, pairs, source, namedStages(stages))
		.map((link) => itemOf(link, given));
	list.commentBefore = [` Recipe ${recipe!.name}: ${recipe!.summary}`, map?.commentBefore]
		.filter((comment) => comment).join("\n");
	list.comment = map?.comment;
	list.range = map?.range;
	const mode = source.has(["mode"]) ? undefined : recipe!.mode;
	source.replaceRecipe(recipe!.name, list, given, mode);
}

function unknownRecipe(name: unknown, recipes: readonly Recipe[]): string {
	if (recipes.length === 0) return `Unknown recipe ${show(name)}; this program has none`;
	const known = recipes.map(({ name, summary }) => `${name} (${summary})`).join(", ");
	if (typeof name !== "string") {
		return `recipe must be a name, found ${show(name)}. Known recipes: ${known}`;
	}
	const guess = didYouMean(name, recipes.map(({ name }) => name));
	const meant = guess === undefined ? "." : `; did you mean "${guess}"?`;
	return `Unknown recipe ${show(name)}${meant} Known recipes: ${known}`;
}

/** The stages of a recipe as changed by the map of a file. */
function chainOf(
	recipe: Recipe,
	pairs: readonly Pair<Scalar, Node | null>[],
	source: PipelineSource,
	stages: readonly StageDeclaration[],
): Link[] {
	const names = stages.map(({ name }) => name);
	const chain: Link[] = recipe.stages.map(([name, options]) => ({ name, options }));
	const keys = pairs.map(({ key }) => String(key.value));
	// A misspelled stage stands where the one that it most likely means would.
	const meant = (key: string) => {
		const guess = names.includes(key) ? key : didYouMean(key, names);
		return guess === undefined || (guess !== key && keys.includes(guess)) ? key : guess;
	};
	const order = (key: string) => {
		const index = names.indexOf(meant(key));
		return index < 0 ? Infinity : index;
	};
	for (
		const written of pairs.toSorted((a, b) => order(`${a.key.value}`) - order(`${b.key.value}`))
	) {
		const key = String(written.key.value);
		if (key === "use") {
			const message = 'A stage with "use" stands only in a list of stages, which takes no recipe';
			source.report(source.place(["stages", key], "key"), message);
			continue;
		}
		const name = meant(key);
		const index = chain.findIndex((link) => link.name === name);
		const isLeftOut = isScalar(written.value) && written.value.value === false;
		if (isLeftOut && names.includes(key)) {
			if (index >= 0) chain.splice(index, 1);
		} else if (index >= 0) chain[index].written = written;
		else {
			const next = chain.findIndex((link) => order(link.name) > order(name));
			chain.splice(next < 0 ? chain.length : next, 0, { name, written });
		}
	}
	return chain;
}

/** The item of a stage in the list: `name` or `name: {options}`. */
function itemOf({ name, options, written }: Link, given: (value: unknown) => Node): Node {
	const hasOptions = options !== undefined && Object.keys(options).length > 0;
	if (!written) return given(hasOptions ? { [name]: options } : name);
	const { key } = written;
	let { value } = written;
	if (value === null || (isScalar(value) && value.value === null)) {
		if (!hasOptions) return key;
		value = given(options);
	} else if (isMap(value)) {
		for (const [option, preset] of Object.entries(options ?? {})) {
			if (!value.has(option)) value.add(new Pair(given(option), given(preset)));
		}
	}
	const item = new YAMLMap<Node, Node>();
	item.add(new Pair(key, value));
	item.range = key.range;
	item.commentBefore = key.commentBefore;
	item.spaceBefore = key.spaceBefore;
	key.commentBefore = key.spaceBefore = undefined;
	return item;
}
