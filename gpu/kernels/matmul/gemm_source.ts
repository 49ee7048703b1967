import { repeat, XYZW } from "../../source_text.ts";

/**
 * What the matrix-multiplication kernels share: C = alpha · op(A) · op(B), and what follows it.
 *
 * Hot loops are written out: naga guards every WGSL loop with a 64-bit counter.
 */
import type { Dtype } from "../../tensor.ts";

/** The layout of the operands A and B: `N` as is, `T` transposed. */
export type GemmLayout = "NN" | "NT" | "TN";

/** The storage format of a matrix; f16 and bf16 are packed two to a word and widened to f32. */
export type Storage = Extract<Dtype, "f32" | "f16" | "bf16">;

/** The storage formats of a product: factors a and b, result c and residual r. */
export interface Storages {
	a: Storage;
	b: Storage;
	c: Exclude<Storage, "bf16">;
	r: Storage;
}

/** Everything in f32. */
export const ALL_F32: Storages = { a: "f32", b: "f32", c: "f32", r: "f32" };

/** Bits of the `flags` parameter. */
export const GEMM_FLAGS = { bias: 1, residual: 2, accumulate: 4, upper: 8 } as const;

/** The parameter block of the matrix products. */
export const GEMM_PARAMS = `
struct Params {
  m: u32, n: u32, k: u32, flags: u32,
  a_start: u32, a_stride: u32, b_start: u32, b_stride: u32,
  c_start: u32, c_stride: u32, r_start: u32, r_stride: u32,
  alpha: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
`;

/** The WGSL element type of a matrix array: four adjacent values if rows are aligned, else a word. */
export function elementType(storage: Storage, aligned: boolean): string {
	if (storage === "f32") return aligned ? "vec4f" : "f32";
	return aligned ? "vec2u" : "u32";
}

/** WGSL for four adjacent values as f32, from an element of {@link elementType} for aligned rows. */
export function widened(storage: Storage, value: string): string {
	return storage === "f32" ? value : `widen_${storage}(${value})`;
}

/** WGSL for four adjacent values from element `index`, a multiple of four if rows are aligned. */
export function load(array: string, storage: Storage, aligned: boolean, index: string): string {
	if (aligned) return widened(storage, `${array}[(${index}) >> 2u]`);
	const one = (at: string) =>
		storage === "f32" ? `${array}[${at}]` : `half_${storage}(${array}[(${at}) >> 1u], ${at})`;
	return `vec4f(${[0, 1, 2, 3].map((i) => one(`${index} + ${i}u`)).join(", ")})`;
}

/** WGSL functions that unpack four values, or one, from words of two. */
export const WIDEN = `
fn widen_f16(words: vec2u) -> vec4f {
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}
fn widen_bf16(words: vec2u) -> vec4f {
  return bitcast<vec4f>(vec4u(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}
fn half_f16(word: u32, index: u32) -> f32 {
  let pair = unpack2x16float(word);
  return select(pair.x, pair.y, (index & 1u) == 1u);
}
fn half_bf16(word: u32, index: u32) -> f32 {
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (index & 1u) == 1u));
}
// Values beyond the range of f16 saturate: an infinity would spread to all later activations.
fn narrow_f16(v: vec4f) -> vec2u {
  let w = clamp(v, vec4f(-65504.0), vec4f(65504.0));
  return vec2u(pack2x16float(w.xy), pack2x16float(w.zw));
}
`;

/** The options of {@link prelude}. */
export interface PreludeOptions {
	storages: Storages;
	/** Whether every row starts at a multiple of four elements and the columns are a multiple of four. */
	aligned: boolean;
	/** Whether C consists of whole tiles, so that there are no bounds checks. */
	whole?: boolean;
	/** The {@link GEMM_FLAGS}, if they are known at compile time. */
	flags?: number;
	/** Whether A and B are arrays of eight f16 each, which the kernel reads by itself. */
	halves?: boolean;
	/**
	 * Whether the product is a grouped one: a tile has rows of one expert. `put` then takes the expert, the
	 * end of the tile, and the place of a row in the order of pairs, in which the rows of C are.
	 */
	grouped?: boolean;
}

