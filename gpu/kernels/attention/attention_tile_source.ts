import { repeat, XYZW } from "../../source_text.ts";
import { type AttentionForm, attentionRows, sinks, softCap } from "./attention_rows_source.ts";

/** Keys per tile, and the depth of the stage: dimensions or keys in workgroup memory at a time. */
const KEYS = 64;
const DEPTH = 16;

/** Bytes of workgroup memory that {@link attentionTileKernel} needs. */
export function attentionTileBytes(headDim: number, queries: number): number {
	return 16 * (DEPTH * stageColumns(headDim, queries) + KEYS * (queries / 4 + 1));
}

function stageColumns(headDim: number, queries: number): number {
	return Math.max(queries / 4 + 1 + KEYS / 4 + 1, headDim / 4);
}

/**
 * Generates the attention kernel for GPUs and head sizes that are multiples of 64: two tile products per
 * 64 keys, with intermediate results in registers and workgroup memory.
 *
 * A workgroup of 16 x 16 threads handles 64 or 128 queries of one head. A thread owns groups of four
 * queries, 64 apart, by four keys of the scores, and by four dimensions, 64 apart, of the output. The
 * softmax weights pass through workgroup memory, `[key][query / 4]`, as the left factor of the second
 * product. A row's sum stays in partial sums, one per thread, until the end.
 *
 * @param queries 64 or 128.
 */
