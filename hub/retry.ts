import { setTimeout as timer } from "node:timers/promises";
import type { HubLimits } from "./limits.ts";

/** A temporary error, which is worth a retry. */
export class PassingTrouble extends Error {
	constructor(message: string, readonly retryAfterMs = 0) {
		super(message);
	}
}

/** A counter of consecutive failures. */
export class Attempts {
	#failures = 0;

	constructor(readonly limits: HubLimits) {}

	/** Resets the counter after new data. */
	succeed(): void {
		this.#failures = 0;
	}

	/** Milliseconds before the next attempt; undefined if there should be none. */
	pauseAfter({ retryAfterMs }: PassingTrouble): number | undefined {
		const { attempts, firstPauseMs, longestPauseMs, longestRetryAfterMs } = this.limits;
		this.#failures++;
		if (this.#failures >= attempts || retryAfterMs > longestRetryAfterMs) return undefined;
		const pause = Math.min(firstPauseMs * 2 ** (this.#failures - 1), longestPauseMs);
		// Jitter prevents simultaneous retries of connections that were cut together.
		return Math.max(pause * (0.5 + Math.random() / 2), retryAfterMs);
	}
}

/**
 * The pause in milliseconds of a `Retry-After` header, given as seconds or a date; 0 if absent.
 */
export function retryAfterMs(header: string | null, now = Date.now()): number {
	if (header === null) return 0;
	if (/^\s*\d+\s*$/.test(header)) return Number(header) * 1000;
	const date = Date.parse(header);
	return Number.isNaN(date) ? 0 : Math.max(0, date - now);
}

/** Waits. @throws The signal's reason, as soon as it is aborted. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
	try {
		await timer(ms, undefined, { signal });
	} catch (error) {
		signal.throwIfAborted();
		throw error;
	}
}
