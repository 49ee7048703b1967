import { PipelineFileError, UserError } from "../pipeline/errors.ts";

/**
 * Runs a task's main function: Ctrl-C aborts the signal it gets (a second one ends the process at
 * once), errors that the user can act on are printed without a stack trace. The process ends here.
 *
 * Exit codes: 0 done, 1 failed, 2 bad pipeline file or arguments, 130 interrupted.
 */
export async function runTask(main: (signal: AbortSignal) => Promise<void>): Promise<never> {
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
      console.error("\nInterrupted. The same command goes on from the last complete layer.");
      Deno.exit(130);
    }
    if (!(error instanceof UserError)) throw error;
    console.error(error instanceof PipelineFileError ? error.message : `Error: ${error.message}`);
    Deno.exit(error instanceof PipelineFileError ? 2 : 1);
  }
  Deno.exit();
}

/** Bytes for people: "12.3 MB". */
export function bytesText(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  let value = bytes;
  // What would be rounded to 1000.0 is 1.0 of the next unit.
  for (; value >= 999.95 && power < units.length - 1; power++) value /= 1000;
  return `${value.toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/** Seconds for people: "1:02:03" or "0:07". */
export function timeText(seconds: number): string {
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n: number) => String(n).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Makes paths mean what they meant where the command was typed: tasks start in the project's folder. */
export function startInCallersFolder(): void {
  const folder = Deno.env.get("INIT_CWD");
  if (folder) Deno.chdir(folder);
}
