import { UserError } from "../../base/errors.ts";
import { PythonRandom } from "../../base/python_random.ts";

/** The options of choosing the next token. */
export interface SamplingOptions {
	/** Divisor of the logits; 0, the default, always takes the most likely token. */
	temperature?: number;
	/** Samples from this many most likely tokens; all if absent. */
	topK?: number;
	/** Samples from the most likely tokens with this cumulative probability; all if absent. */
	topP?: number;
	/**
	 * Divides the positive logits, and multiplies the negative ones, of tokens that are already in the
	 * text, as in CTRL, https://arxiv.org/abs/1909.05858; 1, the default, changes nothing.
	 */
	repetitionPenalty?: number;
	/** Seed of the random numbers: equal seeds give equal tokens; 0 if absent. */
	seed?: number;
}

/** The candidates for the next token and their probabilities, which sum to 1. */
export interface Candidates {
	/** With top-k the most likely first, else by id. */
	ids: Uint32Array;
	probabilities: Float64Array;
}

/** @throws {UserError} If an option is out of range. */
export function checkSampling(options: SamplingOptions): void {
	const { temperature = 0, topK = 1, topP = 1, repetitionPenalty = 1, seed = 0 } = options;
	const refuse = (name: string, wanted: string, value: number): never => {
		throw new UserError(`The ${name} must be ${wanted}, found ${value}`);
	};
	if (!(temperature >= 0 && temperature < Infinity)) {
		refuse("temperature", "a number of at least 0", temperature);
	}
	if (!(Number.isSafeInteger(topK) && topK >= 1)) {
		refuse("top-k", "a whole number of at least 1", topK);
	}
	if (!(topP > 0 && topP <= 1)) refuse("top-p", "a number above 0 and at most 1", topP);
	if (!(repetitionPenalty > 0 && repetitionPenalty < Infinity)) {
		refuse("repetition penalty", "a number above 0", repetitionPenalty);
	}
	if (!Number.isSafeInteger(seed)) refuse("seed", "a whole number", seed);
}

/** Chooses the tokens of a text one after the other. */
export class Sampler {
	readonly #random: PythonRandom;
	readonly #options: SamplingOptions;

	/** @throws {UserError} If an option is out of range. */
	constructor(options: SamplingOptions) {
		checkSampling(options);
		this.#options = options;
		this.#random = new PythonRandom(options.seed ?? 0);
	}

	/** Whether it takes the token with the greatest logit, independent of the text. */
	get isGreedy(): boolean {
		const { temperature = 0, topK, repetitionPenalty = 1 } = this.#options;
		return (temperature === 0 || topK === 1) && repetitionPenalty === 1;
	}

	/**
	 * The next token.
	 *
	 * @param logits Finite, one per id; the penalty changes them in place.
	 * @param text The ids so far.
	 */
	next(logits: Float32Array, text: Iterable<number>): number {
		const { temperature = 0, topK, topP, repetitionPenalty = 1 } = this.#options;
		if (repetitionPenalty !== 1) penalizeRepetition(logits, text, repetitionPenalty);
		if (temperature === 0) return mostLikely(logits, 1)[0];
		return draw(candidates(logits, { temperature, topK, topP }), uniform(this.#random));
	}
}

/** A number in [0, 1) of 53 random bits. */
function uniform(random: PythonRandom): number {
	return random.getrandbits(53) / 2 ** 53;
}

/** Applies the penalty to the logits of the tokens of a text, once per distinct token. */
export function penalizeRepetition(
	logits: Float32Array,
	text: Iterable<number>,
	penalty: number,
): void {
	for (const id of new Set(text)) {
		if (id < logits.length) {
			logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
		}
	}
}

/** The `count` ids with the greatest logits, in descending order; ties in ascending order of id. */
export function mostLikely(logits: Float32Array, count: number): Uint32Array {
	const ids = new Uint32Array(Math.min(count, logits.length));
	let found = 0;
	for (let id = 0; id < logits.length; id++) {
		const logit = logits[id];
		if (found === ids.length && logit <= logits[ids[found - 1]]) continue;
		let [low, high] = [0, found]; // bounds of its place, after those that are not less
		while (low < high) {
			const middle = (low + high) >> 1;
			if (logits[ids[middle]] >= logit) low = middle + 1;
			else high = middle;
		}
		if (found < ids.length) found++;
		ids.copyWithin(low + 1, low, found - 1);
		ids[low] = id;
	}
	return ids;
}

/**
 * The candidates for the next token: applies temperature, then top-k, then top-p.
 *
 * @param options.temperature Greater than 0.
 */
export function candidates(
	logits: Float32Array,
	{ temperature, topK = logits.length, topP = 1 }: {
		temperature: number;
		topK?: number;
		topP?: number;
	},
): Candidates {
	const ids = topK < logits.length
		? mostLikely(logits, topK)
		: new Uint32Array(logits.length).map((_, id) => id);
	const all = { ids, probabilities: softmax(logits, ids, temperature) };
	return topP < 1 ? nucleus(all, topP) : all;
}

/** The smallest set of most likely tokens whose cumulative probability reaches `topP`. */
function nucleus({ ids, probabilities }: Candidates, topP: number): Candidates {
	// Tokens less likely than this have less than 1 - topP in total: none of them is needed.
	const least = (1 - topP) / ids.length;
	const likely = probabilities.filter((probability) => probability >= least).sort();
	let first = likely.length - 1;
	let sum = likely[first];
	while (first > 0 && sum < topP) sum += likely[--first];
	const cut = likely[first];
	let equals = 0; // tokens as likely as the last one that is needed
	while (likely[first + equals] === cut) equals++;
	const kept = { ids: ids.slice(0, likely.length - first), probabilities: likely.slice(first) };
	for (let i = 0, count = 0; i < ids.length; i++) {
		const probability = probabilities[i];
		if (probability < cut || probability === cut && equals-- <= 0) continue;
		kept.ids[count] = ids[i];
		kept.probabilities[count++] = probability / sum;
	}
	return kept;
}

function softmax(logits: Float32Array, ids: Uint32Array, temperature: number): Float64Array {
	let top = -Infinity;
	for (let i = 0; i < ids.length; i++) top = Math.max(top, logits[ids[i]]);
	const weights = new Float64Array(ids.length);
	let sum = 0;
	for (let i = 0; i < ids.length; i++) {
		sum += weights[i] = Math.exp((logits[ids[i]] - top) / temperature);
	}
	for (let i = 0; i < ids.length; i++) weights[i] /= sum;
	return weights;
}

/** The token at a point of the cumulative distribution; `point` is in [0, 1). */
export function draw({ ids, probabilities }: Candidates, point: number): number {
	let sum = 0;
	for (let i = 0; i < ids.length; i++) {
		sum += probabilities[i];
		if (point < sum) return ids[i];
	}
	return ids[probabilities.findLastIndex((probability) => probability > 0)]; // a gap due to rounding
}
