import { PipelineFileError } from "../pipeline/config/errors.ts";
import { loadGrid } from "../pipeline/grid/load_grid.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { checkPipelineArguments, importStage, runCommand, usageErrors } from "./task.ts";

const HELP = `Usage: deno task matrix PIPELINE.yaml [--set PATH=VALUE]...

Prints the cells of a grid as JSON for strategy.matrix of GitHub Actions, on one line. A job runs
its cell with: deno task quantize PIPELINE.yaml --cell \${{ matrix.cell }}
matrix.name is the name of the cell, matrix.key the same without commas, for cache keys.

A file without "matrix" is a grid of one cell.

Options
  --set PATH=VALUE   Override a value of the file, as for quantize
  --help             Print this

Modules that the file names with "use:" are loaded, which runs their code.

Exit codes: 0 done, 2 bad pipeline file or arguments, 70 a fault of this program.
`;

/** What GitHub Actions runs of one matrix. */
const MAX_JOBS = 256;

const usageError = usageErrors("matrix");

const options = { set: { type: "string", multiple: true } } as const;

await runCommand({ name: "matrix", help: HELP, options }, async ({ values, positionals }) => {
	checkPipelineArguments(usageError, positionals, values.set);
	if (positionals.length !== 1) {
		throw usageError(`Give one pipeline file, found ${positionals.length}`);
	}
	const [file] = positionals;
	const { cells } = await loadGrid(file, {
		stages: STAGES,
		recipes: RECIPES,
		sets: values.set,
		importStage,
	});
	if (cells.length > MAX_JOBS) {
		const message = `The grid has ${cells.length} cells, and GitHub Actions runs at most ` +
			`${MAX_JOBS} jobs of a matrix; split the grid into several files`;
		throw new PipelineFileError([{ where: file, message }]);
	}
	const include = cells.map(({ name, index }) => ({
		cell: `${index}/${cells.length}`,
		name,
		key: name.replaceAll(",", "+"),
	}));
	console.log(JSON.stringify({ include }));
});
