import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs, type ParseArgsConfig } from "node:util";
import { didYouMean } from "../base/did_you_mean.ts";
import { UserError } from "../base/errors.ts";
import { listed } from "../base/figures.ts";
import { VERSION } from "../base/version.ts";
import { visibleText } from "../base/visible_text.ts";
import { importDefault } from "../pipeline/config/config.ts";
import { PipelineFileError } from "../pipeline/config/errors.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { StageError } from "../pipeline/run/guard_stage.ts";
import type { Stage } from "../pipeline/stage.ts";
import { isSystemError, reasonOf } from "../storage/folder.ts";
import { nearPath, refuseOtherThanModel } from "../storage/model_folder.ts";
import { inHome } from "../storage/home.ts";
import { startWatchdog } from "./watchdog.ts";
import type { SharedState } from "./watchdog_state.ts";

/** The exit code of a fault of this program, EX_SOFTWARE of sysexits.h. */
const FAULT = 70;

/** Message after "Interrupted." of tasks that resume. */
export const RESUMES = "The same command resumes where this one stopped.";

/**
 * Runs the main function of a task and ends the process. Ctrl-C aborts the signal; the watchdog ends what
 * has not ended a second later, and at once at a second one or SIGTERM. Errors that the user can act on are
 * printed without a stack trace, those in a stage of the user's own with one. All others are faults of this
 * program, whose stack traces `BILLM_TRACE=1` prints.
 *
 * Exit codes: 0 done, 1 failed, 2 bad pipeline file or arguments, 70 a fault of this program, 130
 * interrupted.
 *
 * @param main What the task does. It starts the watchdog when it is to do more than print a text.
 * @param interrupted Message after "Interrupted."
 * @param drains Whether the task may take any time to end at the first Ctrl-C or SIGTERM.
 */
export async function runTask(
	main: (signal: AbortSignal, watched: () => void) => Promise<void>,
	interrupted = "The same command begins anew.",
	drains = false,
): Promise<never> {
	printVisibly();
	const controller = new AbortController();
	let state: SharedState | undefined;
	const end = async (error: unknown) => {
		if (!controller.signal.aborted) endWith(error);
		if (!state!.claimEnd()) await new Promise(() => {}); // the watchdog ends the process
		console.error(`\nInterrupted. ${interrupted}`);
		Deno.exit(130);
	};
	for (const name of ["error", "unhandledrejection"] as const) {
		globalThis.addEventListener(name, (event) => {
			event.preventDefault();
			void end("reason" in event ? event.reason : event.error);
		});
	}
	try {
		await main(controller.signal, () => {
			state = startWatchdog(interrupted, drains, () => controller.abort());
		});
	} catch (error) {
		await end(error);
	}
	Deno.exit();
}

/** The paths of modules with stages of the user's own. */
const modules: string[] = [];

/** Imports the stage of a `use` module. */
export async function importStage(absolutePath: string): Promise<Stage> {
	modules.push(absolutePath);
	const wait = setInterval(() => {}, 60_000); // Deno would end while the module awaits
	try {
		return await importDefault<Stage>(absolutePath);
	} finally {
		clearInterval(wait);
	}
}

/** Prints an error and ends the process. */
function endWith(error: unknown): never {
	if (error instanceof PipelineFileError) {
		console.error(asTyped(error.message));
		Deno.exit(2);
	}
	if (error instanceof StageError) { // whose author needs the trace
		const { message, cause } = error;
		const trace = (cause as Error | undefined)?.stack?.match(/^ {4}at .*/ms)?.[0];
		console.error([`Error: ${message}`, trace].filter(Boolean).join("\n"));
		Deno.exit(1);
	}
	if (error instanceof UserError) {
		console.error(asTyped(`Error: ${error.message}`));
		Deno.exit(1);
	}
	const stack = error instanceof Error ? error.stack ?? "" : "";
	const trace = decoded(stack);
	const module = modules.find((path) => trace.includes(`${decoded(pathToFileURL(path).href)}:`));
	if (module !== undefined) { // whose author needs the trace
		console.error(`Error: the stage of "${module}" has failed: ${stack}`);
		Deno.exit(1);
	}
	console.error(`Error: ${faultText(error)}`);
	if (isTraced()) console.error(error instanceof Error ? error.stack ?? error.message : error);
	Deno.exit(isSystemError(error) ? 1 : FAULT);
}

