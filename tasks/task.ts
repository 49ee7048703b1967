import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs, type ParseArgsConfig } from "node:util";
import { UserError } from "../base/errors.ts";
import { PipelineFileError } from "../pipeline/config/errors.ts";

/**
 * Runs a task's main function: Ctrl-C aborts the signal it gets (a second one ends the process at
 * once), errors that the user can act on are printed without a stack trace. The process ends here.
 *
 * Exit codes: 0 done, 1 failed, 2 bad pipeline file or arguments, 130 interrupted.
 *
 * @param interrupted Said after "Interrupted."
 */
export async function runTask(
  main: (signal: AbortSignal) => Promise<void>,
  interrupted = "The same command resumes where this one stopped.",
): Promise<never> {
  const controller = new AbortController();
  const interrupt = () => {
    if (controller.signal.aborted) Deno.exit(130);
    controller.abort();
  };
  Deno.addSignalListener("SIGINT", interrupt);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", interrupt);
  try {
    await main(controller.signal);
  } catch (error) {
    if (controller.signal.aborted) {
      console.error(`\nInterrupted. ${interrupted}`);
      Deno.exit(130);
    }
    if (!(error instanceof UserError)) throw error;
    console.error(error instanceof PipelineFileError ? error.message : `Error: ${error.message}`);
    Deno.exit(error instanceof PipelineFileError ? 2 : 1);
  }
  Deno.exit();
}

/** Makes paths mean what they meant where the command was typed: tasks start in the project's folder. */
export function startInCallersFolder(): void {
  const folder = Deno.env.get("INIT_CWD");
  if (folder) Deno.chdir(folder);
}

/** The folder of a model that an argument names: the model's own, or that of the run that packed it. */
export function modelFolder(path: string): string {
  const packed = join(path, "model");
  const isRun = !existsSync(join(path, "config.json")) && existsSync(join(packed, "config.json"));
  return isRun ? packed : path;
}

/** Makes the errors of a task that was called in a wrong way. */
export function usageErrors(task: string): (message: string) => PipelineFileError {
  return (message) => new PipelineFileError([{ where: `deno task ${task}`, message }]);
}

/** The arguments of a task; what is unknown or lacks a value is an error of usage. */
export function parseArguments<Config extends ParseArgsConfig>(
  usageError: (message: string) => PipelineFileError,
  config: Config,
): ReturnType<typeof parseArgs<Config>> {
  try {
    return parseArgs(config);
  } catch (error) {
    throw usageError((error as Error).message);
  }
}

/** A whole number from the command line, 1 at least if nothing else is said. */
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
