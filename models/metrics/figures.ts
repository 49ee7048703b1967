/** A perplexity with its data set. */
export interface Perplexity {
	/** Name or path of the text. */
	dataset: string;
	/** Tokens per window. */
	sequenceLength: number;
	/** Windows measured. */
	windows: number;
	/** The mean cross-entropy over all windows, in nats. */
	loss: number;
	/** exp(loss). */
	perplexity: number;
	/**
	 * ln(perplexity / perplexity of the original), the difference of the losses; of a packed model whose
	 * original was measured too.
	 */
	lnRatio?: number;
	/** Of a packed model whose original was measured too, unless it was not requested. */
	divergence?: Divergence;
	/** Where the figure comes from, if not from this run. */
	cached?: CachedFigure;
}

/** How far a model's predictions of the next token are from those of the original on the same text. */
export interface Divergence {
	/** Windows that it was measured on, evenly spread over those of the perplexity. */
	windows: number;
	/** The mean over all predictions of KL(original || model), in nats; 0 if they are equal. */
	kl: number;
	/** Fraction of the predictions whose most likely token is that of the original. */
	agreement: number;
}

/** The zero-shot accuracy of a model on a task. */
export interface ZeroShot {
	/** "piqa" */
	task: string;
	/** The version of the task in lm-evaluation-harness, whose protocol is used: "1.0". */
	version: string;
	/** Name or path of the questions. */
	dataset: string;
	/**
	 * Whether contexts and choices come verbatim from the data instead of being built by the task from
	 * the columns of its data set.
	 */
	prepared: boolean;
	/** Whether each context began with the tokenizer's special tokens, such as a first token. */
	specialTokens: boolean;
	/** Questions measured. */
	questions: number;
	/** The requested limit on the number of questions; absent if there was none. */
	limit?: number;
	/**
	 * Number of requests beyond the model's maximum length, whose contexts were truncated at the front.
	 */
	truncated: number;
	/** Fraction of the questions whose right choice has the greatest log-likelihood. */
	acc: number;
	/** Standard error of `acc`; 0 for a single question. */
	accStderr: number;
	/** Accuracy with log-likelihoods divided by the characters of the choices; in tasks that have it. */
	accNorm?: number;
	/** Standard error of `accNorm`. */
	accNormStderr?: number;
	/** Where the figure comes from, if not from this run. */
	cached?: CachedFigure;
}

/** The origin of a figure that an earlier run measured. */
export interface CachedFigure {
	/** ISO 8601. */
	measured: string;
	/** The adapter that it was measured on. */
	adapter: string;
}
