/** Limits of transfers: parallelism, retries, timeouts. */
export interface HubLimits {
	/** Files transferred at a time. */
	connections: number;
	/** Consecutive failures without a new byte before a transfer is abandoned. */
	attempts: number;
	/** Pause after the first failure; it doubles with each further one. */
	firstPauseMs: number;
	longestPauseMs: number;
	/** Maximum pause requested by a server (`Retry-After`) that is respected. */
	longestRetryAfterMs: number;
	/** Timeout of a connection without data. */
	stallMs: number;
	/** Timeout of requests that the cache could answer instead. */
	impatientStallMs: number;
}

export const DEFAULT_LIMITS: HubLimits = {
	connections: 4,
	attempts: 6,
	firstPauseMs: 1000,
	longestPauseMs: 30_000,
	// The hub counts requests in windows of five minutes.
	longestRetryAfterMs: 600_000,
	stallMs: 60_000,
	impatientStallMs: 10_000,
};
