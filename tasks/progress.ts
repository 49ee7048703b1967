import { styleText } from "node:util";
import { bytesText, timeText } from "../base/units.ts";
import { visibleText } from "../base/visible_text.ts";
import type { Emit, RunEvent } from "../pipeline/run/events.ts";

const BAR = 24;

/** A renderer of events: a progress bar with the remaining time on a terminal, otherwise lines. */
export function showProgress(terminal = Deno.stdout.isTerminal()): Emit {
  return terminal ? bar() : lines();
}

/** A renderer of events as JSON, one object per line. */
export function showJson(): Emit {
  return (event) => console.log(JSON.stringify(event));
}

/** The line of an event; undefined for progress. */
function lineOf(event: RunEvent): string | undefined {
  switch (event.type) {
    case "start": {
      const adapter = `on ${event.adapter}`;
      const resumed = event.resumedLayers > 0
        ? `; resumes after layer ${event.resumedLayers}, the last complete one`
        : "";
      const slow = event.software ? "\n  A software adapter: everything works, but slowly" : "";
      return `Run "${event.name}" ${adapter}, into ${event.output}${resumed}${slow}`;
    }
    case "stage":
      return `${event.stage.padEnd(10)} ${event.text}`;
    case "layer": {
      const errors = event.linears.map(({ relativeOutputError }) => relativeOutputError)
        .filter((error) => error !== undefined);
      const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length;
      const error = errors.length > 0 ? `output error ${(100 * mean).toFixed(1)} %, ` : "";
      return `layer ${event.layer + 1}/${event.layers}  ${error}` +
        `${bytesText(event.bytes)}, ${event.seconds.toFixed(1)} s`;
    }
    case "metric":
      return `${event.stage.padEnd(10)} ${event.name}: ${event.text}`;
    case "warning":
      return `Warning: ${event.message}`;
    case "already-done":
      return `Nothing to do: ${event.output} holds the finished run with the same options and ` +
        `inputs (--overwrite runs it again)`;
    case "cell":
      return `\nCell ${event.index}/${event.cells}  ${event.cell}`;
    case "cell-failed":
      return `Failed: ${event.error}`;
    case "end":
      return `Done in ${timeText(event.seconds)}: ${event.output}`;
    default:
      return undefined;
  }
}

/** An estimate of the remaining time from the progress so far. */
class Pace {
  #key = "";
  #start = 0;
  #first = 0;

  /** Starts a new estimate, even if the next work has the same name. */
  reset(): void {
    this.#key = "";
  }

  left(key: string, done: number, total: number): number | undefined {
    if (key !== this.#key) {
      [this.#key, this.#start, this.#first] = [key, performance.now(), done];
    }
    if (done <= this.#first) return undefined;
    return (performance.now() - this.#start) / 1000 * (total - done) / (done - this.#first);
  }
}

function bar(): Emit {
  const encoder = new TextEncoder();
  const pace = new Pace();
  const write = (text: string) => Deno.stdout.writeSync(encoder.encode(text));
  return (event) => {
    if (event.type === "cell") pace.reset();
    if (event.type === "progress") {
      const { stage, done, total, text, detail } = event;
      const left = pace.left(stage + total + (stage === "layers" ? "" : text), done, total);
      const filled = Math.round(BAR * done / total);
      const rest = left === undefined ? "" : `, ${timeText(left)} left`;
      const bar = styleText("green", "█".repeat(filled)) +
        styleText("dim", "░".repeat(BAR - filled));
      const { columns } = terminalSize();
      const more = detail ? `, ${detail}` : "";
      const label = `${Math.floor(100 * done / total)} %${rest}  ${text}${more}`;
      write(`\r\x1b[K${bar} ${visibleText(label).slice(0, Math.max(0, columns - BAR - 2))}`);
      return;
    }
    const line = lineOf(event);
    if (line !== undefined) write(`\r\x1b[K${visibleText(line)}\n`);
  };
}

function terminalSize(): { columns: number } {
  try {
    return Deno.consoleSize();
  } catch {
    return { columns: 80 };
  }
}

function lines(): Emit {
  const pace = new Pace();
  let last = "";
  return (event) => {
    if (event.type === "cell") {
      pace.reset();
      last = "";
    }
    if (event.type === "progress") {
      const { stage, done, total, text, detail } = event;
      const key = stage + (stage === "layers" ? "" : text);
      const left = pace.left(key + total, done, total);
      const tenth = Math.floor(10 * done / total);
      if (stage === "layers" || `${key} ${tenth}` === last || done === 0) return;
      last = `${key} ${tenth}`;
      const rest = left === undefined ? "" : `, ${timeText(left)} left`;
      const more = detail ? `, ${detail}` : "";
      console.log(`${stage.padEnd(10)} ${Math.floor(100 * done / total)} %${rest}  ${text}${more}`);
      return;
    }
    const line = lineOf(event);
    if (line !== undefined) console.log(line);
  };
}
