/** A perplexity and what it was measured on. */
export interface Perplexity {
  dataset: string;
  sequenceLength: number;
  windows: number;
  /** Mean over the windows of their mean cross-entropy, in nats. */
  loss: number;
  perplexity: number;
  cached?: CachedFigure;
}

/** How often a model gave the right choice the greatest log-likelihood, and on which questions. */
export interface ZeroShot {
  /** "piqa" */
  task: string;
  /** Of the task in lm-evaluation-harness, whose protocol this is: "1.0". */
  version: string;
  dataset: string;
  /**
   * Whether contexts and choices are those of the data as they stand there, instead of what the task
   * makes of the columns of its data set.
   */
  prepared: boolean;
  /** Whether what the tokenizer adds to a text, such as a first token, stood before each context. */
  specialTokens: boolean;
  questions: number;
  /** The greatest number of questions that was asked for; absent if all were. */
  limit?: number;
  /** Requests that were longer than the model takes, and lost the beginning of their contexts. */
  truncated: number;
  /** Fraction of the questions whose right choice has the greatest log-likelihood. */
  acc: number;
  /** Standard error of `acc`; 0 for a single question. */
  accStderr: number;
  /** The same with log-likelihoods divided by the characters of the choices; in tasks that have it. */
  accNorm?: number;
  accNormStderr?: number;
  cached?: CachedFigure;
}

/** Where a figure comes from that an earlier run has measured. */
export interface CachedFigure {
  /** ISO 8601. */
  measured: string;
  adapter: string;
}
