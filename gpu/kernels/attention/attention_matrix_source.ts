import { repeat } from "../../source_text.ts";
import { type AttentionForm, attentionRows, sinks, softCap } from "./attention_rows_source.ts";

/** Queries per workgroup, which has four subgroups of 32 lanes; each takes 16 of them. */
export const MATRIX_QUERIES = 64;
const THREADS = 128;
/** Keys per tile. */
const KEYS = 32;
/** Entries between rows of scores and weights, against bank conflicts. */
const [SCORES, WEIGHTS] = [KEYS + 4, KEYS + 8];
/** How far the scores of a row, in units of log 2, may rise before its sums are rescaled. */
const RISE = 8;

/** Bytes of workgroup memory that {@link attentionMatrixKernel} needs. */
export function attentionMatrixBytes(headDim: number): number {
	return 2 * KEYS * 2 * (headDim + 8) + MATRIX_QUERIES * (4 * SCORES + 2 * WEIGHTS) + 4 * KEYS + 16;
}

/**
 * Generates the attention kernel for tensor cores and head sizes that are multiples of 64: queries, keys,
 * values and softmax weights in f16, scores and sums in f32.
 *
 * A subgroup keeps the fragments of its 16 queries and the sums of their outputs. Scores pass through
 * workgroup memory, where two lanes take a row, to the weights. Sums in fragments cannot be scaled by
 * rows, so that they pass through workgroup memory, too, where scores rise: weights are relative to a
 * score that is at most {@link RISE} below the greatest one, and follows it where it rises further.
 *
 * @param unit As for `matrixKernel`.
 */
