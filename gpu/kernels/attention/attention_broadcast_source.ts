import { repeat, XYZW } from "../../source_text.ts";
import { type AttentionForm, attentionRows, sinks, softCap } from "./attention_rows_source.ts";

/** Queries per lane, limited to keep the text and its compile time short. */
export function attentionBroadcastQueries(headDim: number): number {
	return headDim <= 64 ? 2 : 1;
}

/**
 * Generates the attention kernel of one head size for software adapters, where workgroup memory is slow:
 * one subgroup per workgroup.
 *
 * A lane owns one or two queries: their vectors, the running maximum and sum of the softmax, and the
 * weighted sum of values. Tiles have as many keys and values as there are lanes; each lane loads one of
 * each and broadcasts it. Registers spill to the L1 cache, so the loop order loads and stores each score
 * and each output once per tile: scores of eight keys at a time with the dimensions in the inner loop,
 * then outputs by dimension with the keys in the inner loop.
 */
export function attentionBroadcastKernel(
	headDim: number,
	lanes: number,
	form: AttentionForm = {},
): string {
	const { slides, isSegmented, isCapped } = form;
	const layout = attentionRows(isSegmented);
	const sink = sinks(form, "head", 1.44269504088896);
	const perLane = attentionBroadcastQueries(headDim);
	const vectors = Math.ceil(headDim / 4);
	const aligned = headDim % 4 === 0;
	const element = aligned ? "vec4f" : "f32";
	const all = (line: (d: number) => string) => repeat(vectors, line);
	const each = (line: (i: number) => string) => repeat(perLane, line);
	const load = (array: string, d: number) =>
		aligned
			? `${array}[(at >> 2u) + ${d}u]`
			: `vec4f(${
				[0, 1, 2, 3].map((i) => d * 4 + i < headDim ? `${array}[at + ${d * 4 + i}u]` : "0.0")
					.join(", ")
			})`;
	const store = (d: number, value: string) =>
		aligned
			? `out[(at >> 2u) + ${d}u] = ${value};`
			: `{ let v = ${value}; ${
				[0, 1, 2, 3].filter((i) => d * 4 + i < headDim)
					.map((i) => `out[at + ${d * 4 + i}u] = v.${XYZW[i]};`).join(" ")
			} }`;
	const queryOf = (i: number) => `first_query + ${i * lanes}u + lane`;
	const placeOf = (query: string) => `(${layout.row(query)} * p.heads + head) * ${headDim}u`;
	const isSeen = (key: string, query: string) =>
		slides ? `${key} <= ${query} && ${key} + p.sliding_window > ${query}` : `${key} <= ${query}`;

	const block = Math.min(8, lanes); // keys whose scores are in registers at once
	const scores = (first: number) =>
		all((d) =>
			repeat(block, (k) => {
				const j = first + k;
				return `{ let key = subgroupBroadcast(k${d}, ${j}u); ${
					each((i) => `s${i}_${j} += dot(q${i}_${d}, key);`)
				} }`;
			})
		);
	const greatest = (i: number) =>
		Array.from({ length: lanes }, (_, j) => `s${i}_${j}`)
			.reduce((all, score) => `max(${all}, ${score})`);
	const score = (s: string) => isCapped ? `soft_cap(${s}, p.cap * 1.44269504088896)` : s;
	const outputs = (d: number) =>
		`${each((i) => `o${i}_${d} *= shrink${i};`)}
    ${
			repeat(lanes, (j) =>
				`{ let value = subgroupBroadcast(v${d}, ${j}u); ${
					each((i) => `o${i}_${d} = fma(vec4f(s${i}_${j}), value, o${i}_${d});`)
				} }`)
		}`;
	return `
struct Params { ${layout.firstParameter}, heads: u32, key_value_heads: u32, sliding_window: u32, scale: f32${
		isCapped ? ", cap: f32" : ""
	} }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> queries: array<${element}>; // [tokens, heads, ${headDim}]
@group(0) @binding(2) var<storage, read> keys: array<${element}>;    // [tokens, key_value_heads, ${headDim}]
@group(0) @binding(3) var<storage, read> values: array<${element}>;
@group(0) @binding(4) var<storage, read_write> out: array<${element}>;
${layout.declarations}
${sink.declaration}
${isCapped ? softCap("f32") : ""}
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let head = group.y;
  ${layout.prologue}
  let first_query = ${layout.begin}group.x * ${perLane * lanes}u;
  ${layout.leave("first_query")}
  let key_value_head = head / (p.heads / p.key_value_heads);
  // The driver implements exp with exp2, so scores are in units of log 2.
  let scale = p.scale * 1.44269504088896;
  ${
		each((i) =>
			`let query${i} = ${queryOf(i)};
  var top${i} = ${sink.top};
  var sum${i} = ${sink.sum};
  ${all((d) => `var q${i}_${d}: vec4f; var o${i}_${d} = vec4f(0.0);`)}
  {
    let at = ${placeOf(`min(query${i}, length - 1u)`)};
    ${all((d) => `q${i}_${d} = scale * ${load("queries", d)};`)}
  }`
		)
	}
  let end = min(first_query + ${perLane * lanes}u, length);
  ${
		slides
			// Sums over masked keys before the first visible one are scaled to zero when that key is reached.
			? `var first = (first_query - min(first_query, p.sliding_window - 1u)) / ${lanes}u * ${lanes}u;`
			: "var first = 0u;"
	}
  for (; first < end; first += ${lanes}u) {
    let at = (${
		layout.row("min(first + lane, length - 1u)")
	} * p.key_value_heads + key_value_head) * ${headDim}u;
    ${all((d) => `let k${d} = ${load("keys", d)}; let v${d} = ${load("values", d)};`)}
    ${each((i) => repeat(lanes, (j) => `var s${i}_${j} = 0.0;`))}
    ${repeat(lanes / block, (part) => scores(part * block))}
    ${
		each((i) =>
			repeat(lanes, (j) =>
				`s${i}_${j} = select(-3.0e38, ${score(`s${i}_${j}`)}, ${
					isSeen(`first + ${j}u`, `query${i}`)
				});`)
		)
	}
    ${
		each((i) =>
			`let new_top${i} = max(top${i}, ${greatest(i)});
    let shrink${i} = exp2(top${i} - new_top${i});
    top${i} = new_top${i};
    sum${i} *= shrink${i};
    ${repeat(lanes, (j) => `s${i}_${j} = exp2(s${i}_${j} - new_top${i}); sum${i} += s${i}_${j};`)}`
		)
	}
    ${all(outputs)}
  }
  ${
		each((i) =>
			`if (query${i} < length) {
    let at = ${placeOf(`query${i}`)};
    ${all((d) => store(d, `o${i}_${d} / sum${i}`))}
  }`
		)
	}
}
`;
}
