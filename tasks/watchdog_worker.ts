// The watchdog's thread. It waits for signals and looks at the work of the main thread, which may be in a
// loop that never ends and hears of neither.

import { visibleText } from "../base/visible_text.ts";
import { type Orders, SharedState } from "./watchdog_state.ts";

/** Milliseconds that the main thread has to end by itself after Ctrl-C. */
const GRACE = 1000;
/** Milliseconds within which signals are one: a terminal sends it to the process, and `deno task` once more. */
const SAME = 500;
/** Milliseconds between two looks at its work. */
const PERIOD = 250;
/** Milliseconds that the last words may take: nobody may be reading them. */
const LAST_WORDS = 500;

/** The C library and its function that ends a process at once, by system. */
const LIBRARIES: Partial<Record<typeof Deno.build.os, string>> = {
	linux: "libc.so.6",
	darwin: "libSystem.B.dylib",
	windows: "ucrtbase.dll",
};

const thread = self as unknown as {
	onmessage: (event: MessageEvent<Orders>) => void;
	postMessage: (message: unknown) => void;
};

thread.onmessage = ({ data }) => {
	watch(data);
	thread.postMessage("listening");
};

function watch({ memory, interrupted, drains }: Orders): void {
	const state = new SharedState(memory);
	const interrupt = () => {
		const { work } = state;
		end(state, `\nInterrupted${work ? ` while ${work.what}` : ""}. ${interrupted}`, 130);
	};
	let heard: number | undefined;
	const hear = () => {
		const now = performance.now();
		if (heard === undefined) {
			heard = now;
			if (!drains) setTimeout(interrupt, GRACE);
		} else if (!drains || now - heard > SAME) interrupt();
	};
	Deno.addSignalListener("SIGINT", hear);
	if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", drains ? hear : interrupt);

	let seen = 0;
	let since = 0;
	setInterval(() => {
		const { work } = state;
		if (!work) return;
		const now = performance.now();
		if (work.number !== seen) [seen, since] = [work.number, now];
		else if (now - since > 1000 * work.seconds) {
			const took = `${work.what} took longer than ${work.seconds.toFixed(1)} s and may never end`;
			end(state, `\nError: ${took}; BILLM_TIME_LIMIT=10 gives it ten times as long`, 1);
		}
	}, PERIOD);
}

/** Says the last words, unless another thread has them, and ends the process. */
async function end(state: SharedState, words: string, code: number): Promise<void> {
	if (!state.claimEnd()) return;
	const colours = Deno.stderr.isTerminal() ? "\x1b[0m" : "";
	const text = new TextEncoder().encode(`${colours}${visibleText(words)}\n`);
	await Promise.race([
		Deno.stderr.write(text).catch(() => {}),
		new Promise((resolve) => setTimeout(resolve, LAST_WORDS)),
	]);
	endProcess(code);
}

/** Ends the process from a thread that is not its main one, whose Deno.exit() would only end itself. */
function endProcess(code: number): void {
	try {
		const name = LIBRARIES[Deno.build.os];
		if (name) {
			const exit = { _exit: { parameters: ["i32"], result: "void" } } as const;
			Deno.dlopen(name, exit).symbols._exit(code);
		}
	} finally {
		Deno.kill(Deno.pid, "SIGKILL");
	}
}
