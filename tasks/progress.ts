import { styleText } from "node:util";
import { sum } from "../base/figures.ts";
import { bytesText, timeText } from "../base/units.ts";
import { visibleText } from "../base/visible_text.ts";
import type { Emit, PlanStep, RunEvent } from "../pipeline/run/events.ts";

const BAR = 24;

/** A renderer of events: a progress bar with the remaining time on a terminal, otherwise lines. */
export function showProgress(terminal = Deno.stdout.isTerminal()): Emit {
	return terminal ? bar() : lines();
}

/** Prints lines with labels of 17 columns, which a terminal shows in bold. */
export function printLabelled(lines: readonly string[]): void {
	if (!Deno.stdout.isTerminal()) return console.log(lines.join("\n"));
	const text = lines.map((line) => {
		const visible = visibleText(line);
		return styled("bold", visible.slice(0, 17)) + visible.slice(17);
	});
	Deno.stdout.writeSync(new TextEncoder().encode(`${text.join("\n")}\n`));
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

/** The time that a whole run has left: that expected of its steps, corrected by what they take. */
class TimeLeft {
	#steps: (PlanStep & { begun?: true })[] = [];
	#current?: { step?: PlanStep; start: number; first: number; part: number };
	#known: Spent[] = [];
	#start = 0;
	#shown = 0;

	plan(steps: readonly PlanStep[]): void {
		this.#steps = steps.map((step) => ({ ...step }));
		this.#current = undefined;
		this.#known = [];
		[this.#start, this.#shown] = [performance.now(), 0];
	}

	/** The seconds that are left and the part that is done; undefined if that is not known. */
	at({ stage, text, done, total }: Progress): { left: number; part: number } | undefined {
		if (this.#steps.length === 0) return undefined;
		const now = performance.now();
		const isOf = (step: PlanStep) => step.stage === stage && (step.text ?? text) === text;
		const part = total > 0 ? done / total : 0;
		if (!this.#current?.step || !isOf(this.#current.step)) {
			this.#known.push(...this.#spent(now));
			const step = this.#steps.find((step) => isOf(step) && !step.begun);
			if (!step && this.#current && !this.#current.step) this.#current.part = part;
			else this.#current = { step, start: now, first: part, part };
			if (step) step.begun = true;
		}
		const current = this.#current!;
		current.part = part;
		const own = part - current.first;
		const seconds = (now - current.start) / 1000;
		const expected = (current.step?.seconds ?? 0) * (1 - part) * this.#factor(stage, now);
		const rest = sum(
			this.#steps.filter(({ begun }) => !begun)
				.map(({ stage, seconds }) => seconds * this.#factor(stage, now)),
		);
		const left = rest + (own > LEAST_PART ? seconds * (1 - part) / own : expected);
		const passed = (now - this.#start) / 1000;
		this.#shown = Math.max(this.#shown, passed / (passed + left || 1));
		return { left, part: this.#shown };
	}

	/** What the current step has taken so far. */
	#spent(now: number): Spent[] {
		const { step, start, first = 0, part = 0 } = this.#current ?? {};
		if (!step || part - first <= LEAST_PART) return [];
		const { stage, seconds } = step;
		return [{ stage, expected: seconds * (part - first), taken: (now - start!) / 1000 }];
	}

	/** How many times as long as expected the steps of a stage take. */
	#factor(stage: string, now: number): number {
		const own = [...this.#known, ...this.#spent(now)].filter((spent) => spent.stage === stage);
		const expected = sum(own.map(({ expected }) => expected));
		return expected > 0 ? sum(own.map(({ taken }) => taken)) / expected : 1;
	}
}

/** Seconds of a step, or of the part of it that is done. */
interface Spent {
	stage: string;
	expected: number;
	taken: number;
}

/** The part of a step from which on its own pace tells how long it takes. */
const LEAST_PART = 0.03;

type Progress = Extract<RunEvent, { type: "progress" }>;

type Style = Parameters<typeof styleText>[0];

/** A text in a style, where the terminal shows styles. */
export function styled(style: Style, text: string, isTerminal = Deno.stdout.isTerminal()): string {
	return isTerminal && !Deno.noColor ? styleText(style, text) : text;
}

const STYLES: Partial<Record<RunEvent["type"], Style>> = {
	"warning": "yellow",
	"cell": "bold",
	"cell-failed": "red",
	"end": "green",
	"already-done": "green",
};

function bar(): Emit {
	const encoder = new TextEncoder();
	const pace = new Pace();
	const run = new TimeLeft();
	const write = (text: string) => Deno.stdout.writeSync(encoder.encode(text));
	return (event) => {
		if (event.type === "cell") pace.reset();
		if (event.type === "cell" || event.type === "start") run.plan([]);
		if (event.type === "plan") return run.plan(event.steps);
		if (event.type === "progress") {
			const { stage, done, total, text, detail } = event;
			const own = pace.left(stage + total + (stage === "layers" ? "" : text), done, total);
			const { left = own, part = done / total } = run.at(event) ?? {};
			const filled = Math.round(BAR * part);
			const rest = left === undefined ? "" : `, ${timeText(left)} left`;
			const bar = styled("green", "█".repeat(filled), true) +
				styled("dim", "░".repeat(BAR - filled), true);
			const { columns } = terminalSize();
			const more = detail ? `, ${detail}` : "";
			const label = `${Math.floor(100 * part)} %${rest}  ${text}${more}`;
			write(`\r\x1b[K${bar} ${visibleText(label).slice(0, Math.max(0, columns - BAR - 2))}`);
			return;
		}
		const line = lineOf(event);
		if (line === undefined) return;
		const style = STYLES[event.type];
		const [, name, rest] = /^(\S+ +(?:\d+\/\d+)?)(.*)$/s.exec(visibleText(line)) ?? [];
		const shown = style
			? styled(style, visibleText(line), true)
			: ["stage", "metric", "layer"].includes(event.type)
			? styled("cyan", name, true) + rest
			: visibleText(line);
		write(`\r\x1b[K${shown}\n`);
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
