import { repeat } from "../../source_text.ts";
import { softCap } from "./attention_rows_source.ts";

/** The dtype of a KV cache. */
export type CacheDtype = "f32" | "f16";

/** vec4s per head in a KV cache, padded with zeros. */
export function cacheVectors(headDim: number): number {
	return Math.ceil(headDim / 4);
}

/** The parameters of {@link attentionDecodeKernel}. */
export interface AttentionDecodeForm {
	headDim: number;
	dtype: CacheDtype;
	/** Threads of a workgroup. */
	lanes: number;
	/** The most keys per workgroup, whose scores are in workgroup memory. */
	keys: number;
	/** Threads that share a key, a power of two, for coalesced reads. */
	together: number;
	/**
	 * Whether the kernel also appends the token to the cache, and the pairs of each head that it rotates
	 * first: entries i and i + pairs, or neighbours.
	 */
	append?: "unrotated" | { pairs: number; interleaved: boolean };
	/** Whether scores are capped softly, see {@link softCap}. */
	capped?: boolean;
	/** Whether each head has a sink: a score without a key, in the first range. */
	sinking?: boolean;
}

/**
 * Generates the kernel of {@link attentionDecode} and {@link attendAndAppend}. It calls
 * `sum_over_lanes` and `max_over_lanes` and needs LANES to be `lanes`.
 *
 * A workgroup handles one head of one query and a range of its keys. First the threads compute scores,
 * several threads per key. Then each thread accumulates four entries of the values over all keys or,
 * with more threads than vec4s per head, over some of the keys.
 *
 * Each workgroup that needs the key and value of an appended token recomputes them in workgroup memory,
 * because writes of one workgroup to the cache are not visible to others.
 */
