/**
 * The trellis codec in f64, one tile and one state after the other.
 *
 * @see QTIP, https://arxiv.org/abs/2406.11235
 */

/** A trellis with its table. */
export interface TrellisReference {
  stateBits: number;
  stepBits: number;
  stepWeights: number;
  /** `[2^stateBits, stepWeights]`. */
  table: ArrayLike<number>;
}

/**
 * The states of the walk that is nearest to the weights.
 *
 * @param overlap If given, the first state begins and the last state ends with these bits.
 */
function nearestWalk(
  weights: ArrayLike<number>,
  { stateBits, stepBits, stepWeights, table }: TrellisReference,
  overlap?: number,
): number[] {
  const states = 2 ** stateBits;
  const overlaps = 2 ** (stateBits - stepBits);
  const steps = weights.length / stepWeights;
  const distance = (step: number, state: number) => {
    let sum = 0;
    for (let v = 0; v < stepWeights; v++) {
      sum += (weights[step * stepWeights + v] - table[state * stepWeights + v]) ** 2;
    }
    return sum;
  };
  let costs = Float64Array.from({ length: states }, (_, state) => {
    const isAllowed = overlap === undefined || state >> stepBits === overlap;
    return isAllowed ? distance(0, state) : Infinity;
  });
  const origins: Int32Array[] = [];
  for (let step = 1; step < steps; step++) {
    const next = new Float64Array(states).fill(Infinity);
    const origin = new Int32Array(states);
    for (let state = 0; state < states; state++) {
      for (let from = state >> stepBits; from < states; from += overlaps) {
        if (costs[from] >= next[state]) continue;
        next[state] = costs[from];
        origin[state] = from;
      }
      next[state] += distance(step, state);
    }
    costs = next;
    origins.push(origin);
  }
  let last = -1;
  for (let state = 0; state < states; state++) {
    if (overlap !== undefined && state % overlaps !== overlap) continue;
    if (last < 0 || costs[state] < costs[last]) last = state;
  }
  const walk = [last];
  for (const origin of origins.reverse()) walk.unshift(origin[walk[0]]);
  return walk;
}

/**
 * The states of a walk whose last state overlaps with the first: the overlap is that of the middle of the
 * nearest walk through the weights turned by half.
 */
export function tailBitingWalk(weights: ArrayLike<number>, trellis: TrellisReference): number[] {
  const half = weights.length / 2;
  const turned = Array.from(weights, (_, i) => weights[(i + half) % weights.length]);
  const walk = nearestWalk(turned, trellis);
  return nearestWalk(weights, trellis, walk[walk.length / 2] >> trellis.stepBits);
}

/** The new bits of each state in words, the first bit highest. */
export function walkBits(walk: readonly number[], { stepBits }: TrellisReference): Uint32Array {
  const bits = walk.map((state) => (state % 2 ** stepBits).toString(2).padStart(stepBits, "0"))
    .join("");
  return Uint32Array.from(bits.match(/.{32}/g)!, (word) => parseInt(word, 2));
}
