import {
	Composer,
	Document,
	isAlias,
	isMap,
	isScalar,
	isSeq,
	Lexer,
	LineCounter,
	type Node,
	Pair,
	Parser,
	Scalar,
	visit,
	YAMLMap,
} from "yaml";
import { counted, listed } from "../../base/figures.ts";
import { MOST_LEVELS } from "../../storage/json_nesting.ts";
import { PipelineFileError } from "./errors.ts";
import { pipelineFields } from "./json_schema.ts";
import { MOST_ALIASES, MOST_LETTERS, MOST_PROBLEMS } from "./limits.ts";
import { cut, type Issue, type Path, show } from "./values.ts";

/** The text of a pipeline file. @throws {PipelineFileError} If it cannot be read or is not text. */
export async function readText(file: string): Promise<string> {
	const fail = (reason: string) =>
		new PipelineFileError([
			{ where: file, message: `Cannot read the pipeline file "${file}": ${reason}` },
		]);
	let bytes: Uint8Array;
	try {
		bytes = await Deno.readFile(file);
	} catch (error) {
		if (error instanceof Deno.errors.NotFound) throw fail("no such file");
		if (error instanceof Deno.errors.NotADirectory) throw fail("no such file");
		if (error instanceof Deno.errors.IsADirectory) throw fail("it is a folder");
		throw fail((error as Error).message);
	}
	try {
		return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
	} catch {
		throw fail("it is not UTF-8 text");
	}
}

/** As many keys that no pipeline has are taken for another kind of file. */
const MOST_OTHER_KEYS = 5;

const PIPELINE_KEYS = Object.keys(pipelineFields.shape);

/** What messages of the parser mean. */
const HINTS: Record<string, string> = {
	"Implicit keys need to be on a single line": 'a line here is neither "key: value" nor an item',
	"Implicit map keys need to be followed by map values": "a colon is missing behind a key",
};

/** The place of a problem; problems are sorted by `order`: offsets in the file, then overrides. */
export interface Place {
	where: string;
	order: number;
}

/** A slot for a value in a YAML document, possibly empty. */
export interface Slot {
	node: Node | null;
	put(node: Node): void;
}

/** A YAML document with the place of each value, and the problems found so far. */
export class PipelineSource {
	readonly #text: string;
	readonly #lines = new LineCounter();
	readonly #document: Document;
	/** The override that a node comes from. */
	readonly #origins = new Map<Node, Place>();
	/** The place of the recipe that a node comes from; nodes of the file within have their own. */
	readonly #given = new Map<Node, Place>();
	readonly #problems: { place: Place; message: string }[] = [];
	#changed = false;
	#recipe?: string;

