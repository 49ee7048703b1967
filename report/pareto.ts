/** A result: what it takes, and how good it is. Of both less is better. */
export interface Result {
  bytes: number;
  value: number;
}

/**
 * The results that are best at their size: no other one is as small and better, or as good and
 * smaller. Of equal ones the first counts.
 *
 * @returns By size, the smallest first; each is better than those before it.
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
