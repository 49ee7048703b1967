/** A linear layer with its candidates: what each loses, and the bits that it takes. */
export interface Candidates {
	/** The loss of each, in any unit that adds up. */
	losses: readonly number[];
	/** Stored bits of each. */
	bits: readonly number[];
}

/** Steps of the bisection; f64 has no more digits. */
const STEPS = 100;

/** The prices of a bit between which the least one is sought that meets the target. */
const PRICES = { least: 1e-14, most: 1 };

/**
 * Chooses a candidate for each linear layer such that the sum of the losses is small and the bits do not
 * exceed a target: the one with the least loss + price · bits, with the least price that meets the target.
 *
 * The choices for all prices are the best for the bits that they take (the lower convex hull), so some
 * bits may be left over.
 *
 * @param most The target, in bits of all linear layers.
 * @returns The index of a candidate for each; undefined if even the least bits exceed the target.
 * @see Lagrangian rate allocation, Shoham and Gersho 1988, https://doi.org/10.1109/29.90373
 */
export function chooseCandidates(
	linears: readonly Candidates[],
	most: number,
): number[] | undefined {
	const chosenAt = (price: number) =>
		linears.map(({ losses, bits }) => {
			const costs = losses.map((loss, i) => loss + price * bits[i]);
			return costs.indexOf(Math.min(...costs));
		});
	const bitsOf = (choice: readonly number[]) =>
		choice.reduce((sum, index, i) => sum + linears[i].bits[index], 0);
	const free = chosenAt(0);
	if (bitsOf(free) <= most) return free;
	let { least, most: high } = PRICES;
	let best: number[] | undefined;
	for (let step = 0; step < STEPS; step++) {
		const price = Math.sqrt(least * high);
		const choice = chosenAt(price);
		if (bitsOf(choice) > most) least = price;
		else [high, best] = [price, choice];
	}
	if (best) return best;
	const fewest = linears.map(({ bits }) => bits.indexOf(Math.min(...bits)));
	return bitsOf(fewest) <= most ? fewest : undefined;
}