/** A text without percent-encoding, of which stack traces keep a part only. */
function decoded(text: string): string {
	const once = text.replaceAll(/(?:%[0-9a-f]{2})+/gi, (bytes) => {
		try {
			return decodeURIComponent(bytes);
		} catch {
			return bytes; // no UTF-8
		}
	});
	return once === text ? text : decoded(once);
}

/** Whether the stack traces of faults are printed. */
function isTraced(): boolean {
	return Deno.env.get("BILLM_TRACE") === "1";
}

/** An error that no part of the program has expected, on one line. */
function faultText(error: unknown): string {
	if (isSystemError(error)) {
		const { path } = error as { path?: unknown };
		return typeof path === "string" ? `Cannot use "${path}": ${reasonOf(error)}` : error.message;
	}
	const [message] = (error instanceof Error ? `${error.name}: ${error.message}` : String(error))
		.split("\n");
	return `${message}. This is a fault of this program (billm ${VERSION}). Please report it, with the ` +
		`command and what it prints${
			isTraced() ? "" : " with BILLM_TRACE=1"
		}, under Issues on the page ` +
		`of the repository`;
}

/** Makes the console write out control characters: much of what is printed comes from files of others. */
function printVisibly(): void {
	for (const name of ["log", "error"] as const) {
		const print = console[name];
		console[name] = (...values: unknown[]) =>
			print(...values.map((value) => typeof value === "string" ? visibleText(value) : value));
	}
}

/** Changes to the working directory of the command, because tasks start in the project folder. */
export function startInCallersFolder(): void {
	const folder = Deno.env.get("INIT_CWD");
	if (folder) Deno.chdir(folder);
}

/**
 * The model folder of an argument, which may also be the folder of the run that packed the model.
 *
 * @throws {UserError} If it is another thing.
 */
export function modelFolder(path: string): string {
	const packed = join(path, "model");
	const isRun = !existsSync(join(path, "config.json")) && existsSync(join(packed, "config.json"));
	if (isRun) return packed;
	refuseOtherThanModel(path);
	return path;
}

/** Whether an argument is the folder of a model, or looks like its name on the hub. */
export function isModel(path: string): boolean {
	const found = statSync(path, { throwIfNoEntry: false });
	if (found) return found.isDirectory() && existsSync(join(path, "config.json"));
	return HUB_ID.test(path) && path.includes("/") && !path.endsWith(".json");
}

/**
 * Refuses arguments that are no pipeline file, and overrides that the shell has split.
 *
 * @throws {PipelineFileError} If there is one, with what may be meant.
 */
export function checkPipelineArguments(
	usageError: (message: string) => PipelineFileError,
	positionals: readonly string[],
	sets: readonly string[] = [],
): void {
	const split = sets.find((set) => !/^[^=]+=./.test(set));
	if (split !== undefined && positionals.length > 1) {
		const whole = [split, ...positionals.slice(1)].join("");
		throw usageError(
			`--set takes PATH=VALUE as one word, found "${split}" and after it ` +
				`"${positionals.slice(1).join(" ")}"; write --set ${whole}, in quotes if it has spaces`,
		);
	}
	if (positionals.length !== 1) return;
	const [path] = positionals;
	const found = statSync(path, { throwIfNoEntry: false });
	if (isModel(path) || /\.(gguf|safetensors|bin)$/i.test(path)) {
		if (found && !found.isDirectory()) refuseOtherThanModel(path);
		throw usageError(
			`"${path}" is a model, not a pipeline file; quantize it with ` +
				`${commandName(`quantize ${path} --bits 2`)}, or write a file for it with ` +
				commandName(`init ${path}`),
		);
	}
	if (found?.isDirectory()) {
		const files = readdirSync(path).filter((name) => /\.ya?ml$/.test(name)).slice(0, 5)
			.map((name) => `"${join(path, name)}"`);
		const rest = files.length > 0 ? listed(files, "or") : "the file itself, which ends in .yaml";
		throw usageError(`"${path}" is a folder, not a pipeline file; give ${rest}`);
	}
	if (found) return;
	const near = nearPath(path);
	throw usageError(
		`There is no pipeline file "${path}"; ` +
			(near ? `did you mean "${near}"?` : `${commandName("init MODEL")} writes one`),
	);
}

/** Prints the warnings of a model. */
export function warnOf({ warnings }: { warnings: readonly string[] }): void {
	for (const message of warnings) console.error(`Warning: ${message}`);
}

/** A command as the user types it: `deno task quantize`, or with the launcher's name. */
export function commandName(task: string): string {
	return `${Deno.env.get("BILLM_COMMAND") || "deno task"} ${task}`.trimEnd();
}

