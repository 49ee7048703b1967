import { join } from "node:path";
import { type Node, Scalar } from "yaml";
import { PipelineFileError } from "../config/errors.ts";
import {
	applyChanges,
	type Change,
	checkPipeline,
	importDefault,
	lacksStage,
	type LoadOptions,
	loadPipeline,
	pathOf,
	type PipelineConfig,
	setChanges,
	setValue,
	type StageDeclaration,
	type StageLoader,
	stageLoader,
} from "../config/config.ts";
import { folderOf } from "../config/paths.ts";
import { inHome } from "../../storage/home.ts";
import { PipelineSource, type Place, readText, throwSorted } from "../config/source.ts";
import { type MatrixCell, matrixCells } from "./matrix.ts";

/** One pipeline of a grid. */
export interface RunCell<S extends StageDeclaration> {
	/** Name, unique in the grid, and name of the folder of its run: "tiny-llama,rtn-2". */
	name: string;
	/** From 1, in the order of the file. */
	index: number;
	/** Values of the cell by key of the matrix; for a variant its name. */
	values: Record<string, unknown>;
	/** The pipeline; its output is in that of the grid, and `text` has no matrix. */
	config: PipelineConfig<S>;
}

/** A checked pipeline file with a `matrix`; a file without one is a grid of one cell. */
export interface RunGrid<S extends StageDeclaration> {
	/** Path of the file, as given. */
	file: string;
	/** Name of the grid. */
	name: string;
	/** The folder of the cells' folders. */
	output: string;
	/** Whether the file has a matrix. */
	hasMatrix: boolean;
	/** The cells, in the order of the matrix. */
	cells: RunCell<S>[];
}

/** Keys that all cells share; overrides of them are applied before the matrix is read. */
const COMMON_KEYS = ["name", "output", "matrix"];

/**
 * The grid of a pipeline file with a `matrix`, with each cell checked as by {@link loadPipeline}.
 *
 * Overrides of `sets` are applied to each cell after the matrix; those of a stage only to cells that have
 * the stage.
 *
 * @param path The YAML file; `use` modules are sought from its folder.
 * @throws {PipelineFileError} With all problems of all cells, in the order of the file.
 */
export async function loadGrid<S extends StageDeclaration>(
	path: string,
	{ stages, recipes = [], sets = [], importStage = importDefault, text: given }: LoadOptions<S>,
): Promise<RunGrid<S>> {
	const load = stageLoader(path, importStage);
	const text = given ?? await readText(path);
	const isCommon = (set: string) => COMMON_KEYS.includes(pathOf(set)[0]);
	const openSource = async () => {
		const folder = given === undefined ? folderOf(path) : undefined;
		const source = new PipelineSource(path, text, folder);
		for (const change of setChanges(source, sets.filter(isCommon), load)) await change.apply();
		return source;
	};
	const base = await openSource();
	if (!base.has(["matrix"])) {
		return gridOfOne(await loadPipeline(path, { stages, recipes, sets, importStage, text: given }));
	}
	base.throwProblems();
	const { name, output: written = `out/${name}`, matrix } = base.value();
	const output = typeof written === "string" ? inHome(written) : written;
	const others = sets.filter((set) => !isCommon(set));
	const { cells, issues } = matrixCells(matrix);
	base.reportAll(issues, []);
	for (const set of others) reportVaried(base, set, cells);
	base.throwProblems();

	const problems = new CellProblems(cells.length);
	const grid: RunGrid<S> = { file: path, name, output, hasMatrix: true, cells: [] };
	const used = new Set<string>();
	for (const [i, cell] of cells.entries()) {
		const source = await openSource();
		try {
			const overrides = setChanges(source, others, load).map(({ keys, apply }, i): Change => ({
				keys,
				apply: async () => {
					if (await lacksStage(source, keys, load)) return;
					used.add(others[i]);
					await apply();
				},
			}));
			const changes = [...cellChanges(source, cell, output, load), ...overrides];
			await applyChanges(source, changes, { recipes, stages });
			const config = await checkPipeline(source, stages, load);
			grid.cells.push({ name: cell.name, index: i + 1, values: cell.values, config });
		} catch (error) {
			if (!(error instanceof PipelineFileError)) throw error;
			problems.add(cell.name, source.problems);
		}
	}
	// An override that applies to no cell is an error, reported for the first cell.
	const unused = others.filter((set) => !used.has(set));
	const unusedProblems = async () => {
		const first = await openSource();
		await applyChanges(first, cellChanges(first, cells[0], output, load), { recipes, stages });
		const before = first.problems.length;
		for (const change of setChanges(first, unused, load)) await change.apply();
		return first.problems.slice(before);
	};
	// Without its stages, the first cell cannot tell which overrides are wrong.
	const rest = unused.length > 0 && await unusedProblems().catch((error) => {
		if (!(error instanceof PipelineFileError)) throw error;
	});
	throwSorted([...problems.all(), ...rest || []]);
	return grid;
}

