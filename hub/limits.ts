/** How patient and how parallel transfers are. */
export interface HubLimits {
  /** Files transferred at a time. */
  connections: number;
  /** Failures in a row, without a new byte between them, after which a transfer is given up. */
  attempts: number;
  /** Pause after the first failure; it doubles with each one that follows. */
  firstPauseMs: number;
  longestPauseMs: number;
  /** A server that asks for a longer pause (`Retry-After`) is not waited for. */
  longestRetryAfterMs: number;
  /** A connection on which nothing arrives for so long is cut. */
  stallMs: number;
  /** The same for questions to the hub if the cache could answer instead. */
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
