export interface AttentionReferenceShape {
	heads: number;
	keyValueHeads: number;
	headDim: number;
	length: number;
	slidingWindow?: number;
	/** Factor of the scores; 1 / √headDim if absent. */
	scale?: number;
	/** Bounds scores: cap · tanh(score / cap), arXiv:2408.00118. */
	cap?: number;
	/** A score of each head that takes weight and gives nothing. */
	sinks?: ArrayLike<number>;
	/** Tokens whose attention is left out, from the first on; theirs is 0. */
	start?: number;
}

/**
 * Causal softmax(scale · q kᵀ) v in f64, query by query; tokens are whole windows. A token sees
 * itself and the last of those before it, `slidingWindow` in all.
 */
export function attentionReference(
	q: ArrayLike<number>,
	k: ArrayLike<number>,
	v: ArrayLike<number>,
	shape: AttentionReferenceShape,
): Float64Array {
	const { heads, keyValueHeads, headDim, length, slidingWindow = length, start = 0 } = shape;
	const { scale = 1 / Math.sqrt(headDim), cap, sinks } = shape;
	const out = new Float64Array(q.length);
	const tokens = q.length / (heads * headDim);
	for (let token = start; token < tokens; token++) {
		const first = Math.max(token - token % length, token - slidingWindow + 1); // that it sees
		for (let head = 0; head < heads; head++) {
			const keyHead = Math.floor(head * keyValueHeads / heads);
			const at = (token * heads + head) * headDim;
			const keyAt = (key: number) => (key * keyValueHeads + keyHead) * headDim;
			const scores: number[] = [];
			for (let key = first; key <= token; key++) {
				let dot = 0;
				for (let i = 0; i < headDim; i++) dot += q[at + i] * k[keyAt(key) + i];
				const score = scale * dot;
				scores.push(cap ? cap * Math.tanh(score / cap) : score);
			}
			const all = sinks ? [...scores, sinks[head]] : scores;
			const top = Math.max(...all);
			const sum = all.reduce((total, score) => total + Math.exp(score - top), 0);
			scores.forEach((score, j) => {
				const weight = Math.exp(score - top) / sum;
				for (let i = 0; i < headDim; i++) out[at + i] += weight * v[keyAt(first + j) + i];
			});
		}
	}
	return out;
}