function gridOfOne<S extends StageDeclaration>(config: PipelineConfig<S>): RunGrid<S> {
	const { file, name, output } = config;
	const cell = { name, index: 1, values: {}, config: { ...config, output: join(output, name) } };
	return { file, name, output, hasMatrix: false, cells: [cell] };
}

/** Reports an override that would make different cells equal. */
function reportVaried(source: PipelineSource, set: string, cells: readonly MatrixCell[]): void {
	const path = pathOf(set).join(".");
	const varied = cells.flatMap(({ settings }) => settings)
		.find(({ name }) => `${name}.`.startsWith(`${path}.`));
	if (!varied) return;
	const place = { where: `--set ${set}`, order: Number.MAX_SAFE_INTEGER };
	source.report(place, `The matrix varies "${varied.name}"; choose cells with --cell instead`);
}

/** Turns the source of a grid into one without a matrix. @returns The changes that make it a cell's. */
function cellChanges<S extends StageDeclaration>(
	source: PipelineSource,
	{ name, settings }: MatrixCell,
	output: unknown,
	load: StageLoader<S>,
): Change[] {
	source.value(); // checks aliases
	source.inlineAliases();
	const change = (keys: string[], node: Node, place: Place, origin?: Place): Change => ({
		keys,
		apply: async () => {
			const problem = await setValue(source, keys, node, place, load, origin);
			if (problem) source.report(place, problem);
		},
	});
	const changes = settings.map(({ name, path }) => {
		const node = (source.node(path) ?? new Scalar(null)).clone() as Node;
		const place = source.place(path, "key");
		// The stages of a recipe have its place in the matrix.
		const origin = source.origin(path) ?? (name === "recipe" ? place : undefined);
		return change(name.split("."), node, place, origin);
	});
	source.remove("matrix");
	if (typeof output === "string") { // anything else is reported by the check
		const place = source.place(["output"]);
		changes.push(change(["output"], new Scalar(join(output, name)), place, place));
	}
	return changes;
}

/** Problems of cells; equal problems of several cells are reported once. */
class CellProblems {
	readonly #found = new Map<string, { place: Place; message: string; cells: string[] }>();

	constructor(readonly count: number) {}

	add(cell: string, problems: readonly { place: Place; message: string }[]): void {
		for (const { place, message } of problems) {
			const key = `${place.where} ${message}`;
			const found = this.#found.get(key) ?? { place, message, cells: [] };
			if (!found.cells.includes(cell)) found.cells.push(cell);
			this.#found.set(key, found);
		}
	}

	all(): { place: Place; message: string }[] {
		return [...this.#found.values()].map(({ place, message, cells }) => {
			if (cells.length === this.count) return { place, message };
			const others = cells.length > 1 ? ` and ${cells.length - 1} more` : "";
			return { place, message: `${message} (cell "${cells[0]}"${others})` };
		});
	}
}