/** WGSL bindings, parameters and the function `put`, which finishes four adjacent entries of C. */
export function prelude(
	{ storages, aligned, whole = false, flags: known, halves = false, grouped = false }:
		PreludeOptions,
): string {
	const { a, b, c, r } = storages;
	const extra = (name: keyof typeof GEMM_FLAGS, text: string) => {
		const flag = GEMM_FLAGS[name];
		if (known === undefined) return `if ((p.flags & ${flag}u) != 0u) { ${text} }`;
		return known & flag ? `{ ${text} }` : "";
	};
	const store = aligned
		? `C[at >> 2u] = ${c === "f16" ? "narrow_f16(v)" : "v"};`
		: repeat(4, (i) => `if (col + ${i}u < p.n) { C[at + ${i}u] = v.${XYZW[i]}; }`);
	if (grouped) return groupedPrelude(storages, aligned, store);
	return `${GEMM_PARAMS}
@group(0) @binding(1) var<storage, read> A: array<${halves ? "vec4u" : elementType(a, aligned)}>;
@group(0) @binding(2) var<storage, read> B: array<${halves ? "vec4u" : elementType(b, aligned)}>;
@group(0) @binding(3) var<storage, read_write> C: array<${elementType(c, aligned)}>; // [m, n]
@group(0) @binding(4) var<storage, read> bias: array<${elementType("f32", aligned)}>;    // [n]
@group(0) @binding(5) var<storage, read> R: array<${elementType(r, aligned)}>;       // [m, n]
${Object.values(storages).every((storage) => storage === "f32") ? "" : WIDEN}
${
		halves ? "" : `fn load_a(index: u32) -> vec4f { return ${load("A", a, aligned, "index")}; }
fn load_b(index: u32) -> vec4f { return ${load("B", b, aligned, "index")}; }`
	}

fn put(row: u32, col: u32, sum: vec4f) {
  ${whole ? "" : "if (row >= p.m || col >= p.n) { return; }"}
  var v = p.alpha * sum;
  let at = p.c_start + row * p.c_stride + col;
  ${extra("bias", `v += ${load("bias", "f32", aligned, "col")};`)}
  ${
		extra(
			"residual",
			`let r = p.r_start + row * p.r_stride + col; v += ${load("R", r, aligned, "r")};`,
		)
	}
  ${extra("accumulate", `v += ${load("C", c, aligned, "at")};`)}
  ${store}
}
`;
}

/** {@link prelude} of a grouped product, see `grouped_gemm.ts`. */
function groupedPrelude({ a, b }: Storages, aligned: boolean, store: string): string {
	return `
struct Params {
  n: u32, k: u32, has_bias: u32, per_row: u32,
  a_stride: u32, b_stride: u32, b_step: u32, c_stride: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> A: array<${
		elementType(a, aligned)
	}>; // [pairs / per_row, k]
@group(0) @binding(2) var<storage, read> B: array<${
		elementType(b, aligned)
	}>; // matrices [n, k], b_step apart
@group(0) @binding(3) var<storage, read_write> C: array<${
		elementType("f32", aligned)
	}>; // [pairs, n]
@group(0) @binding(4) var<storage, read> bias: array<${
		elementType("f32", aligned)
	}>; // [experts, n]
@group(0) @binding(5) var<storage, read> order: array<u32>;  // [pairs]
@group(0) @binding(6) var<storage, read> tiles: array<u32>;  // [3 tiles + 1]
@group(0) @binding(7) var<storage, read> places: array<u32>; // [experts], the matrix of each
${a === "f32" && b === "f32" ? "" : WIDEN}
fn load_a(index: u32) -> vec4f { return ${load("A", a, aligned, "index")}; }
fn load_b(index: u32) -> vec4f { return ${load("B", b, aligned, "index")}; }

fn put(expert: u32, end: u32, place: u32, col: u32, sum: vec4f) {
  if (place >= end || col >= p.n) { return; }
  var v = sum;
  let at = order[place] * p.c_stride + col;
  if (p.has_bias != 0u) {
    let bias_at = expert * p.n + col;
    v += ${load("bias", "f32", aligned, "bias_at")};
  }
  ${store}
}
`;
}

/**
 * Generates the kernel that finishes an f32 product stored in whole tiles in A; a thread handles four
 * adjacent entries of C.
 *
 * @param flags The {@link GEMM_FLAGS} of the call; unused parts are omitted from the kernel, because
 *   software adapters execute branches that no lane takes.
 * @param storages Of C, which is f32 unless rows are aligned, and the residual.
 */
export function finishKernel(
	aligned: boolean,
	flags: number,
	{ c, r }: Pick<Storages, "c" | "r"> = ALL_F32,
): string {
	return `${prelude({ storages: { a: "f32", b: "f32", c, r }, aligned, flags })}
@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  let col = id.x * 4u;
  if (row >= p.m || col >= p.n) { return; }
  if ((p.flags & ${GEMM_FLAGS.upper}u) != 0u && col + 4u <= row) { return; }
  put(row, col, load_a(p.a_start + row * p.a_stride + col));
}
`;
}
