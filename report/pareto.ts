/** A result with its size and figure; for both, less is better. */
export interface Result {
	bytes: number;
	value: number;
}

/**
 * The Pareto front: results that no other result dominates in size and figure. Among equal results the
 * first counts.
 *
 * @returns Results by size, the smallest first; each is better than those before it.
 */
export function paretoFront<Item extends Result>(results: readonly Item[]): Item[] {
	const bySize = results.map((item, i) => ({ item, i }))
		.sort((a, b) => a.item.bytes - b.item.bytes || a.item.value - b.item.value || a.i - b.i);
	const front: Item[] = [];
	for (const { item } of bySize) {
		if (item.value < (front.at(-1)?.value ?? Infinity)) front.push(item);
	}
	return front;
}