/** A text whose commands are those that the user types. */
export function asTyped(text: string): string {
	return text.replaceAll(/deno task(?= [a-z])/g, () => commandName(""));
}

/** A function that creates usage errors of a task. */
export function usageErrors(task: string): (message: string) => PipelineFileError {
	return (message) => new PipelineFileError([{ where: commandName(task), message }]);
}

type OptionsConfig = NonNullable<ParseArgsConfig["options"]>;

/** The parsed values of options. */
export type OptionValues<Options extends OptionsConfig> = ReturnType<
	typeof parseArgs<{ options: Options; allowPositionals: true }>
>["values"];

/** The declaration of a command; `--help` is added to its options. */
export interface Command<Options extends OptionsConfig> {
	/** Name of the task: "quantize". */
	name: string;
	/** The text of `--help`. */
	help: string;
	options: Options;
	/** Whether it takes arguments besides options; default true. */
	takesArguments?: boolean;
	/** Message after "Interrupted."; default that the same command begins anew. */
	interrupted?: string;
	/**
	 * Whether it ends what it has begun after the first Ctrl-C or SIGTERM, however long that takes; the
	 * second one ends it at once. Default false: it has a second, and none at SIGTERM.
	 */
	drains?: boolean;
}

/** The arguments of a command. */
export interface Arguments<Options extends OptionsConfig> {
	values: OptionValues<Options>;
	positionals: string[];
	signal: AbortSignal;
}

/** Runs a command with its parsed arguments in the working directory of the user, see {@link runTask}. */
export function runCommand<const Options extends OptionsConfig>(
	{ name, help, options, takesArguments = true, interrupted, drains }: Command<Options>,
	main: (given: Arguments<Options>) => void | Promise<void>,
): Promise<never> {
	return runTask(
		async (signal, watched) => {
			const { values, positionals } = inHomes(parse());
			if ((values as { help?: boolean }).help) return console.log(asTyped(help));
			watched();
			startInCallersFolder();
			await main({ values: values as OptionValues<Options>, positionals, signal });
		},
		interrupted,
		drains,
	);

	function parse() {
		try {
			return parseArgs({
				allowPositionals: takesArguments,
				options: { ...options, help: { type: "boolean", short: "h" } },
			});
		} catch (error) {
			const text = optionProblem((error as Error).message, Object.keys(options));
			throw usageErrors(name)(`${text} ${commandName(name)} --help prints the usage`);
		}
	}
}

/** What parseArgs says of an option, with what may be meant. */
function optionProblem(message: string, names: readonly string[]): string {
	const [, kind, option] = /^(Unknown option|Option) '(-[^'=\s]*)/.exec(message) ?? [];
	if (message.includes("ambiguous")) {
		return `${option} is followed by another option; write ${option}=VALUE for a value that begins ` +
			'with "-";';
	}
	if (kind !== "Unknown option") return `${message.replace(/[.].*/s, "")};`;
	const known = [...names, "help"].map((name) => `--${name}`);
	const guess = didYouMean(option, known);
	const rest = guess ? `did you mean ${guess}?` : `its options: ${known.join(", ")};`;
	return `Unknown option '${option}'; ${rest}`;
}

/** The options of all tasks that are paths; arguments besides options are paths, too. */
const PATH_OPTIONS = ["output", "build", "markdown", "svg", "peers", "model"];

/** Arguments with the user's home for a leading "~", which a shell does not replace in `--output=~/x`. */
function inHomes<Parsed extends { values: Record<string, unknown>; positionals: string[] }>(
	{ values, positionals, ...rest }: Parsed,
): Parsed {
	const expanded = Object.entries(values).map(([name, value]) =>
		[
			name,
			PATH_OPTIONS.includes(name) && typeof value === "string" ? inHome(value) : value,
		] as const
	);
	const paths = positionals.map((path) => inHome(path));
	return { ...rest, values: Object.fromEntries(expanded), positionals: paths } as Parsed;
}

/** An integer option of at least `least`. */
export function count(
	usageError: (message: string) => PipelineFileError,
	name: string,
	value: string | undefined,
	fallback: number,
	least: 0 | 1 = 1,
): number {
	if (value === undefined) return fallback;
	if (!/^(0|[1-9]\d*)$/.test(value) || Number(value) < least) {
		throw usageError(`${name} must be a whole number of at least ${least}, found "${value}"`);
	}
	return Number(value);
}
