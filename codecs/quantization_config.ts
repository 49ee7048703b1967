import { UserError } from "../base/errors.ts";
import { isRecord } from "../base/record.ts";
import { LEAST_RUN, MOST_RUN, type Rotation, runFor } from "../gpu/kernels/rotation/rotation.ts";
import { TRANSFORMS_SINCE, versionProblem } from "../storage/packed_metadata.ts";

/**
 * The `quantization_config` object in the config.json of a packed model.
 *
 * @internal
 */
export interface QuantizationConfig {
	quant_method: "billm";
	/** The stage that quantized the linear layers, such as "gptq"; absent for BiLLM's own method. */
	method?: string;
	format_version: number;
	/** Columns that share scales. */
	block_size: number;
	/**
	 * Columns of each linear layer by module, or by full name where decoder layers differ. Needed because
	 * the stored bits are padded to whole words.
	 */
	columns: Record<string, number>;
	/**
	 * Fused modules, whose weights are one tensor in the plain model ("self_attn.qkv_proj"), each with the
	 * linear layers that its rows hold, in order. Absent if there are none.
	 */
	fused?: Record<string, string[]>;
	/**
	 * The fused modules that stack the matrices of several groups of linear layers, such as experts, one
	 * after the other. Absent if there are none.
	 */
	stacked?: Record<string, StackConfig>;
	/** The rotation of the inputs of linear layers; absent if none is rotated. */
	rotation?: RotationConfig;
}

/** How a fused module stacks matrices. */
export interface StackConfig {
	matrices: number;
	/**
	 * Whether rows of the linear layers of a matrix are its columns, which take turns; the tensor is then
	 * named as the module, without ".weight".
	 */
	columns?: boolean;
}

/** The name of the hash that gives the signs of a rotation; see `isNegative()`. */
const GENERATOR = "hash32";

/**
 * The `rotation` object of `quantization_config`.
 *
 * @internal
 */
export interface RotationConfig {
	/** The name of the hash that gives the signs. */
	generator: typeof GENERATOR;
	seed: number;
	/**
	 * The most entries that are transformed together, a power of two. For a linear layer it is the largest
	 * power of two up to this one that divides its columns.
	 */
	block: number;
	/**
	 * The rotated linear layers by module, or by full name where decoder layers differ; all of them if
	 * absent.
	 */
	modules?: string[];
}

/**
 * Reads `quantization_config`.
 *
 * @returns Undefined for a model that is not quantized, or whose experts are stored in MXFP4.
 * @throws {UserError} If the model was quantized by another method or a later version of this one, or
 *   if a field is missing or invalid.
 */
export function readQuantizationConfig(
	config: Record<string, unknown>,
	file: string,
): QuantizationConfig | undefined {
	const found = config.quantization_config as QuantizationConfig | undefined;
	// Tensors in MXFP4 are read as what they stand for.
	if (found == null || found.quant_method as string === "mxfp4") return undefined;
	const refuse = (field: string, wanted: string, value: unknown): never => {
		throw new UserError(
			`"${file}": quantization_config${field} must be ${wanted}, found ` +
				(value === undefined ? "nothing" : JSON.stringify(value)),
		);
	};
	if (!isRecord(found)) refuse("", "an object", found);
	if (found.quant_method !== "billm") {
		throw new UserError(
			`"${file}": the model is quantized ${
				found.quant_method === undefined
					? "in a way that it does not name, such as that of MLX"
					: `with ${JSON.stringify(found.quant_method)}`
			}, which cannot be read; use the original model`,
		);
	}
	if (!isCount(found.format_version)) {
		refuse(".format_version", "a whole number", found.format_version);
	}
	const problem = versionProblem(found.format_version);
	if (problem) throw new UserError(`"${file}": ${problem}`);
	const { method, block_size: blockSize, columns, fused } = found;
	if (method !== undefined && typeof method !== "string") {
		refuse(".method", "the name of a method", method);
	}
	if (!isCount(blockSize) || blockSize % 32) {
		refuse(".block_size", "a multiple of 32", blockSize);
	}
	if (!isRecord(columns) || !Object.values(columns).every(isCount)) {
		refuse(".columns", "a whole number for each linear layer", columns);
	}
	const isNames = (value: unknown) =>
		Array.isArray(value) && value.length > 0 && value.every((name) => typeof name === "string");
	if (fused !== undefined && !(isRecord(fused) && Object.values(fused).every(isNames))) {
		refuse(".fused", "a list of linear layers for each fused module", fused);
	}
	const isStack = ([name, stack]: [string, unknown]) => {
		if (!isRecord(stack) || !isCount(stack.matrices)) return false;
		const linears = fused?.[name]?.length ?? 0;
		return linears > 0 && linears % stack.matrices === 0 &&
			[undefined, true, false].includes(stack.columns as boolean | undefined);
	};
	const { stacked } = found;
	if (stacked !== undefined && !(isRecord(stacked) && Object.entries(stacked).every(isStack))) {
		refuse(".stacked", "the number of matrices of fused modules", stacked);
	}
	if (found.rotation !== undefined) checkRotation(found, refuse);
	return found;
}