export function attentionTileKernel(
	headDim: number,
	queries: number,
	form: AttentionForm = {},
): string {
	const { slides, isSegmented, isCapped } = form;
	const layout = attentionRows(isSegmented);
	const sink = sinks(form, "group.y", 1.44269504088896);
	const groups = queries / 64; // of four queries per thread
	const rows = 4 * groups;
	const columns = headDim / 64; // output vectors per thread and row
	const keyColumn = queries / 4 + 1;
	const row = (array: string, i: number) => `${array}${i >> 2}.${XYZW[i & 3]}`;
	const allRows = (line: (i: number) => string) => repeat(rows, line);
	const allGroups = (line: (g: number) => string) => repeat(groups, line);

	// A block of four rows by four dimensions is transposed on its way to workgroup memory.
	const transposed = (
		array: string,
		first: string,
		rowStride: string,
		heads: string,
		at: string,
	) => `
      let d4 = block % ${DEPTH / 4}u;
      let r = block / ${DEPTH / 4}u;
      ${
		repeat(4, (i) =>
			`let v${i} = ${array}[${
				layout.row(`min(${first} + r * 4u + ${i}u, length - 1u)`)
			} * ${rowStride} + ${heads} + d0 / 4u + d4];`)
	}
      ${
		repeat(4, (i) =>
			`stage[d4 * 4u + ${i}u][${at} + r] = vec4f(${
				[0, 1, 2, 3].map((j) =>
					`v${j}.${XYZW[i]}`
				).join(", ")
			});`)
	}`;
	const isSeen = slides
		? "(key <= vec4u(query)) & (key + vec4u(p.sliding_window) > vec4u(query))"
		: "key <= vec4u(query)";
	const score = (s: string) => isCapped ? `soft_cap(${s}, p.cap * 1.44269504088896)` : s;
	return `
struct Params { ${layout.firstParameter}, heads: u32, key_value_heads: u32, sliding_window: u32, scale: f32${
		isCapped ? ", cap: f32" : ""
	} }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> queries: array<vec4f>; // [tokens, heads, ${headDim} / 4]
@group(0) @binding(2) var<storage, read> keys: array<vec4f>;    // [tokens, key_value_heads, ${headDim} / 4]
@group(0) @binding(3) var<storage, read> values: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
${layout.declarations}
${sink.declaration}
${isCapped ? softCap("vec4f") : ""}
// A part of the queries and keys as [dimension][row / 4], then a part of the values as [key].
var<workgroup> stage: array<array<vec4f, ${stageColumns(headDim, queries)}>, ${DEPTH}>;
var<workgroup> weights: array<array<vec4f, ${queries / 4 + 1}>, ${KEYS}>; // [key][query / 4]

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let tx = thread % 16u;
  let ty = thread / 16u;
  ${layout.prologue}
  let q0 = ${layout.begin}(count.x - 1u - group.x) * ${queries}u; // the longest rows first
  ${layout.leave("q0")}
  let query_stride = p.heads * ${headDim / 4}u;
  let key_stride = p.key_value_heads * ${headDim / 4}u;
  let query_head = group.y * ${headDim / 4}u;
  let key_head = group.y / (p.heads / p.key_value_heads) * ${headDim / 4}u;
  // Hardware has exp2, so scores are in units of log 2.
  let scale = p.scale * 1.44269504088896;
  ${
		allGroups((g) =>
			`var top${g} = vec4f(${sink.top}); var sum${g} = vec4f(${
				form.hasSinks ? "select(0.0, 1.0, tx == 0u)" : "0.0"
			});`
		)
	}
  ${allRows((i) => repeat(columns, (j) => `var o${i}_${j} = vec4f(0.0);`))}
  let end = min(q0 + ${queries}u, length);
  ${
		slides
			// Sums over masked keys before the first visible one are scaled to zero when that key is reached.
			? `var k0 = (q0 - min(q0, p.sliding_window - 1u)) / ${KEYS}u * ${KEYS}u;`
			: "var k0 = 0u;"
	}
  for (; k0 < end; k0 += ${KEYS}u) {
    ${allRows((i) => `var s${i} = vec4f(0.0);`)}
    for (var d0 = 0u; d0 < ${headDim}u; d0 += ${DEPTH}u) {
      workgroupBarrier(); // everyone is done with the stage
      if (thread < ${queries / 4 * DEPTH / 4}u) {
        let block = thread;
        ${transposed("queries", "q0", "query_stride", "query_head", "0u")}
      }${
		queries / 4 * DEPTH / 4 + KEYS / 4 * DEPTH / 4 <= 256 ? " else if" : "\n      if"
	} (thread >= ${256 - KEYS / 4 * DEPTH / 4}u) {
        let block = thread - ${256 - KEYS / 4 * DEPTH / 4}u;
        ${transposed("keys", "k0", "key_stride", "key_head", `${keyColumn}u`)}
      }
      workgroupBarrier();
      ${
		repeat(DEPTH, (d) =>
			`{ let b = stage[${d}][tx + ${keyColumn}u]; ${
				allGroups((g) =>
					`let a${g} = stage[${d}][ty + ${g * 16}u];`
				)
			}
        ${allRows((i) => `s${i} = fma(vec4f(${row("a", i)}), b, s${i});`)} }`)
	}
    }
    let key = vec4u(k0 + tx * 4u) + vec4u(0u, 1u, 2u, 3u);
    ${
		allRows((i) =>
			`{ let query = q0 + ${(i >> 2) * 64 + (i & 3)}u + ty * 4u; s${i} = select(vec4f(-3.0e38), ${
				score(`scale * s${i}`)
			}, ${isSeen}); }`
		)
	}
    // The greatest score of each row: of a thread's four keys, then of the sixteen threads.
    ${
		allGroups((g) =>
			`weights[tx][ty + ${g * 16}u] = vec4f(${
				[0, 1, 2, 3].map((i) => `greatest(s${g * 4 + i})`).join(", ")
			});`
		)
	}
    workgroupBarrier();
    ${
		allGroups((g) =>
			`var new_top${g} = top${g};
    ${repeat(16, (t) => `new_top${g} = max(new_top${g}, weights[${t}][ty + ${g * 16}u]);`)}
    let shrink${g} = exp2(top${g} - new_top${g});
    top${g} = new_top${g};`
		)
	}
    workgroupBarrier(); // the weights take the place of the greatest scores
    ${allRows((i) => `s${i} = exp2(s${i} - vec4f(${row("top", i)}));`)}
    ${
		allGroups((g) =>
			`sum${g} = sum${g} * shrink${g} + vec4f(${
				[0, 1, 2, 3].map((i) => `dot(s${g * 4 + i}, vec4f(1.0))`).join(", ")
			});
    ${
				repeat(4, (k) =>
					`weights[tx * 4u + ${k}u][ty + ${g * 16}u] = vec4f(${
						[0, 1, 2, 3].map((i) => `s${g * 4 + i}.${XYZW[k]}`).join(", ")
					});`)
			}`
		)
	}
    ${allRows((i) => repeat(columns, (j) => `o${i}_${j} *= ${row("shrink", i)};`))}
    for (var part = 0u; part < ${KEYS}u; part += ${DEPTH}u) {
      workgroupBarrier(); // everyone is done with the stage, and has written its weights
      ${
		repeat(DEPTH * headDim / 4 / 256, (n) =>
			`{ let piece = thread + ${n * 256}u; let r = piece / ${headDim / 4}u; let d4 = piece % ${
				headDim / 4
			}u;
        stage[r][d4] = values[${
				layout.row("min(k0 + part + r, length - 1u)")
			} * key_stride + key_head + d4]; }`)
	}
      workgroupBarrier();
      ${
		repeat(DEPTH, (k) =>
			`{ ${allGroups((g) => `let a${g} = weights[part + ${k}u][ty + ${g * 16}u];`)}
        ${repeat(columns, (j) => `let b${j} = stage[${k}][tx + ${j * 16}u];`)}
        ${
				allRows((i) =>
					repeat(columns, (j) => `o${i}_${j} = fma(vec4f(${row("a", i)}), b${j}, o${i}_${j});`)
				)
			} }`)
	}
    }
  }
  workgroupBarrier(); // everyone is done with the weights
  ${allGroups((g) => `weights[tx][ty + ${g * 16}u] = sum${g};`)}
  workgroupBarrier();
  ${
		allGroups((g) =>
			`var total${g} = vec4f(0.0);
  ${repeat(16, (t) => `total${g} += weights[${t}][ty + ${g * 16}u];`)}`
		)
	}
  ${
		allRows((i) =>
			`{ let query = q0 + ${(i >> 2) * 64 + (i & 3)}u + ty * 4u;
    if (query < length) {
      let at = ${layout.row("query")} * query_stride + query_head + tx;
      ${repeat(columns, (j) => `out[at + ${j * 16}u] = o${i}_${j} / ${row("total", i)};`)}
    } }`
		)
	}
}

fn greatest(v: vec4f) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
`;
}