	/**
	 * @param folder The folder of the file; absent if there is no file.
	 * @throws {PipelineFileError} If the text is not YAML or not a map.
	 */
	constructor(readonly file: string, text: string, readonly folder?: string) {
		this.#text = text;
		const { document, problems } = parseYaml(text, this.#lines);
		this.#document = document;
		for (const { offset, message } of problems) this.report(this.#at(offset), message);
		this.throwProblems();
		const root = this.#document.contents;
		if (!isMap(root)) {
			const found = isScalar(root) ? show(root.value) : isSeq(root) ? "a list" : "an alias";
			const form = 'a map with "name", "model" and "stages"';
			this.report(
				this.#at(root?.range?.[0] ?? 0),
				root === null
					? `The pipeline file is empty; it must be ${form}`
					: `The pipeline must be ${form}, found ${found}`,
			);
			this.throwProblems();
		}
		this.#refuseOtherFiles(root as YAMLMap);
		this.#checkKeys();
	}

	/** @throws {PipelineFileError} If the keys are not those of a pipeline, as in a model's config.json. */
	#refuseOtherFiles(root: YAMLMap): void {
		const keys = root.items.map(({ key }) => String((key as Scalar)?.value));
		const others = keys.filter((key) => !PIPELINE_KEYS.includes(key));
		if (others.length < MOST_OTHER_KEYS || keys.length - others.length > 1) return;
		const what = keys.includes("model_type")
			? "the configuration of a model; for a pipeline file for the model: deno task init FOLDER"
			: `a map with ${listed(others.slice(0, MOST_OTHER_KEYS), "and")} in place of ` +
				`${PIPELINE_KEYS.join(", ")}`;
		this.report(this.#at(0), `This is no pipeline file: it is ${what}`);
		this.throwProblems();
	}

	/** The problems found so far. */
	get problems(): readonly { place: Place; message: string }[] {
		return this.#problems;
	}

	/** The recipe that gave the stages, if any. */
	get recipe(): string | undefined {
		return this.#recipe;
	}

	/** Whether there is a recipe, or a map of options for one, that is not expanded yet. */
	get awaitsRecipe(): boolean {
		return this.has(["recipe"]) || isMap(this.node(["stages"]));
	}

	report(place: Place, message: string): void {
		this.#problems.push({ place, message });
	}

	/** Reports the issues of the value at `path`. */
	reportAll(issues: Issue[], path: Path): void {
		const places = issues.slice(0, MOST_PROBLEMS) // finding one takes long in a long map
			.map(({ path: inner, part }) => this.place([...path, ...inner], part));
		for (const [i, { message }] of issues.entries()) {
			this.report(places[i] ?? places.at(-1)!, message);
		}
	}

	/** @throws {PipelineFileError} If there is any problem. */
	throwProblems(): void {
		throwSorted(this.#problems);
	}

	/** The document as plain values. @throws {PipelineFileError} If an alias has no value. */
	// deno-lint-ignore no-explicit-any -- nothing is known of it yet
	value(): any {
		this.#checkAliases();
		try {
			return this.#document.toJS();
		} catch (error) {
			if (error instanceof ReferenceError) { // aliases of aliases that would fill the memory
				this.report(this.#at(0), `Not valid YAML: ${error.message}`);
				this.throwProblems();
			}
			throw error;
		}
	}

	text(): string {
		return this.#changed ? this.#document.toString({ lineWidth: 0 }) : this.#text;
	}

	/** The place of the key or value at `path`, or of the innermost map or list that exists. */
	place(path: Path, part: "key" | "value" = "value"): Place {
		let node: Node | null | undefined = this.#document.contents;
		let origin = this.#origins.get(node!);
		let offset = node?.range?.[0] ?? 0;
		let isGiven = false;
		for (const [depth, key] of path.entries()) {
			if (isAlias(node)) node = node.resolve(this.#document);
			const pair: Pair | undefined = isMap(node) ? pairOf(node, String(key)) : undefined;
			const wantsKey = part === "key" && depth === path.length - 1;
			node = (isSeq(node) ? node.items[Number(key)] : wantsKey ? pair?.key : pair?.value) as Node;
			if (!node && !pair) break;
			if (!node || isEmpty(node)) { // `key:` without a value: the place is that of the key
				offset = (pair?.key as Node | undefined)?.range?.[0] ?? node?.range?.[0] ?? offset;
			} else offset = node.range?.[0] ?? offset;
			const found = node ?? pair!.key as Node;
			const own = this.#origins.get(found);
			const given = this.#given.get(found);
			if (own ?? given) {
				origin = own ?? given;
				isGiven = own === undefined;
			} else if (isGiven && found.range) {
				origin = undefined;
				isGiven = false;
			}
		}
		return origin ?? this.#at(offset);
	}

	/** The slot of the root map, where the path of each override begins. */
	root(): Slot {
		return { node: this.#document.contents, put() {} };
	}

	/** The slots of the items of `stages`; none if it is not a list. */
	stageSlots(): Slot[] {
		const list = pairOf(this.#document.contents as YAMLMap, "stages")?.value;
		if (!isSeq(list)) return [];
		return list.items.map((node, index) => ({
			node: node as Node | null,
			put: (value) => list.items[index] = value,
		}));
	}

	/** Whether `path` exists, possibly with the value null. */
	has(path: Path): boolean {
		const parent = this.node(path.slice(0, -1));
		return isMap(parent)
			? pairOf(parent, String(path.at(-1))) !== undefined
			: this.node(path) !== undefined;
	}

	/** The node at `path`, through maps and lists only. */
	node(path: Path): Node | undefined {
		let node: Node | null | undefined = this.#document.contents;
		for (const key of path) {
			if (isMap(node)) node = pairOf(node, String(key))?.value;
			else node = isSeq(node) ? node.items[Number(key)] as Node : undefined;
		}
		return node ?? undefined;
	}

	/** The override that the node at `path`, or a node around it, comes from. */
	origin(path: Path): Place | undefined {
		const nodes = path.map((_, depth) => this.node(path.slice(0, depth + 1)));
		return nodes.map((node) => node && this.#origins.get(node)).findLast((origin) => origin);
	}

	/** Whether the value at `path` comes from the command line. */
	isOverride(path: Path): boolean {
		return this.origin(path)?.where.startsWith("--") ?? false;
	}

	/** Replaces a string, which keeps its place; all aliases must be valid. */
	replaceString(path: Path, text: string): void {
		if (!isScalar(this.node(path))) this.inlineAliases();
		(this.node(path) as Scalar).value = text;
		this.#changed = true;
	}

	/** Removes a key of the root map. */
	remove(key: string): void {
		const root = this.#document.contents as YAMLMap;
		root.items = root.items.filter((pair) => pair !== pairOf(root, key));
		this.#changed = true;
	}

	/** A node for a value of a recipe, whose problems are reported at `place`. */
	given(value: unknown, place: Place): Node {
		const node = this.#document.createNode(value);
		visit(node, { Node: (_, inner) => void this.#given.set(inner, place) });
		return node;
	}

	/**
	 * Puts a list of stages in the place of `recipe` and of `stages`.
	 *
	 * @param given Makes the node of a value of the recipe.
	 * @param mode The mode that the recipe sets, if any.
	 */
	replaceRecipe(
		recipe: string,
		stages: Node,
		given: (value: unknown) => Node,
		mode: string | undefined,
	): void {
		const root = this.#document.contents as YAMLMap;
		const added = mode === undefined ? [] : [new Pair(given("mode"), given(mode))];
		const written = pairOf(root, "stages");
		if (written) written.value = stages;
		else added.push(new Pair(given("stages"), stages));
		root.items.splice(root.items.indexOf(pairOf(root, "recipe")!), 1, ...added);
		this.#recipe = recipe;
		this.#changed = true;
	}

	/** Replaces aliases by copies of their targets, so that parts can be moved; all aliases must be valid. */
	inlineAliases(): void {
		const document = this.#document;
		visit(document, {
			Alias: (_, alias) => {
				const target = alias.resolve(document)!;
				const copy = target.clone() as Node;
				const origin = this.#origins.get(alias) ?? this.#origins.get(target);
				if (origin) this.#origins.set(copy, origin);
				return copy;
			},
		});
		visit(document, { Value: (_, node) => void delete node.anchor });
		this.#changed = true;
	}

	/**
	 * The slot of a key below `slot`; a missing map or key is created.
	 *
	 * @param name The path to `slot`, as written.
	 * @returns The slot, or the problem.
	 */
	child(slot: Slot, key: string, name: string, place: Place): Slot | string {
		let { node } = slot;
		if (node === null || (isScalar(node) && node.value === null)) {
			const map = new YAMLMap();
			if (node) map.range = node.range;
			else this.#origins.set(map, place);
			this.#put(slot, map);
			node = map;
		}
		if (isAlias(node)) {
			return `"${name}" is the alias "*${node.source}"; write the value out in the file to change it`;
		}
		if (isSeq(node)) {
			const { items } = node;
			const index = /^\d+$/.test(key) ? Number(key) : items.length;
			if (index >= items.length) return `"${name}" is a list of ${items.length} with no "${key}"`;
			return { node: items[index] as Node | null, put: (value) => items[index] = value };
		}
		if (!isMap(node)) return `"${name}" is ${show((node as Scalar).value)} and has no "${key}"`;
		let pair = pairOf(node, key);
		if (!pair) {
			const keyNode = new Scalar(key);
			this.#origins.set(keyNode, place);
			node.add(pair = new Pair<Node, Node | null>(keyNode, null));
		}
		return { node: pair.value, put: (value) => pair.value = value };
	}

	/** Writes a value into a slot; `origin` is the override that it comes from, if any. */
	set(slot: Slot, value: Node, origin?: Place): void {
		if (origin) this.#origins.set(value, origin);
		this.#put(slot, value);
	}

	/** Turns `- name` into the map `- name: {}`, so that an override can set an option. */
	giveOptions(slot: Slot, name: Scalar): YAMLMap {
		const map = new YAMLMap();
		const options = new YAMLMap();
		map.range = options.range = name.range;
		const place = this.#given.get(name);
		if (place) [map, options].forEach((node) => this.#given.set(node, place));
		this.#put(slot, map);
		map.add(new Pair<Node, Node>(name, options));
		return map;
	}

	/** Puts a node into a slot, with the comments and the anchor of the old node. */
	#put(slot: Slot, node: Node): void {
		const old = slot.node;
		if (old) {
			node.comment ??= old.comment;
			node.commentBefore = old.commentBefore;
			node.spaceBefore = old.spaceBefore;
			old.comment = old.commentBefore = null;
			if (!isAlias(old) && !isAlias(node)) node.anchor ??= (old as Scalar).anchor;
		}
		slot.put(node);
		this.#changed = true;
	}

	#at(offset: number): Place {
		const { line, col } = this.#lines.linePos(offset);
		return { where: `${this.file}:${line}:${col}`, order: offset };
	}

	/** @throws {PipelineFileError} If a key is not a scalar, because the places in its map are lost. */
	#checkKeys(): void {
		let arePlain = true;
		visit(this.#document, {
			Map: (_, map) => {
				const seen = new Set<string>();
				for (const { key } of map.items) {
					const place = this.#at((key as Node).range?.[0] ?? 0);
					if (!isScalar(key)) {
						arePlain = false;
						this.report(place, "A key must be a word, not a list, map or alias");
					} else if (seen.has(String(key.value))) {
						this.report(place, `Key "${key.value}" occurs twice in this map; a key may occur once`);
					} else seen.add(String(key.value));
				}
			},
		});
		if (!arePlain) this.throwProblems();
	}

	/** @throws {PipelineFileError} If an alias has no anchor or is within its own value. */
	#checkAliases(): void {
		let haveValues = true;
		let count = 0;
		let last: number | undefined;
		visit(this.#document, {
			Alias(_, { range }) {
				if (++count <= MOST_ALIASES) return;
				last = range?.[0];
				return visit.BREAK;
			},
		});
		if (last !== undefined) {
			this.report(this.#at(last), `More than ${MOST_ALIASES} aliases; write some values out`);
			this.throwProblems();
		}
		visit(this.#document, {
			Alias: (_, alias, ancestors) => {
				const target = alias.resolve(this.#document);
				if (target && !ancestors.includes(target)) return;
				haveValues = false;
				const reason = target ? "stands within its own value" : "has no anchor before it";
				const origins = [...ancestors, alias].map((node) => this.#origins.get(node as Node));
				const place = origins.findLast((origin) => origin) ?? this.#at(alias.range?.[0] ?? 0);
				this.report(place, `Alias "*${alias.source}" ${reason}`);
			},
		});
		if (!haveValues) this.throwProblems();
	}
}

/** A document of YAML, empty if it is nested too deep, with its problems and their places in the text. */
export function parseYaml(
	text: string,
	lineCounter?: LineCounter,
): { document: Document; problems: { offset: number; message: string }[] } {
	let deep: number | undefined;
	// The parser is not recursive, unlike what makes values of its tokens.
	const parser = new Parser(lineCounter?.addNewLine);
	const tokens = function* () {
		lineCounter?.addNewLine(0);
		for (const lexeme of new Lexer().lex(text)) {
			yield* parser.next(lexeme);
			if (parser.stack.length <= MOST_LEVELS) continue;
			deep = parser.offset;
			return;
		}
		yield* parser.end();
	};
	const composer = new Composer({
		prettyErrors: false,
		uniqueKeys: false, // checked by the source, with the key's name
		logLevel: "error", // yaml's warnings are problems here, not console lines
	});
	const [document, second] = composer.compose(tokens(), true, text.length);
	if (deep !== undefined) {
		const message = `Nested too deep: more than ${MOST_LEVELS} lists and maps within each other`;
		return { document: new Document(null), problems: [{ offset: deep, message }] };
	}
	const problems = [...document.errors, ...document.warnings].map(({ pos: [offset], message }) => ({
		offset,
		message: `Not valid YAML: ${HINTS[message] ?? message}`,
	}));
	// All others may come of the tabs.
	const tabs = problems.filter(({ message }) => message.includes("Tabs are not allowed"));
	if (tabs.length > 0) {
		const more = tabs.length > 1 ? `, here and in ${counted(tabs.length - 1, "more line")}` : "";
		problems.splice(0, Infinity, tabs[0]);
		tabs[0].message += `${more}; write spaces`;
	}
	if (second) {
		const message = "Not valid YAML: The text has more than one document";
		problems.push({ offset: second.range[0], message });
	}
	return { document, problems };
}

/**
 * Throws problems in the order of their places.
 *
 * @throws {PipelineFileError} If there is any.
 */
export function throwSorted(problems: readonly { place: Place; message: string }[]): void {
	if (problems.length === 0) return;
	const sorted = problems.toSorted((a, b) => a.place.order - b.place.order);
	const told = sorted.slice(0, MOST_PROBLEMS)
		.map(({ place, message }) => ({ where: place.where, message: cut(message, MOST_LETTERS) }));
	const more = sorted.length - told.length;
	if (more > 0) {
		const { where } = sorted[MOST_PROBLEMS].place;
		told.push({ where, message: `${counted(more, "more problem")} from here on` });
	}
	throw new PipelineFileError(told);
}

/** The pair of a key; the last one if the key occurs twice, as in the plain value. */
function pairOf(map: YAMLMap, key: string): Pair<Node, Node | null> | undefined {
	return (map.items as Pair<Node, Node | null>[]).findLast((pair) =>
		isScalar(pair.key) && String(pair.key.value) === key
	);
}

function isEmpty({ range }: Node): boolean {
	return range !== undefined && range !== null && range[0] === range[1];
}