function checkRotation(
	{ rotation, columns, format_version: version }: QuantizationConfig,
	refuse: (field: string, wanted: string, value: unknown) => never,
): void {
	if (version < TRANSFORMS_SINCE) {
		refuse(".format_version", `${TRANSFORMS_SINCE} or later with a rotation`, version);
	}
	if (!isRecord(rotation)) return refuse(".rotation", "an object", rotation);
	const { generator, seed, block, modules } = rotation;
	if (generator !== GENERATOR) {
		refuse(".rotation.generator", `"${GENERATOR}", the only one that this program has`, generator);
	}
	if (!Number.isInteger(seed) || seed < 0 || seed > 0xffffffff) {
		refuse(".rotation.seed", "a whole number from 0 to 2^32 - 1", seed);
	}
	if (!isCount(block) || block < LEAST_RUN || block > MOST_RUN || (block & (block - 1)) !== 0) {
		refuse(".rotation.block", `a power of two from ${LEAST_RUN} to ${MOST_RUN}`, block);
	}
	const isModule = (module: unknown) =>
		typeof module === "string" && columnsOf({ columns }, module) !== undefined;
	if (modules !== undefined && !(Array.isArray(modules) && modules.every(isModule))) {
		refuse(".rotation.modules", "a list of linear layers that .columns has", modules);
	}
	const named = Object.keys(columns);
	const rotated = modules &&
		[...modules, ...named.filter((name) => modules.some((module) => name.endsWith(`.${module}`)))];
	for (const module of rotated ?? named) {
		const cols = columnsOf({ columns }, module)!;
		if (runFor(cols, block) !== undefined) continue;
		refuse(`.columns["${module}"]`, `a multiple of ${LEAST_RUN} to be rotated`, cols);
	}
}

/**
 * The rotation of the input of a packed linear layer; undefined if it is not rotated.
 *
 * @param cols Its columns.
 */
export function rotationOf(
	{ rotation }: Pick<QuantizationConfig, "rotation">,
	name: string,
	cols: number,
): Rotation | undefined {
	if (!rotation) return undefined;
	const { seed, block, modules } = rotation;
	const isRotated = modules?.some((module) => name === module || name.endsWith(`.${module}`));
	if (isRotated === false) return undefined;
	return { seed, block: runFor(cols, block)! };
}

/**
 * The `rotation` object for linear layers.
 *
 * @param linears Every linear layer of the model; dense ones are not rotated.
 * @returns Undefined if none is rotated.
 * @throws {UserError} If their seeds differ, which the format cannot state.
 */
export function rotationConfigOf(
	linears: readonly { name: string; module: string; rotation?: Rotation; dense?: boolean }[],
): RotationConfig | undefined {
	const rotated = linears.flatMap(({ rotation }) => rotation ?? []);
	if (rotated.length === 0) return undefined;
	const [{ seed }] = rotated;
	const other = rotated.find((rotation) => rotation.seed !== seed);
	if (other) {
		throw new UserError(
			`Cannot pack linear layers that are rotated with different seeds (${seed} and ` +
				`${other.seed}); rotate all of them with one`,
		);
	}
	const modules = new Set<string>();
	const plain = new Set(
		linears.filter(({ rotation, dense }) => !rotation && !dense).map(({ module }) => module),
	);
	for (const { name, module, rotation } of linears) {
		if (rotation) modules.add(plain.has(module) ? name : module);
	}
	return {
		generator: GENERATOR,
		seed,
		block: Math.max(...rotated.map(({ block }) => block)),
		...(rotated.length < linears.length && { modules: [...modules] }),
	};
}

/** Whether a value is a whole number from 1 to the greatest i32. */
function isCount(value: unknown): value is number {
	return Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) < 2 ** 31;
}

/** Columns of a packed linear layer; undefined if config.json does not state them. */
export function columnsOf(
	{ columns }: Pick<QuantizationConfig, "columns">,
	name: string,
): number | undefined {
	for (const module of endsOf(name)) {
		if (Object.hasOwn(columns, module)) return columns[module];
	}
	return undefined;
}

/** A name and what it ends with behind each of its dots, the longest first. */
function* endsOf(name: string): Generator<string> {
	yield name;
	for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) {
		yield name.slice(dot + 1);
	}
}

/** The fused module of each linear layer, by the object that lists those of fused modules. */
const fusedModules = new WeakMap<Record<string, string[]>, Map<string, string>>();

function fusedModulesOf(fused: Record<string, string[]>): Map<string, string> {
	let known = fusedModules.get(fused);
	if (!known) {
		known = new Map(
			Object.entries(fused).flatMap(([module, linears]) => linears.map((name) => [name, module])),
		);
		fusedModules.set(fused, known);
	}
	return known;
}

/**
 * The fused module of the plain model that contains a packed linear layer, and all linear layers that
 * it holds, in order; the linear layer itself if it is not fused.
 */
export function fusedOf(
	{ fused, stacked }: Pick<QuantizationConfig, "fused" | "stacked">,
	name: string,
): { name: string; linears: string[]; stack?: StackConfig } {
	if (!fused) return { name, linears: [name] };
	const modules = fusedModulesOf(fused);
	for (const own of endsOf(name)) {
		const module = modules.get(own);
		if (module === undefined || own === name) continue;
		const prefix = name.slice(0, -own.length);
		return {
			name: prefix + module,
			linears: fused[module].map((linear) => prefix + linear),
			...(stacked && Object.hasOwn(stacked, module) && { stack: stacked[module] }),
		};
	}
	return { name, linears: [name] };
}
