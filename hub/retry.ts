import { setTimeout as timer } from "node:timers/promises";
import type { HubLimits } from "./limits.ts";

/** Trouble that may pass: worth another attempt. */
export class PassingTrouble extends Error {
  constructor(message: string, readonly retryAfterMs = 0) {
    super(message);
  }
}

/** Counts failures in a row. */
export class Attempts {
  #failures = 0;

  constructor(readonly limits: HubLimits) {}

  /** Something new has arrived, so patience begins anew. */
  succeed(): void {
    this.#failures = 0;
  }

  /** Milliseconds to wait before the next attempt; nothing if there should be none. */
  pauseAfter({ retryAfterMs }: PassingTrouble): number | undefined {
    const { attempts, firstPauseMs, longestPauseMs, longestRetryAfterMs } = this.limits;
    this.#failures++;
    if (this.#failures >= attempts || retryAfterMs > longestRetryAfterMs) return undefined;
    const pause = Math.min(firstPauseMs * 2 ** (this.#failures - 1), longestPauseMs);
    // Without jitter all that a server has cut at once would come back at once.
    return Math.max(pause * (0.5 + Math.random() / 2), retryAfterMs);
  }
}

/**
 * Milliseconds that a `Retry-After` header asks to wait, whether it gives seconds or a date; 0 if
 * it says nothing.
 */
export function retryAfterMs(header: string | null, now = Date.now()): number {
  if (header === null) return 0;
  if (/^\s*\d+\s*$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? 0 : Math.max(0, date - now);
}

/** @throws The signal's reason, at once, if it is aborted. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await timer(ms, undefined, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}
