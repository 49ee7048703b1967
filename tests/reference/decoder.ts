/** The parts of a decoder layer, row by row, in f64. */

/** x / √(mean(x²) + epsilon) · weight. */
export function rmsNorm(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  epsilon: number,
): Float64Array {
  const values = Array.from(x);
  const meanSquare = values.reduce((sum, v) => sum + v * v, 0) / values.length;
  return Float64Array.from(values, (v, i) => v / Math.sqrt(meanSquare + epsilon) * weight[i]);
}

/** (x - mean) / √(variance + epsilon) · weight + bias. */
export function layerNorm(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number>,
  epsilon: number,
): Float64Array {
  const values = Array.from(x);
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
  return Float64Array.from(
    values,
    (v, i) => (v - mean) / Math.sqrt(variance + epsilon) * weight[i] + bias[i],
  );
}

/** Turns the pairs (i, i + half) of one head; `table` holds (cos, sin) for each i. */
export function ropeHead(head: ArrayLike<number>, table: ArrayLike<number>): Float64Array {
  const half = head.length / 2;
  const out = new Float64Array(head.length);
  for (let i = 0; i < half; i++) {
    const [cos, sin] = [table[2 * i], table[2 * i + 1]];
    out[i] = head[i] * cos - head[i + half] * sin;
    out[i + half] = head[i + half] * cos + head[i] * sin;
  }
  return out;
}

export function relu(x: number): number {
  return Math.max(x, 0);
}

export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/** x · Φ(x) with the exact error function. */
export function gelu(x: number): number {
  return 0.5 * x * (1 + erf(x / Math.SQRT2));
}

/** The tanh approximation of {@link gelu}. */
export function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** 2/√π times the integral of e^(-t²) from 0 to x, by Simpson's rule. */
export function erf(x: number): number {
  const end = Math.min(Math.abs(x), 7); // 1 - erf(7) is below 1e-22
  const steps = 2000;
  const width = end / steps;
  let sum = 1 + Math.exp(-end * end);
  for (let i = 1; i < steps; i++) sum += (i % 2 ? 4 : 2) * Math.exp(-((i * width) ** 2));
  return Math.sign(x) * 2 / Math.sqrt(Math.PI) * sum * width / 3;
}

/** -log of the probability that softmax(logits) gives to `target`, in nats. */
export function crossEntropyReference(logits: ArrayLike<number>, target: number): number {
  const values = Array.from(logits);
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = values.reduce((total, v) => total + Math.exp(v - top), 0);
  return Math.log(sum) + top - values[target];
}
