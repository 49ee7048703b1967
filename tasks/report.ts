import { existsSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { FolderLock } from "../pipeline/run/folder_lock.ts";
import { CELL_RECORD } from "../pipeline/run/record.ts";
import { commonFolder, findRuns, readRuns } from "../report/cells.ts";
import { chartedNouns, MergedReport } from "../report/merged_report.ts";
import { readPeers } from "../report/peers.ts";
import { finishedRun, saveHistograms } from "../report/run_files.ts";
import { runMarkdown, runReport } from "../report/run_report.ts";
import { writeFileAtomically } from "../storage/files.ts";
import { type OptionValues, runCommand, usageErrors } from "./task.ts";

const HELP = `Usage: deno task report FOLDER... [options]

For the folder of one run: rewrites its report.html. For several, or for a folder of runs such as
that of a grid: writes one page that compares them, with a chart of ${chartedNouns()} against size
and its Pareto front, and lists cells that failed or are missing.

Options
  --output FILE      The page to write; default report.html in the folder of the run or, for
                     several, in their common parent folder. With this option, a single cell of a
                     grid is reported as a grid whose other cells are missing
  --markdown FILE    Also write the tables as Markdown, for example for a job summary on GitHub;
                     - prints them
  --svg FILE         For several runs: also write the chart as an SVG file
  --peers FILE       For several runs of one model: results of another program on the same model
                     and data, to be drawn beside them, such as examples/peers/smollm2.json
  --layers LIST      For one run: the decoder layers whose weights are shown, counted from 1, such
                     as --layers 1,16,32; needs the original model
  --model FOLDER     The original model, if it has moved
  --help             Print this

Exit codes: 0 done, 1 a run failed, is unfinished or is missing (the page lists it), or the page
could not be written, 2 bad arguments.
`;

const usageError = usageErrors("report");

const command = {
	name: "report",
	help: HELP,
	options: {
		output: { type: "string" },
		markdown: { type: "string" },
		svg: { type: "string" },
		peers: { type: "string" },
		layers: { type: "string" },
		model: { type: "string" },
	},
	interrupted: "Written files are complete.",
} as const;

type Options = OptionValues<typeof command.options>;

await runCommand(command, async ({ values, positionals, signal }) => {
	if (positionals.length === 0) throw usageError("Give at least one folder, found none");
	const folders = findFolders(positionals);
	if (isOneRun(positionals, folders, values)) {
		await reportRun(folders[0], values, signal);
	} else {
		reportSeveral(folders, values);
	}
});

function findFolders(paths: string[]): string[] {
	const lacking = paths.find((path) => !existsSync(path));
	if (lacking !== undefined) {
		throw usageError(`There is no folder "${lacking}"; give that of a run, such as out/NAME`);
	}
	const folders = findRuns(paths);
	// The pattern out/grid/* also names files beside the runs.
	const grids = new Set(folders.map((folder) => dirname(resolve(folder))));
	const isBeside = (path: string) => statSync(path).isFile() && grids.has(dirname(resolve(path)));
	const empty = paths.filter((path) => findRuns([path]).length === 0 && !isBeside(path));
	if (empty.length === 0) return folders;
	const where = empty.map((path) => `"${path}"`).join(", ");
	throw usageError(`There is no run in ${where}: no folder with a run.json, which quantize writes`);
}

/**
 * Whether the page is that of a single run. A cell of a grid with --output counts as an incomplete grid, so
 * that the page lists the missing cells.
 */
function isOneRun(paths: string[], [folder]: string[], { output }: Options): boolean {
	if (paths.length > 1 || folder !== paths[0]) return false;
	return output === undefined || !existsSync(join(folder, CELL_RECORD));
}

async function reportRun(folder: string, options: Options, signal: AbortSignal): Promise<void> {
	for (const name of ["svg", "peers"] as const) {
		if (options[name] !== undefined) throw usageError(`--${name} needs several runs, found one`);
	}
	const { done: [run], failed: [failed] } = readRuns([folder]);
	if (failed) throw new UserError(`Cannot report on "${folder}": ${failed.problem}`);
	const { record } = run;
	const isWritten = options.output === undefined || options.layers !== undefined ||
		options.model !== undefined;
	using _lock = isWritten ? FolderLock.take(folder) : undefined;
	if (options.layers !== undefined || options.model !== undefined) {
		const original = options.model ?? record.model;
		if (!existsSync(original)) {
			throw new UserError(
				`There is no original model in "${original}"; give its folder with --model FOLDER`,
			);
		}
		const layers = options.layers === undefined
			? undefined
			: layerNumbers(options.layers, record.layers?.length ?? 0);
		const pause = async () => {
			await new Promise((resolve) => setTimeout(resolve, 0));
			signal.throwIfAborted();
		};
		await saveHistograms(folder, record, original, { layers, pause });
	}
	const finished = finishedRun(folder, record);
	const write = writerOf(options);
	write(options.output ?? join(folder, "report.html"), runReport(finished));
	if (options.markdown !== undefined) write(options.markdown, runMarkdown(finished));
}

/** Indices of decoder layers from 0, from numbers from 1 on the command line. */
function layerNumbers(text: string, count: number): number[] {
	return text.split(",").map((item) => {
		const layer = Number(item);
		if (/^\d+$/.test(item) && layer >= 1 && layer <= count) return layer - 1;
		throw usageError(`--layers must be numbers from 1 to ${count} with commas, found "${text}"`);
	});
}

function reportSeveral(folders: string[], options: Options): void {
	for (const name of ["layers", "model"] as const) {
		if (options[name] !== undefined) {
			throw usageError(`--${name} needs the folder of a single run, found ${folders.length}`);
		}
	}
	const comparison = readRuns(folders);
	const peers = options.peers === undefined ? undefined : readPeers(options.peers);
	const report = new MergedReport(comparison, peers);
	const write = writerOf(options);
	const output = options.output ?? join(commonFolder(folders), "report.html");
	write(output, report.page(dirname(resolve(output))));
	if (options.markdown !== undefined) write(options.markdown, report.markdown());
	if (options.svg !== undefined) {
		const picture = report.svg();
		if (picture === undefined) {
			throw new UserError(
				`There is nothing to draw: no run has both a size and a ${chartedNouns()}`,
			);
		}
		write(options.svg, picture);
	}
	const { failed, missing } = comparison;
	for (const { name, problem } of failed) console.error(`${name}: ${problem}`);
	for (const cell of missing) console.error(`Cell ${cell} is missing`);
	if (failed.length + missing.length > 0) Deno.exit(1);
}

/** A function that writes files and reports their paths, on stderr if Markdown is printed. */
function writerOf({ markdown }: Options): (path: string, content: string) => void {
	const say = markdown === "-" ? console.error : console.log;
	return (path, content) => {
		if (path === "-") return console.log(content.trimEnd());
		if (isStream(path)) return writeFileSync(path, content);
		writeFileAtomically(path, content); // a link is replaced: what it leads to may not be meant
		say(`Wrote ${path}`);
	};
}

/** Whether a path is a pipe or a terminal, which cannot be replaced atomically. */
function isStream(path: string): boolean {
	const found = statSync(path, { throwIfNoEntry: false });
	return found !== undefined && !found.isFile() && !found.isDirectory();
}
