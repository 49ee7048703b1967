import { basename, dirname, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  Pair,
  parseDocument,
  Scalar,
  visit,
  YAMLMap,
} from "yaml";
import { z } from "zod";
import { didYouMean } from "./did_you_mean.ts";
import { PipelineFileError, UserError } from "./errors.ts";
import { jsonSchemaOf, knownKeys, pipelineFields, schemaAt } from "./json_schema.ts";

export { pipelineJsonSchema } from "./json_schema.ts";

/** What this module must know of a stage. */
export interface StageDeclaration {
  /** What users write, such as "salient-select". */
  name: string;
  /** How often a run calls it. */
  scope: "model" | "layer" | "block";
  /** One line. */
  summary: string;
  /**
   * A strictObject whose keys are hyphenated, each with `.describe()` and mostly `.default()`.
   * A check's own message is what follows the key: "must be odd".
   */
  options: z.ZodObject;
  /** Option values that `mode: reference` uses where the file says nothing. */
  presets?: { reference?: Record<string, unknown> };
  /** The artifacts that earlier stages must give; a function where that depends on the options. */
  // deno-lint-ignore no-explicit-any -- each stage knows the type of its own options
  needs: readonly string[] | ((options: any) => readonly string[]);
  /** The artifacts that later stages may need. */
  gives: readonly string[];
  /** The artifacts that no earlier stage may give, because this one makes no use of them. */
  excludes?: readonly string[];
}

/** A stage of the pipeline with its checked options, defaults filled in. */
export interface PlannedStage<S extends StageDeclaration> {
  stage: S;
  // deno-lint-ignore no-explicit-any -- what `stage.options` parsed
  options: any;
  /** `file:line:column` of the stage's name, or of the module's if it has `use`. */
  where: string;
  /** Absolute path of the module if it has `use`. */
  module?: string;
}

/** A pipeline file, checked. */
export interface PipelineConfig<S extends StageDeclaration> {
  /** The file's path as the user gave it. */
  file: string;
  name: string;
  /** The folder of the model or its name on the hub, as written. */
  model: string;
  /** The folder of the run, as written. */
  output: string;
  /** An integer from 0 to 2³² - 1. */
  seed: number;
  mode: "default" | "reference";
  /** `memory` is a text such as "12GB". */
  gpu: { adapter: "auto" | "hardware" | "software"; memory?: string };
  stages: PlannedStage<S>[];
  /** The YAML as run: the file's own text or, after `--set`, the changed one, comments kept. */
  text: string;
}

/** What `loadPipeline()` may be told. */
export interface LoadOptions<S extends StageDeclaration> {
  /** The stages that a file may name. */
  stages: readonly S[];
  /**
   * Overrides `path=value`, such as `stages.calibrate.samples=16`; the value is YAML. `stages.NAME`
   * is the stage of that name. One with `use` has the name in its module, or its file's.
   */
  sets?: string[];
  /** Gives the default export of a `use` module; a UserError's message becomes a problem's text. */
  importStage?: (absolutePath: string) => Promise<S>;
}

/**
 * Reads a pipeline file, applies overrides and checks everything that can be checked without a run.
 *
 * @param path The YAML file; `use` modules are sought from its folder.
 * @returns The pipeline, with a default wherever neither the file nor `sets` says anything. In
 *   `mode: reference` a stage's preset comes before its default, key by key at the top level.
 * @throws {PipelineFileError} With all problems, in the order of the file, those of `sets` last.
 */
export async function loadPipeline<S extends StageDeclaration>(
  path: string,
  { stages, sets = [], importStage = importDefault }: LoadOptions<S>,
): Promise<PipelineConfig<S>> {
  const source = new PipelineSource(path, await readText(path));
  const load = stageLoader(path, importStage);
  await applySets(source, sets, load);
  const value = source.value();

  const checked = checkValue(pipelineFields, value, "");
  source.reportAll(checked.issues, []);
  const { mode } = checked.data ?? value;
  const list = Array.isArray(value.stages) ? value.stages : [];
  const entries: Entry<S>[] = [];
  for (const [index, item] of list.entries()) {
    entries.push(await readEntry(source, item, index, stages, mode === "reference", load));
  }
  checkChain(source, entries, stages);
  source.throwProblems();

  const fields = checked.data!;
  return {
    ...fields,
    file: path,
    output: fields.output ?? `out/${fields.name}`,
    stages: entries.map(({ stage, options, place, module }) => ({
      stage: stage!,
      options,
      where: place.where,
      module,
    })),
    text: source.text(),
  };
}