export function attentionMatrixKernel(
	headDim: number,
	unit: number,
	form: AttentionForm = {},
): string {
	const { slides, isSegmented, isCapped, hasSinks } = form;
	const layout = attentionRows(isSegmented);
	const sink = sinks(form, "group.y", 1.44269504088896);
	const scales = 5 + Number(isSegmented ?? false) + Number(hasSinks ?? false);
	const steps = headDim / 16;
	const stride = headDim + 8;
	const across = headDim / 8; // vec4u of a row
	const together = THREADS / across; // rows that the threads move at a time
	const [columns, half] = [KEYS / 16, KEYS / 2];
	/** vec4u that a thread moves per tile of keys, or of values. */
	const moved = KEYS / together;
	const load = (type: string, order: string, array: string, place: string, stride: number) =>
		`subgroupMatrixLoad<${type}, ${order}>(&${array}, ${place}, ${stride / unit}u)`;
	const fetch = repeat(
		moved,
		(i) =>
			`{ let at = ${layout.row(`min(next + own + ${i * together}u, length - 1u)`)} * key_stride +
        key_head + lane % ${across}u; rK${i} = keys[at]; rV${i} = values[at]; }`,
	);
	const place = (i: number, first = 0) =>
		`${first * stride / 8}u + (own + ${i * together}u) * ${stride / 8}u + lane % ${across}u`;
	const ownScores = `subgroup * ${16 * SCORES}u`;
	/** Lets each lane change its part of rows of the sums. */
	const throughMemory = (part: number, change: string, isBack: boolean) => {
		const first = part * columns;
		const each = (line: (at: string, sum: string) => string) =>
			repeat(columns, (j) => line(`${ownScores} + ${16 * j}u`, `o${first + j}`));
		return `${each((at, sum) => `subgroupMatrixStore<row_major>(&sS, ${at}, ${sum}, ${SCORES}u);`)}
    workgroupBarrier();
    for (var i = 0u; i < ${half}u; i++) {
      let e = row * ${SCORES}u + right * ${half}u + (i ^ turn);
      ${change}
    }
    workgroupBarrier();
    ${
			isBack
				? each((at, sum) =>
					`${sum} = subgroupMatrixLoad<Sum, row_major>(&sS, ${at}, ${SCORES}u);`
				) + "\n    workgroupBarrier();"
				: ""
		}`;
	};
	const parts = steps / columns;
	const isSeen = slides ? "key <= query && key + p.sliding_window > query" : "key <= query";
	const score = (s: string) => isCapped ? `soft_cap(${s}, p.cap * 1.44269504088896)` : s;
	return `
struct Params { ${layout.firstParameter}, heads: u32, key_value_heads: u32, sliding_window: u32, scale: f32${
		isCapped ? ", cap: f32" : ""
	} }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> queries: array<vec4u>; // f16 [tokens, heads, ${headDim}]
@group(0) @binding(2) var<storage, read> keys: array<vec4u>;    // f16 [tokens, key_value_heads, ${headDim}]
@group(0) @binding(3) var<storage, read> values: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [tokens, heads, ${headDim}]
${layout.declarations}
${sink.declaration}
// Powers of two: of the rows of queries and keys, and of the columns of values.
@group(0) @binding(${scales}) var<storage, read> query_scales: array<f32>;
@group(0) @binding(${scales + 1}) var<storage, read> key_scales: array<f32>;
@group(0) @binding(${scales + 2}) var<storage, read> value_scales: array<f32>;
${isCapped ? softCap("f32") : ""}
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
var<workgroup> sT: array<vec4u, ${
		2 * KEYS * stride / 8
	}>; // the queries; then a tile of keys, and of values
var<workgroup> sS: array<f32, ${MATRIX_QUERIES * SCORES}>; // scores
var<workgroup> sP: array<f16, ${MATRIX_QUERIES * WEIGHTS}>; // weights
var<workgroup> sK: array<f32, ${KEYS}>; // scales of keys
var<workgroup> rises: array<u32, 4>; // whether scores of a subgroup rise

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  ${layout.prologue}
  let q0 = ${layout.begin}(count.x - 1u - group.x) * ${MATRIX_QUERIES}u; // the longest rows first
  ${layout.leave("q0")}
  let query_stride = p.heads * ${across}u;
  let key_stride = p.key_value_heads * ${across}u;
  let key_head = group.y / (p.heads / p.key_value_heads) * ${across}u;
  let subgroup = lane / 32u;
  let own = lane / ${across}u;
  for (var r = own; r < ${MATRIX_QUERIES}u; r += ${together}u) {
    sT[r * ${stride / 8}u + lane % ${across}u] = queries[
      ${
		layout.row("min(q0 + r, length - 1u)")
	} * query_stride + group.y * ${across}u + lane % ${across}u];
  }
  // Two lanes for each row; they take entries in an order without bank conflicts.
  let row = lane / 2u;
  let right = lane % 2u;
  let turn = row / 4u % 4u;
  let query = q0 + row;
  // Hardware has exp2, so scores are in units of log 2.
  let scale = p.scale * 1.44269504088896 * query_scales[${layout.row("min(query, length - 1u)")}];
  var top = ${sink.top};
  var sum = ${hasSinks ? "select(0.0, 1.0, right == 0u)" : "0.0"};
  workgroupBarrier();
  ${
		repeat(steps, (k) =>
			`let a${k} = ${
				load("Left", "row_major", "sT", `subgroup * ${2 * stride}u + ${2 * k}u`, stride)
			};
  var o${k} = Sum();`)
	}
  ${repeat(moved, (i) => `var rK${i}: vec4u; var rV${i}: vec4u;`)}
  let end = min(q0 + ${MATRIX_QUERIES}u, length);
  ${
		slides
			? `let begin = (q0 - min(q0, p.sliding_window - 1u)) / ${KEYS}u * ${KEYS}u;`
			: "let begin = 0u;"
	}
  var next = begin;
  ${fetch}
  for (var k0 = begin; k0 < end; k0 += ${KEYS}u) {
    workgroupBarrier(); // everyone is done with the tile
    ${repeat(moved, (i) => `sT[${place(i)}] = rK${i}; sT[${place(i, KEYS)}] = rV${i};`)}
    if (lane < ${KEYS}u) { sK[lane] = key_scales[${layout.row("min(k0 + lane, length - 1u)")}]; }
    workgroupBarrier();
    next = k0 + ${KEYS}u;
    if (next < end) {
      ${fetch}
    }
    ${
		repeat(columns, (j) =>
			`{ var s = Sum();
      ${
				repeat(steps, (k) =>
					`s = subgroupMatrixMultiplyAccumulate(a${k}, ${
						load("Right", "col_major", "sT", `${2 * j * stride + 2 * k}u`, stride)
					}, s);`)
			}
      subgroupMatrixStore<row_major>(&sS, ${ownScores} + ${16 * j}u, s, ${SCORES}u); }`)
	}
    workgroupBarrier();
    var greatest = -3.0e38;
    ${
		repeat(half, (i) =>
			`var s${i}: f32; { let e = right * ${half}u + (${i}u ^ turn); let key = k0 + e;
      s${i} = select(-3.0e38, ${
				score(`scale * sK[e] * sS[row * ${SCORES}u + e]`)
			}, ${isSeen}); greatest = max(greatest, s${i}); }`)
	}
    greatest = max(greatest, subgroupShuffleXor(greatest, 1u));
    let isHigher = greatest > top + ${RISE}.0;
    var shrink = 1.0;
    if (isHigher) {
      shrink = exp2(top - greatest);
      sum *= shrink;
      top = greatest;
    }
    ${
		repeat(half, (i) =>
			`{ let weight = f16(exp2(s${i} - top)); sum += f32(weight);
      sP[row * ${WEIGHTS}u + right * ${half}u + (${i}u ^ turn)] = weight; }`)
	}
    let rise = u32(subgroupAny(isHigher && k0 > begin));
    if (lane % 32u == 0u) { rises[subgroup] = rise; }
    let all = workgroupUniformLoad(&rises);
    if (all[0] + all[1] + all[2] + all[3] > 0u) {
    ${repeat(parts, (part) => throughMemory(part, "sS[e] *= shrink;", true))}
    }
    ${
		repeat(columns, (k) =>
			`{ let w = ${`subgroupMatrixLoad<Left, row_major>(&sP, subgroup * ${16 * WEIGHTS}u + ${
				16 * k
			}u, ${WEIGHTS}u)`};
      ${
				repeat(steps, (j) =>
					`o${j} = subgroupMatrixMultiplyAccumulate(w, ${
						load("Right", "row_major", "sT", `${(KEYS + 16 * k) * stride / 8 + 2 * j}u`, stride)
					}, o${j});`)
			} }`)
	}
  }
  let total = sum + subgroupShuffleXor(sum, 1u);
  let at = (${layout.row("query")} * p.heads + group.y) * ${headDim}u;
  let value_head = key_head * 8u;
  ${
		repeat(parts, (part) =>
			throughMemory(
				part,
				`let d = ${part * KEYS}u + right * ${half}u + (i ^ turn);
      if (query < length) { out[at + d] = sS[e] / total * value_scales[value_head + d]; }`,
				false,
			))
	}
}
`;
}
