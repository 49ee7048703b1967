import { mostLikely } from "./sampling.ts";

/** The log-probability of a token. */
export interface Logprob {
	/** Its number in the vocabulary. */
	id: number;
	/** The natural logarithm of its probability by the model, before temperature, penalties and cuts. */
	logprob: number;
}

/** The log-probability of a chosen token. */
export interface Logprobs {
	/** Of the chosen token, in nats. */
	logprob: number;
	/** The most likely tokens at its place, the most likely first. */
	top: Logprob[];
}

/**
 * The log-probabilities of some logits: log softmax, summed in f64.
 *
 * @param logits Finite, one per id.
 * @param count The number of most likely tokens to give.
 * @returns A function of the chosen token, which does not depend on later changes of the logits.
 */
export function logProbabilities(
	logits: Float32Array,
	count: number,
): (id: number) => Logprobs {
	const own = logits.slice();
	const greatest = own.reduce((most, logit) => Math.max(most, logit), -Infinity);
	let sum = 0;
	for (const logit of own) sum += Math.exp(logit - greatest);
	const total = greatest + Math.log(sum);
	const top = Array.from(mostLikely(own, count), (id) => ({ id, logprob: own[id] - total }));
	return (id) => ({ logprob: own[id] - total, top });
}
