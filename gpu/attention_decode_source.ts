/** How the keys and values of a cache are stored. */
export type CacheDtype = "f32" | "f16";

/** The most keys that a workgroup attends to; the scores of so many lie in workgroup memory. */
export const KEYS_PER_GROUP = 1024;

/** Groups of four entries that a head takes in a cache, padded with zeros. */
export function cacheVectors(headDim: number): number {
  return Math.ceil(headDim / 4);
}

/**
 * Generates the kernel of {@link attentionDecode} for one head size. It calls `sum_over_lanes` and
 * `max_over_lanes` and needs LANES to be `lanes`.
 *
 * A workgroup takes one head of one query and up to {@link KEYS_PER_GROUP} of its keys. First each
 * thread computes the scores of every LANESth key; then each thread adds up four entries of the
 * values, of every key or, with more threads than a head has entries, of some of the keys.
 */
export function attentionDecodeKernel(headDim: number, lanes: number, dtype: CacheDtype): string {
  const vectors = cacheVectors(headDim);
  /** Threads that hold the same entries of the values, each for other keys. */
  const sharers = Math.max(1, Math.floor(lanes / vectors));
  const perLane = Math.ceil(vectors / lanes);
  const list = <T>(count: number, item: (i: number) => T) =>
    Array.from({ length: count }, (_, i) => item(i));
  const half = dtype === "f16";
  const load = (array: string, index: string) =>
    half ? `widen(${array}[${index}])` : `${array}[${index}]`;
  const stored = half ? "vec2u" : "vec4f";
  const entries = (d: string) =>
    `vec4f(${
      list(
        4,
        (i) =>
          headDim % 4 === 0
            ? `queries[at + ${d} * 4u + ${i}u]`
            : `select(0.0, queries[at + min(${d} * 4u + ${i}u, ${headDim - 1}u)], ` +
              `${d} * 4u + ${i}u < ${headDim}u)`,
      ).join(", ")
    })`;
  const addValues = (i: number) => `
      let j${i} = j + ${i * sharers}u;
      let w${i} = weights[j${i}];
      let row${i} = row_of(first + min(j${i}, count - 1u), key_value_head);
      ${
    list(perLane, (n) =>
      `o${n} += w${i} * ${load("values", `row${i} + min(d${n}, ${vectors - 1}u)`)};`).join(
        "\n      ",
      )
  }`;
  return `
struct Params {
  start: u32, heads: u32, key_value_heads: u32, sliding_window: u32,
  splits: u32, split_length: u32, scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> queries: array<f32>;      // [tokens, heads, ${headDim}]
@group(0) @binding(2) var<storage, read> keys: array<${stored}>;   // [capacity, key_value_heads, ${vectors}]
@group(0) @binding(3) var<storage, read> values: array<${stored}>; // likewise
// [tokens, heads, ${headDim}]; with several splits [tokens, heads, splits, ${vectors * 4 + 2}]:
// sums that are not divided yet, the greatest score, the sum of the weights.
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

var<workgroup> query: array<vec4f, ${vectors}>;
// Behind the last key they stay zero, as workgroup memory is in the beginning.
var<workgroup> weights: array<f32, ${KEYS_PER_GROUP + 4 * sharers}>;
var<workgroup> parts: array<vec4f, ${vectors * sharers}>;

${
    half
      ? "fn widen(w: vec2u) -> vec4f { return vec4f(unpack2x16float(w.x), unpack2x16float(w.y)); }"
      : ""
  }
fn row_of(position: u32, head: u32) -> u32 {
  return (position * p.key_value_heads + head) * ${vectors}u;
}

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.x;
  let split = group.y;
  let token = group.z;
  let key_value_head = head / (p.heads / p.key_value_heads);
  let end = p.start + token + 1u; // a query sees the keys before this one
  let first = end - min(end, p.sliding_window) + split * p.split_length;
  let count = select(0u, min(end - first, p.split_length), first < end);
  {
    let at = (token * p.heads + head) * ${headDim}u;
    for (var d = lane; d < ${vectors}u; d += ${lanes}u) { query[d] = p.scale * ${entries("d")}; }
  }
  workgroupBarrier();

  var top = -3.0e38;
  for (var j = lane; j < count; j += ${lanes}u) {
    let row = row_of(first + j, key_value_head);
    var score = vec4f(0.0);
    ${list(vectors, (d) => `score += query[${d}] * ${load("keys", `row + ${d}u`)};`).join("\n    ")}
    let s = (score.x + score.y) + (score.z + score.w);
    weights[j] = s;
    top = max(top, s);
  }
  top = max_over_lanes(top, lane);
  var sum = 0.0;
  for (var j = lane; j < count; j += ${lanes}u) {
    let w = exp(weights[j] - top);
    weights[j] = w;
    sum += w;
  }
  workgroupBarrier(); // all weights are there; sum_over_lanes need not wait for that
  sum = sum_over_lanes(sum, lane);

  let sharer = lane / ${vectors}u;
  ${
    list(perLane, (n) =>
      `let d${n} = ${perLane === 1 ? `lane % ${vectors}u` : `lane + ${n * lanes}u`}; ` +
      `var o${n} = vec4f(0.0);`).join("\n  ")
  }
  if (${perLane === 1 ? `sharer < ${sharers}u` : "true"}) {
    for (var j = ${perLane === 1 ? "sharer" : "0u"}; j < count; j += ${4 * sharers}u) {
      ${list(4, addValues).join("")}
    }
    ${
    list(perLane, (n) =>
      perLane === 1 ? `parts[lane] = o${n};` : `if (d${n} < ${vectors}u) { parts[d${n}] = o${n}; }`)
      .join("\n    ")
  }
  }
  workgroupBarrier();

  let place = (token * p.heads + head) * p.splits + split;
  for (var d = lane; d < ${vectors}u; d += ${lanes}u) {
    let total = ${list(sharers, (g) => `parts[d + ${g * vectors}u]`).join(" + ")};
    if (p.splits == 1u) {
      for (var i = 0u; i < 4u; i++) {
        if (d * 4u + i < ${headDim}u) { out[place * ${headDim}u + d * 4u + i] = total[i] / sum; }
      }
    } else {
      for (var i = 0u; i < 4u; i++) { out[place * ${vectors * 4 + 2}u + d * 4u + i] = total[i]; }
    }
  }
  if (lane == 0u && p.splits > 1u) {
    out[place * ${vectors * 4 + 2}u + ${vectors * 4}u] = top;
    out[place * ${vectors * 4 + 2}u + ${vectors * 4 + 1}u] = sum;
  }
}
`;
}