/** The artifacts that a stage needs with these options. */
export function needsOf(stage: StageDeclaration, options: unknown): readonly string[] {
  return typeof stage.needs === "function" ? stage.needs(options) : stage.needs;
}

// --- The file -----------------------------------------------------------------------------------

async function readText(file: string): Promise<string> {
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

/** Where a problem is; problems are sorted by `order`: offsets in the file, then the overrides. */
interface Place {
  where: string;
  order: number;
}

/** A place in the tree of a YAML document that holds a value, or could. */
interface Slot {
  node: Node | null;
  put(node: Node): void;
}

type Path = readonly PropertyKey[];

/** The YAML document with the place of each value, and the problems found so far. */
class PipelineSource {
  readonly #file: string;
  readonly #text: string;
  readonly #lines = new LineCounter();
  readonly #document: Document;
  /** The override that a node came from. */
  readonly #origins = new Map<Node, Place>();
  readonly #problems: { place: Place; message: string }[] = [];
  #changed = false;

  /** @throws {PipelineFileError} If the text is not YAML or not a map. */
  constructor(file: string, text: string) {
    this.#file = file;
    this.#text = text;
    this.#document = parseDocument(text, {
      lineCounter: this.#lines,
      prettyErrors: false,
      uniqueKeys: false, // checked below, with the key's name
      logLevel: "error", // yaml's warnings are problems here, not console lines
    });
    for (const { pos, message } of [...this.#document.errors, ...this.#document.warnings]) {
      this.report(this.#at(pos[0]), `Not valid YAML: ${message}`);
    }
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
    this.#checkKeys();
  }

  report(place: Place, message: string): void {
    this.#problems.push({ place, message });
  }

  /** Reports the issues of the value at `path`. */
  reportAll(issues: Issue[], path: Path): void {
    for (const { message, path: inner, part } of issues) {
      this.report(this.place([...path, ...inner], part), message);
    }
  }

  /** @throws {PipelineFileError} If there is any problem. */
  throwProblems(): void {
    if (this.#problems.length === 0) return;
    const sorted = this.#problems.toSorted((a, b) => a.place.order - b.place.order);
    throw new PipelineFileError(
      sorted.map(({ place, message }) => ({ where: place.where, message })),
    );
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
    for (const [depth, key] of path.entries()) {
      if (isAlias(node)) node = node.resolve(this.#document);
      const pair: Pair | undefined = isMap(node) ? pairOf(node, String(key)) : undefined;
      const wantsKey = part === "key" && depth === path.length - 1;
      node = (isSeq(node) ? node.items[Number(key)] : wantsKey ? pair?.key : pair?.value) as Node;
      if (!node && !pair) break;
      if (!node || isEmpty(node)) { // `key:` and nothing: the key is what can be pointed at
        offset = (pair?.key as Node | undefined)?.range?.[0] ?? node?.range?.[0] ?? offset;
      } else offset = node.range?.[0] ?? offset;
      origin = this.#origins.get(node ?? pair!.key as Node) ?? origin;
    }
    return origin ?? this.#at(offset);
  }

  /** The slot of the pipeline's own map, the start of every override's path. */
  root(): Slot {
    return { node: this.#document.contents, put() {} };
  }

  /** The slot of the list of stages, if there is one. */
  stages(): Slot {
    const list = pairOf(this.#document.contents as YAMLMap, "stages")?.value ?? null;
    return { node: list, put() {} };
  }

  /**
   * The slot one key further; a map or key that is not there is made.
   *
   * @param name The way to `slot`, as the user wrote it.
   * @returns The slot, or what is wrong.
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

  /** Writes an override's value into a slot. */
  set(slot: Slot, value: Node, place: Place): void {
    this.#origins.set(value, place);
    this.#put(slot, value);
  }

  /** Makes `- name` the map `- name: {}`, for an override to go into. */
  giveOptions(slot: Slot, name: Scalar): YAMLMap {
    const map = new YAMLMap();
    const options = new YAMLMap();
    map.range = options.range = name.range;
    this.#put(slot, map);
    map.add(new Pair<Node, Node>(name, options));
    return map;
  }

  /** Puts a node in a slot; it keeps the comments and the anchor of what was there. */
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
    return { where: `${this.#file}:${line}:${col}`, order: offset };
  }

  /** @throws {PipelineFileError} If a key is not a plain word, as the places of its map are lost. */
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

  /** @throws {PipelineFileError} If an alias has no anchor or stands within its own value. */
  #checkAliases(): void {
    let haveValues = true;
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

/** The pair of a key; the last one if the key occurs twice, as in the plain value. */
function pairOf(map: YAMLMap, key: string): Pair<Node, Node | null> | undefined {
  return (map.items as Pair<Node, Node | null>[]).findLast((pair) =>
    isScalar(pair.key) && String(pair.key.value) === key
  );
}

function isEmpty({ range }: Node): boolean {
  return range !== undefined && range !== null && range[0] === range[1];
}

// --- Overrides ----------------------------------------------------------------------------------

async function applySets<S extends StageDeclaration>(
  source: PipelineSource,
  sets: string[],
  load: StageLoader<S>,
): Promise<void> {
  for (const [index, text] of sets.entries()) {
    const place = { where: `--set ${text}`, order: Number.MAX_SAFE_INTEGER - sets.length + index };
    const problem = await applySet(source, text, place, load);
    if (problem) source.report(place, problem);
  }
}

/** Applies one override, or says what is wrong with it. */
async function applySet<S extends StageDeclaration>(
  source: PipelineSource,
  text: string,
  place: Place,
  load: StageLoader<S>,
): Promise<string | undefined> {
  const [, name, written] = text.match(/^([^=]+)=(.*)$/s) ?? [];
  const keys = name?.split(".") ?? [""];
  if (keys.includes("")) return "Not of the form path=value";
  const document = parseDocument(written, { prettyErrors: false });
  const [error] = [...document.errors, ...document.warnings];
  if (error) return `Not valid YAML: ${error.message}`;

  let slot = source.root();
  let done = 0;
  if (keys[0] === "stages" && keys.length > 1) {
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
  source.set(slot, document.contents ?? new Scalar(null), place);
}

/** The slot of the options of the stage that an override names, or what is wrong. */
async function stageSlot<S extends StageDeclaration>(
  source: PipelineSource,
  name: string,
  goesOn: boolean,
  place: Place,
  load: StageLoader<S>,
): Promise<Slot | string> {
  const names: string[] = [];
  const list = source.stages();
  if (isSeq(list.node)) {
    for (const index of list.node.items.keys()) {
      const item = source.child(list, String(index), "stages", place) as Slot;
      const use = isMap(item.node) ? item.node.get("use") : undefined;
      const itemNames = typeof use === "string"
        ? [(await load(use)).stage?.name, basename(use, extname(use))]
        : [isMap(item.node) ? item.node.items[0]?.key : item.node].map(String);
      names.push(...itemNames.filter((name) => name !== undefined));
      if (!itemNames.includes(name)) continue;
      if (use !== undefined) {
        return goesOn ? item : 'A stage with "use" has its options set one by one';
      }
      const map = isScalar(item.node) ? source.giveOptions(item, item.node) : item.node;
      return source.child({ ...item, node: map }, name, "stages", place);
    }
  }
  return `"stages.${name}" names no stage of this pipeline${hint(name, names)}`;
}

// --- Stages -------------------------------------------------------------------------------------

/** An item of `stages`; `stage` and `options` are missing where they could not be found out. */
interface Entry<S extends StageDeclaration> {
  stage?: S;
  /** The stage that an unknown name most likely stands for. */
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
      const meant = guess ? `; did you mean "${guess}"?` : ".";
      source.report(place, `Unknown stage "${name}"${meant} ${known}`);
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
  const preset = reference ? stage.presets?.reference : undefined;
  const value = isRecord(written) ? { ...preset, ...written } : written;
  const { data, issues } = checkValue(stage.options, value, stage.name);
  source.reportAll(issues, path);
  return { place, stage, options: data, module };
}

/** Checks that each stage occurs once, in an order of scopes that can be run, after what it needs. */
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
        : "which no stage gives";
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

// --- Stages of the user's own -------------------------------------------------------------------

interface LoadedStage<S> {
  stage?: S;
  module?: string;
  problems: string[];
}

/** Loads the stage of a `use` module. */
type StageLoader<S> = (use: string) => Promise<LoadedStage<S>>;

const isStrictObject = (value: unknown) =>
  (value as z.ZodObject | undefined)?._zod?.def?.catchall?._zod.def.type === "never";

const artifactNames = z.array(z.string());

/** The form of a stage from a user's module, where no compiler has seen it. */
const stageForm = z.object({
  name: z.string().min(1).describe("what the pipeline's messages call it"),
  scope: z.enum(["model", "layer", "block"]).describe("how often it runs"),
  summary: z.string().describe("what it does, in one line"),
  options: z.custom<z.ZodObject>(isStrictObject, "must be a zod strictObject")
    .describe("a zod strictObject of its options"),
  presets: z.object({ reference: z.record(z.string(), z.unknown()).optional() }).optional(),
  needs: z.custom<StageDeclaration["needs"]>(
    (value) => typeof value === "function" || artifactNames.safeParse(value).success,
    "must be a list of artifact names, or a function of the options that gives one",
  ).describe("the artifacts that earlier stages must give"),
  gives: artifactNames.describe("the artifacts that later stages may need"),
  excludes: artifactNames.optional().describe("the artifacts that earlier stages must not give"),
  run: z.custom((value) => typeof value === "function", "must be a function")
    .describe("the function that does the work"),
});

function stageLoader<S extends StageDeclaration>(
  file: string,
  importStage: (absolutePath: string) => Promise<S>,
): StageLoader<S> {
  const loaded = new Map<string, Promise<LoadedStage<S>>>();
  const load = async (use: string): Promise<LoadedStage<S>> => {
    const fail = (reason: string) => `Cannot load the stage "${use}": ${reason}`;
    const module = resolve(dirname(file), use);
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
async function importDefault<S>(absolutePath: string): Promise<S> {
  try {
    await Deno.stat(absolutePath);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw new UserError("no such file");
    throw error;
  }
  return (await import(pathToFileURL(absolutePath).href)).default;
}

// --- Values -------------------------------------------------------------------------------------

/** One thing wrong in a value: `part` of what stands at `path` in it. */
interface Issue {
  path: Path;
  part: "key" | "value";
  message: string;
}

/**
 * Parses a value and says in our own words what is wrong with it.
 *
 * @param title What the texts call the value; empty for the pipeline itself.
 */
function checkValue<T extends z.ZodObject>(
  schema: T,
  value: unknown,
  title: string,
): { data?: z.output<T>; issues: Issue[] } {
  const result = schema.safeParse(value, { error: requirement });
  if (result.success) return { data: result.data, issues: [] };
  const json = jsonSchemaOf(schema);
  const nameOf = (path: Path) => [title, ...path].filter((part) => part !== "").join(".");
  const at = (path: Path) => path.reduce((inner: unknown, key) => Object(inner)[key], value);

  const issues = result.error.issues.flatMap(innerIssues).flatMap((issue): Issue[] => {
    const { path } = issue;
    if (issue.code === "unrecognized_keys") {
      const known = knownKeys(json, path);
      const map = nameOf(path) || "the pipeline";
      return issue.keys.map((key) => ({
        path: [...path, key],
        part: "key",
        message: `Unknown key "${key}" in ${map}${hint(key, known, "known keys")}`,
      }));
    }
    const parent = path.slice(0, -1);
    const key = path.at(-1);
    const found = at(path);
    if (found === undefined && key !== undefined && !Object.hasOwn(Object(at(parent)), key)) {
      if (issue.code === "custom" && !schemaAt(json, parent)?.required?.includes(String(key))) {
        return [{ path, part: "value", message: text(issue, "") }];
      }
      const description = schemaAt(json, path)?.description;
      const message = `${nameOf(parent) || "The pipeline"} lacks "${String(key)}"` +
        (description ? `: ${description}` : "");
      return [{ path: parent, part: "value", message }];
    }
    const guess = typeof found === "string" ? didYouMean(found, choicesOf(issue)) : undefined;
    const meant = guess === undefined ? "" : `; did you mean "${guess}"?`;
    return [{ path, part: "value", message: text(issue, `, found ${show(found)}${meant}`) }];
  });
  return { issues };

  function text({ path, message }: z.core.$ZodIssue, rest: string): string {
    return `${nameOf(path) || "The pipeline"} ${message}${rest}`;
  }
}

const kinds: Record<string, string> = {
  int: "a whole number",
  number: "a number",
  string: "a string",
  boolean: "true or false",
  array: "a list",
  tuple: "a list",
  object: "a map",
  record: "a map",
  null: "null",
};

/** What a value should have been, to follow its name: "must be at least 1". */
function requirement(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case "invalid_type": {
      const wantsNumber = issue.expected === "int" || issue.expected === "number";
      if (wantsNumber && typeof issue.input === "number" && !Number.isFinite(issue.input)) {
        return "must be a finite number";
      }
      // Of a word where an integer is wanted, zod says "number".
      const isWhole = wantsNumber && (issue.inst as z.ZodNumber | undefined)?.isInt;
      return `must be ${kinds[isWhole ? "int" : issue.expected] ?? issue.expected}`;
    }
    case "invalid_value":
      return mustBeOneOf(issue.values);
    case "too_small":
      return boundText(issue.origin, "at least", "more than", issue.minimum, issue.inclusive);
    case "too_big":
      return boundText(issue.origin, "at most", "less than", issue.maximum, issue.inclusive);
    case "not_multiple_of":
      return `must be a multiple of ${issue.divisor}`;
    case "invalid_format":
      return `must match ${issue.pattern ?? issue.format}`;
    case "invalid_union": {
      const options = issue.errors.map((errors) => errors[0].message.replace(/^must be /, ""));
      return options.length > 0
        ? `must be ${[...new Set(options)].join(" or ")}`
        : mustBeOneOf(choicesOf(issue));
    }
  }
}

function mustBeOneOf(values: readonly unknown[]): string {
  return `must be ${values.length > 1 ? "one of " : ""}${values.map(show).join(", ")}`;
}

function boundText(
  origin: string,
  inclusive: string,
  exclusive: string,
  bound: unknown,
  isInclusive = true,
): string {
  const limit = `${isInclusive ? inclusive : exclusive} ${bound}`;
  const unit = origin === "string" ? "character" : origin === "array" ? "item" : undefined;
  if (!unit) return `must be ${limit}`;
  if (limit === "at least 1") return "must not be empty";
  return `must have ${limit} ${unit}${bound === 1 ? "" : "s"}`;
}

/** The issues to tell of: of a union, those of the one option whose kind the value has. */
function innerIssues(
  issue: z.core.$ZodIssue,
  _: number,
  all: z.core.$ZodIssue[],
): z.core.$ZodIssue[] {
  if (issue.code === "invalid_union") {
    const isOfOtherKind = ({ code, path }: z.core.$ZodIssue) =>
      path.length === 0 && (code === "invalid_type" || code === "invalid_value");
    const near = issue.errors.find((errors) => !errors.some(isOfOtherKind));
    return near
      ? near.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] }))
        .flatMap(innerIssues)
      : [issue];
  }
  // Of a huge whole number zod says twice that it is too big; the option's own bound says more.
  const isExactness = "note" in issue && (issue.code === "too_big" || issue.code === "too_small");
  const hasOther = all.some((other) =>
    other !== issue && other.path.join(".") === issue.path.join(".")
  );
  return isExactness && hasOther ? [] : [issue];
}

/** The words that would have been right. */
function choicesOf(issue: z.core.$ZodIssue | z.core.$ZodRawIssue): string[] {
  if (issue.code === "invalid_value") {
    return (issue.values as unknown[]).filter((value) => typeof value === "string");
  }
  if (issue.code !== "invalid_union") return [];
  const options = "options" in issue ? issue.options as unknown[] : [];
  return [
    ...options.filter((value) => typeof value === "string"),
    ...(issue.errors as z.core.$ZodIssue[][]).flat().flatMap(choicesOf),
  ];
}

/** The end of a text about an unknown word: the nearest known one, or all of them. */
function hint(word: string, known: readonly string[], title = "its stages"): string {
  const guess = didYouMean(word, known);
  if (guess !== undefined) return `; did you mean "${guess}"?`;
  return known.length > 0 ? `; ${title}: ${known.join(", ")}` : "";
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value as JSON, cut after 60 characters. */
function show(value: unknown): string {
  if (typeof value === "number") return String(value); // JSON has no NaN
  const proto = Object(value) === value ? Object.getPrototypeOf(value) : null;
  if (proto !== null && proto !== Object.prototype && !Array.isArray(value)) {
    return `a ${proto.constructor.name}`;
  }
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
