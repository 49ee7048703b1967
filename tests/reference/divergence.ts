/** What two rows of logits say of each other. */
export interface KlReference {
	/** KL(softmax of the first || softmax of the second), in nats. */
	divergence: number;
	/** The most likely id of each, the least one of equals. */
	id: number;
	otherId: number;
}

/** In f64, from the definition: Σ p (log p - log q). */
export function klReference(logits: ArrayLike<number>, other: ArrayLike<number>): KlReference {
	const p = logProbabilities(logits);
	const q = logProbabilities(other);
	const divergence = p.reduce((sum, log, i) => sum + Math.exp(log) * (log - q[i]), 0);
	return { divergence, id: p.indexOf(Math.max(...p)), otherId: q.indexOf(Math.max(...q)) };
}

function logProbabilities(logits: ArrayLike<number>): number[] {
	const all = Array.from(logits);
	const top = Math.max(...all);
	const logSum = Math.log(all.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
	return all.map((logit) => logit - top - logSum);
}
