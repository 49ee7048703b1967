import { type Watch, watchTime } from "../base/time_limit.ts";
import { UserError } from "../base/errors.ts";
import { type Orders, SharedState } from "./watchdog_state.ts";

/**
 * Starts the thread that ends the program where the main thread cannot: a second after Ctrl-C, at a second
 * one, at SIGTERM, and when work with a limit of time exceeds it. `BILLM_TIME_LIMIT` scales these limits.
 *
 * @param interrupted What the program says at its end after "Interrupted."
 * @param drains Whether the program may take any time to end after the first Ctrl-C or SIGTERM.
 * @param interrupt Called at Ctrl-C. Until the watchdog listens too, Ctrl-C ends the program as if there
 *   were neither: a main thread that is already busy would not hear of it.
 * @throws {UserError} If `BILLM_TIME_LIMIT` is no number above 0.
 */
export function startWatchdog(
	interrupted: string,
	drains: boolean,
	interrupt: () => void,
): SharedState {
	const scale = Number(Deno.env.get("BILLM_TIME_LIMIT") || 1);
	if (!(scale > 0)) {
		throw new UserError(
			`BILLM_TIME_LIMIT must be a number above 0, found "${Deno.env.get("BILLM_TIME_LIMIT")}"`,
		);
	}
	const state = new SharedState();
	const worker = new Worker(new URL("./watchdog_worker.ts", import.meta.url), { type: "module" });
	worker.onmessage = () => {
		Deno.addSignalListener("SIGINT", interrupt);
		if (drains && Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", interrupt);
	};
	worker.postMessage({ memory: state.memory, interrupted, drains } satisfies Orders);
	const watch: Watch = {
		begin: (what, seconds) => state.begin(what, scale * seconds),
		end: () => state.end(),
	};
	watchTime(watch);
	return state;
}