export function attentionDecodeKernel(form: AttentionDecodeForm): string {
	const { headDim, dtype, lanes, keys, together, append, capped, sinking } = form;
	const rotation = typeof append === "object" ? append : undefined;
	const vectors = cacheVectors(headDim);
	/** Threads that accumulate the same entries of the values, each over different keys. */
	const sharers = Math.max(1, Math.floor(lanes / vectors));
	const perLane = Math.ceil(vectors / lanes);
	const half = dtype === "f16";
	const stored = half ? "vec2u" : "vec4f";
	const cache = `var<storage, ${append ? "read_write" : "read"}>`;
	const bindings = [
		`var<storage, read> queries: array<f32>; // [tokens, heads, ${headDim}]`,
		...(append
			? [
				`var<storage, read> new_keys: array<f32>; // [key_value_heads, ${headDim}]`,
				`var<storage, read> new_values: array<f32>; // [key_value_heads, ${headDim}]`,
			]
			: []),
		...(rotation
			? [`var<storage, read> table: array<vec2f>; // [positions, ${rotation.pairs}], (cos, sin)`]
			: []),
		`${cache} keys: array<${stored}>; // [capacity, key_value_heads, ${vectors}]`,
		`${cache} values: array<${stored}>; // [capacity, key_value_heads, ${vectors}]`,
		// With several splits: unnormalized sums, the greatest score, the sum of the weights.
		`var<storage, read_write> out: array<f32>; // [tokens, heads, ${headDim}]; with several splits ` +
		`[tokens, heads, splits, ${vectors * 4 + 2}]`,
		...(sinking ? ["var<storage, read> sinks: array<f32>; // [heads]"] : []),
	];

	/** A WGSL function for entry i of the head of `array` at `at`, rotated if `rotated`. */
	const entryOf = (name: string, array: string, rotated: typeof rotation) =>
		`fn ${name}(at: u32, i: u32) -> f32 {
  ${headDim % 4 === 0 ? "" : `if (i >= ${headDim}u) { return 0.0; }`}
  ${rotated ? rotatedEntry(array, headDim, rotated) : `return ${array}[at + i];`}
}`;
	const four = (name: string, at: string) =>
		`vec4f(${repeat(4, (i) => `${name}(${at}, d * 4u + ${i}u)`, ", ")})`;
	const loadQuery = `query[d] = p.scale * ${
		four("query_entry", `(token * p.heads + head) * ${headDim}u`)
	};`;
	const bring = (what: "key" | "value") =>
		`let four = rounded(${four(`${what}_entry`, `key_value_head * ${headDim}u`)});
      new_${what}[d] = four;
      if (writes) { ${what}s[row_of(p.start, key_value_head) + d] = narrow(four); }`;
	const load = append
		? `let fresh = select(0xffffffffu, count - 1u, count > 0u && first + count == end); // of the new token
  let writes = head % (p.heads / p.key_value_heads) == 0u;
  for (var work = lane; work < ${3 * vectors}u; work += ${lanes}u) {
    let d = work % ${vectors}u;
    if (work < ${vectors}u) {
      ${loadQuery}
    } else if (fresh != 0xffffffffu && work < ${2 * vectors}u) {
      ${bring("key")}
    } else if (fresh != 0xffffffffu) {
      ${bring("value")}
    }
  }
  let old = min(count, fresh); // keys in the cache`
		: `for (var d = lane; d < ${vectors}u; d += ${lanes}u) { ${loadQuery} }
  let old = count;`;

	const score = (key: (d: string) => string) =>
		repeat(Math.ceil(vectors / together), (n) => {
			const d = together === 1 ? `${n}u` : `part + ${n * together}u`;
			const add = `score += query[${d}] * ${key(d)};`;
			return (n + 1) * together <= vectors ? add : `if (${d} < ${vectors}u) { ${add} }`;
		}, "\n      ");
	const whole = (score: string) => capped ? `soft_cap(${score}, p.cap)` : score;
	const addValues = (i: number) => `
      let j${i} = j + ${i * sharers}u;
      let w${i} = weights[j${i}];
      let row${i} = row_of(first + min(j${i}, old - 1u), key_value_head);
      ${
		repeat(
			perLane,
			(n) => `o${n} += w${i} * widen(values[row${i} + min(d${n}, ${vectors - 1}u)]);`,
			"\n      ",
		)
	}`;
	return `
struct Params {
  start: u32, heads: u32, key_value_heads: u32, sliding_window: u32,
  splits: u32, split_length: u32, scale: f32,${capped ? " cap: f32," : ""}
}
@group(0) @binding(0) var<uniform> p: Params;
${bindings.map((text, i) => `@group(0) @binding(${i + 1}) ${text}`).join("\n")}

var<workgroup> query: array<vec4f, ${vectors}>;
${
		append
			? `var<workgroup> new_key: array<vec4f, ${vectors}>;
var<workgroup> new_value: array<vec4f, ${vectors}>;
var<workgroup> new_weight: f32;`
			: ""
	}
${together > 1 ? `var<workgroup> score_parts: array<f32, ${keys * together}>;` : ""}
// Beyond the last key they stay zero, the initial value of workgroup memory.
var<workgroup> weights: array<f32, ${keys + 4 * sharers}>;
var<workgroup> parts: array<vec4f, ${vectors * sharers}>;

${
		half
			? "fn widen(w: vec2u) -> vec4f { return vec4f(unpack2x16float(w.x), unpack2x16float(w.y)); }"
			: "fn widen(w: vec4f) -> vec4f { return w; }"
	}
${
		!append
			? ""
			: half
			? `// The nearest f16 (ties to even); values beyond its range saturate. Uses integer arithmetic, because
// drivers may optimize packing and unpacking an f16 away.
fn rounded(w: vec4f) -> vec4f {
  let v = clamp(w, vec4f(-65504.0), vec4f(65504.0));
  let b = bitcast<vec4u>(v);
  let normal = bitcast<vec4f>((b + 0xfffu + ((b >> vec4u(13u)) & vec4u(1u))) & vec4u(0xffffe000u));
  let subnormal = round(v * 16777216.0) / 16777216.0; // steps of 2^-24
  return select(normal, subnormal, abs(v) < vec4f(6.1035156e-5));
}
fn narrow(w: vec4f) -> vec2u { return vec2u(pack2x16float(w.xy), pack2x16float(w.zw)); }`
			: `fn rounded(w: vec4f) -> vec4f { return w; }
fn narrow(w: vec4f) -> vec4f { return w; }`
	}
${capped ? softCap("f32") : ""}
fn row_of(position: u32, head: u32) -> u32 {
  return (position * p.key_value_heads + head) * ${vectors}u;
}
${entryOf("query_entry", "queries", rotation)}
${
		append
			? `${entryOf("key_entry", "new_keys", rotation)}
${entryOf("value_entry", "new_values", undefined)}`
			: ""
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
  ${load}
  workgroupBarrier();

  var top = ${sinking ? "select(-3.0e38, sinks[head], split == 0u)" : "-3.0e38"};
  ${together > 1 ? `let part = lane % ${together}u;` : ""}
  for (var j = ${together > 1 ? `lane / ${together}u` : "lane"}; j < count; j += ${
		lanes / together
	}u) {
    var score = vec4f(0.0);
    ${append ? `if (j == fresh) {\n      ${score((d) => `new_key[${d}]`)}\n    } else` : ""} {
      let row = row_of(first + j, key_value_head);
      ${score((d) => `widen(keys[row + ${d}])`)}
    }
    let s = ${
		together === 1
			? whole("(score.x + score.y) + (score.z + score.w)")
			: "(score.x + score.y) + (score.z + score.w)"
	};
    ${
		together > 1
			? `score_parts[j * ${together}u + part] = s;`
			: "weights[j] = s;\n    top = max(top, s);"
	}
  }
  ${
		together > 1
			? `workgroupBarrier();
  for (var j = lane; j < count; j += ${lanes}u) {
    let s = ${whole(repeat(together, (i) => `score_parts[j * ${together}u + ${i}u]`, " + "))};
    weights[j] = s;
    top = max(top, s);
  }`
			: ""
	}
  top = max_over_lanes(top, lane);
  var sum = ${sinking ? "select(0.0, exp(sinks[head] - top), split == 0u && lane == 0u)" : "0.0"};
  for (var j = lane; j < count; j += ${lanes}u) {
    let w = exp(weights[j] - top);
    sum += w;
    ${
		append
			? "if (j == fresh) { new_weight = w; weights[j] = 0.0; } else { weights[j] = w; }"
			: "weights[j] = w;"
	}
  }
  workgroupBarrier(); // for the weights; sum_over_lanes need not be a barrier
  sum = sum_over_lanes(sum, lane);

  let sharer = lane / ${vectors}u;
  ${
		repeat(perLane, (n) =>
			`let d${n} = ${perLane === 1 ? `lane % ${vectors}u` : `lane + ${n * lanes}u`}; ` +
			`var o${n} = vec4f(0.0);`, "\n  ")
	}
  if (${perLane === 1 ? `sharer < ${sharers}u` : "true"}) {
    for (var j = ${perLane === 1 ? "sharer" : "0u"}; j < old; j += ${4 * sharers}u) {
      ${repeat(4, addValues, "")}
    }
    ${
		append
			? `if (old < count${perLane === 1 ? " && sharer == 0u" : ""}) {
      ${
				repeat(perLane, (n) => `o${n} += new_weight * new_value[min(d${n}, ${vectors - 1}u)];`, " ")
			}
    }`
			: ""
	}
    ${
		repeat(
			perLane,
			(n) =>
				perLane === 1
					? `parts[lane] = o${n};`
					: `if (d${n} < ${vectors}u) { parts[d${n}] = o${n}; }`,
			"\n    ",
		)
	}
  }
  workgroupBarrier();

  let place = (token * p.heads + head) * p.splits + split;
  for (var d = lane; d < ${vectors}u; d += ${lanes}u) {
    var total = parts[d];
    for (var g = 1u; g < ${sharers}u; g++) { total += parts[d + g * ${vectors}u]; }
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

/** WGSL that returns entry i of the head of `array` at `at`, rotated. */
function rotatedEntry(
	array: string,
	headDim: number,
	{ pairs, interleaved }: { pairs: number; interleaved: boolean },
): string {
	const pass = 2 * pairs < headDim ? `if (i >= ${2 * pairs}u) { return ${array}[at + i]; }` : "";
	const [isFirst, pair, distance] = interleaved
		? ["(i & 1u) == 0u", "(i >> 1u)", "1u"]
		: [`i < ${pairs}u`, `i % ${pairs}u`, `${pairs}u`];
	return `${pass}
  let turn = table[p.start * ${pairs}u + ${pair}];
  if (${isFirst}) { return ${array}[at + i] * turn.x - ${array}[at + i + ${distance}] * turn.y; }
  return ${array}[at + i] * turn.x + ${array}[at + i - ${distance}] * turn.y;`;
}
