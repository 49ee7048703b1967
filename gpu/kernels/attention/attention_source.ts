import { type AttentionForm, attentionRows, sinks, softCap } from "./attention_rows_source.ts";

/**
 * Generates the attention kernel for any one head size.
 *
 * A thread owns one query: its vector, the running maximum and sum of the softmax, and the weighted
 * sum of values are in registers. Keys and values are staged through workgroup memory in tiles of as
 * many as there are threads; each thread loads one. Keys are processed four at a time, so that the
 * running sum is rescaled once per four keys.
 */
export function attentionKernel(
	headDim: number,
	lanes: number,
	form: AttentionForm = {},
): string {
	const { slides, isSegmented, isCapped } = form;
	const layout = attentionRows(isSegmented);
	const sink = sinks(form, "head");
	const vectors = Math.ceil(headDim / 4);
	const all = (line: (d: number) => string) => Array.from({ length: vectors }, (_, d) => line(d));
	const load = (array: string, d: number) =>
		`vec4f(${
			[0, 1, 2, 3].map((i) => d * 4 + i < headDim ? `${array}[at + ${d * 4 + i}u]` : "0.0")
				.join(", ")
		})`;
	const isSeen = (position: string) =>
		slides
			? `${position} <= query && ${position} + p.sliding_window > query`
			: `${position} <= query`;
	// Sums over masked keys before the first visible one are scaled to zero when that key is reached.
	const firstKey = slides
		? `(first_query - min(first_query, p.sliding_window - 1u)) / ${lanes}u * ${lanes}u`
		: "0u";
	const score = (s: string) => isCapped ? `soft_cap(${s}, p.cap)` : s;
	const fourKeys = `
      ${
		[0, 1, 2, 3].map((i) =>
			`var s${i} = ${all((d) => `dot(q${d}, tile_k[j + ${i}u][${d}])`).join(" + ")};
      s${i} = select(-3.0e38, ${score(`s${i}`)}, ${isSeen(`first + j + ${i}u`)});`
		).join("\n")
	}
      let new_top = max(max(top, max(s0, s1)), max(s2, s3));
      let shrink = exp(top - new_top);
      let w0 = exp(s0 - new_top);
      let w1 = exp(s1 - new_top);
      let w2 = exp(s2 - new_top);
      let w3 = exp(s3 - new_top);
      top = new_top;
      sum = sum * shrink + (w0 + w1) + (w2 + w3);
      ${
		all((d) =>
			`o${d} = o${d} * shrink + ${
				[0, 1, 2, 3].map((i) => `w${i} * tile_v[j + ${i}u][${d}]`).join(" + ")
			};`
		).join("\n")
	}`;
	return `
struct Params { ${layout.firstParameter}, heads: u32, key_value_heads: u32, sliding_window: u32, scale: f32${
		isCapped ? ", cap: f32" : ""
	} }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> queries: array<f32>; // [tokens, heads, ${headDim}]
@group(0) @binding(2) var<storage, read> keys: array<f32>;    // [tokens, key_value_heads, ${headDim}]
@group(0) @binding(3) var<storage, read> values: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
${layout.declarations}
${sink.declaration}
${isCapped ? softCap("f32") : ""}
var<workgroup> tile_k: array<array<vec4f, ${vectors}>, ${lanes}>;
var<workgroup> tile_v: array<array<vec4f, ${vectors}>, ${lanes}>;

@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.y;
  ${layout.prologue}
  let first_query = ${layout.begin}group.x * ${lanes}u;
  ${layout.leave("first_query")}
  let query = first_query + lane;
  let key_value_head = head / (p.heads / p.key_value_heads);
  ${all((d) => `var q${d}: vec4f; var o${d} = vec4f(0.0);`).join("\n")}
  {
    let at = (${layout.row("min(query, length - 1u)")} * p.heads + head) * ${headDim}u;
    ${all((d) => `q${d} = p.scale * ${load("queries", d)};`).join("\n")}
  }
  var top = ${sink.top};
  var sum = ${sink.sum};
  let end = min(first_query + ${lanes}u, length);
  for (var first = ${firstKey}; first < end; first += ${lanes}u) {
    let at = (${
		layout.row("min(first + lane, length - 1u)")
	} * p.key_value_heads + key_value_head) * ${headDim}u;
    workgroupBarrier(); // everyone is done with the last tile
    ${
		all((d) =>
			`tile_k[lane][${d}] = ${load("keys", d)}; tile_v[lane][${d}] = ${load("values", d)};`
		)
			.join("\n")
	}
    workgroupBarrier();
    for (var j = 0u; j < ${lanes}u; j += 4u) { ${fourKeys} }
  }
  if (query >= length) { return; }
  let at = (${layout.row("query")} * p.heads + head) * ${headDim}u;
  ${
		all((d) =>
			[0, 1, 2, 3].filter((i) => d * 4 + i < headDim)
				.map((i) => `out[at + ${d * 4 + i}u] = o${d}.${"xyzw"[i]} / sum;`).join(" ")
		).join("\n")
	}
}
`;
}
