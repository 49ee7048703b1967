import { repeat } from "../../source_text.ts";
import { ALL_F32, type GemmLayout, prelude, type Storages } from "./gemm_source.ts";

/** Rows and columns of C per workgroup, which has four subgroups of 32 lanes; each takes a quarter. */
export const MATRIX_TILE = 128;
/** Steps along the inner dimension between two barriers. */
export const MATRIX_DEPTH = 32;
const THREADS = 128;
/** Tiles of C that follow one another share their rows of A in bands of so many tiles. */
const BAND = 8;

/** The layouts of {@link matrixKernel}. */
export type MatrixLayout = Exclude<GemmLayout, "NN">;

/**
 * Generates the matrix product for tensor cores: f16 operands, sums in f32.
 *
 * A and B are whole tiles of f16, padded by zeros ({@link halve}): `[m, k]` and `[n, k]` for NT, `[k, m]`
 * and `[k, n]` for TN. Rows of the staged tiles are padded by eight halves against bank conflicts; the
 * next step is prefetched into registers. The sums are stored, and then finished by `put`, which handles
 * edges, bias, residual and the storage format of C.
 *
 * @param unit What offsets and strides of loads from arrays of vec4u count, in halves: 8 or 1; found by
 *   {@link unitKernel}, as compilers differ.
 * @param inPlace Whether the sums are stored in C, which then is f32 in whole tiles and not added to;
 *   otherwise in a tensor of their own.
 * @param tile Rows and columns of C per workgroup; smaller in tests.
 */
export function matrixKernel(
	layout: MatrixLayout,
	storages: Pick<Storages, "c" | "r">,
	unit: number,
	inPlace: boolean,
	tile = MATRIX_TILE,
): string {
	const quarter = tile / 2;
	const fragments = quarter / 16;
	/** vec4u (of eight halves) that a thread moves per operand and step. */
	const moved = tile * MATRIX_DEPTH / 8 / THREADS;
	const isTransposed = layout === "TN"; // k is the slow dimension of both
	const [tileRows, tileCols] = isTransposed ? [MATRIX_DEPTH, tile] : [tile, MATRIX_DEPTH];
	const stride = tileCols + 8;
	const across = tileCols / 8;
	// The place of a fragment is the subgroup's times a constant, plus a constant: then compilers see that
	// loads stay in bounds, and drop the checks, which cost a third of the rate.
	const at = (subgroup: string, row: number, k: number) =>
		isTransposed
			? `${subgroup} * ${quarter / 8}u + ${(k * stride + row) / 8}u`
			: `${subgroup} * ${quarter * stride / 8}u + ${(row * stride + k) / 8}u`;
	/** Rows of a tile that the threads move at a time. */
	const together = THREADS / across;
	const fetch = (name: string) =>
		repeat(moved, (i) => `r${name}${i} = ${name}[at${name} + ${i * together}u * width${name}];`);
	const put = (name: string) =>
		repeat(moved, (i) => `s${name}[own + ${i * together * stride / 8}u] = r${name}${i};`);
	const place = (name: "A" | "B", first: string) => {
		const operand = name.toLowerCase();
		const row = isTransposed ? "" : `${first} + `;
		const col = isTransposed ? `${first} / 8u + ` : "";
		return `let width${name} = p.${operand}_stride / 8u;
  var at${name} = p.${operand}_start / 8u + (${row}lane / ${across}u) * width${name} + ${col}lane % ${across}u;
  let step${name} = ${isTransposed ? `${MATRIX_DEPTH}u * width${name}` : `${MATRIX_DEPTH / 8}u`};`;
	};
	const [left, right] = isTransposed ? ["col_major", "row_major"] : ["row_major", "col_major"];
	const load = (type: string, order: string, array: string, place: string) =>
		`subgroupMatrixLoad<${type}, ${order}>(&${array}, ${place}, ${stride / unit}u)`;
	const multiply = repeat(MATRIX_DEPTH / 16, (step) => {
		const k = step * 16;
		return `{
      ${repeat(fragments, (i) => `let a${i} = ${load("Left", left, "sA", at("low", i * 16, k))};`)}
      ${
			repeat(fragments, (j) =>
				`{ let b = ${load("Right", right, "sB", at("right", j * 16, k))};
        ${
					repeat(
						fragments,
						(i) => `c${i}_${j} = subgroupMatrixMultiplyAccumulate(a${i}, b, c${i}_${j});`,
					)
				} }`)
		}
    }`;
	});
	const sums = repeat(fragments, (i) => repeat(fragments, (j) => `var c${i}_${j} = Sum();`));
	// Through global memory, which the caches hold: stores to workgroup memory halve the rate.
	const target = inPlace ? "C" : "T";
	const [origin, width] = inPlace
		? ["p.c_start + (m0 + rows) * p.c_stride + n0 + cols", "p.c_stride"]
		: ["(m0 + rows) * padded + n0 + cols", "padded"];
	const store = repeat(
		fragments,
		(i) =>
			repeat(
				fragments,
				(j) =>
					`subgroupMatrixStore<row_major>(&${target}, origin + ${16 * i}u * ${width} + ${
						16 * j
					}u, c${i}_${j}, ${width});`,
			),
	);
	return `${prelude({ storages: { ...ALL_F32, ...storages }, aligned: !inPlace, halves: true })}
@group(0) @binding(6) var<storage, read> a_scale: array<f32>; // [m], powers of two
@group(0) @binding(7) var<storage, read> b_scale: array<f32>; // [n], padded to whole tiles
${
		inPlace
			? ""
			: "@group(0) @binding(8) var<storage, read_write> T: array<f32>; // [m, n], padded to whole tiles"
	}

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
var<workgroup> sA: array<vec4u, ${tileRows * stride / 8}>;
var<workgroup> sB: array<vec4u, ${tileRows * stride / 8}>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let across = (p.n + ${tile - 1}u) / ${tile}u;
  let down = (p.m + ${tile - 1}u) / ${tile}u;
  let index = group.x + group.y * ${65535}u;
  let first = index / (${BAND}u * across) * ${BAND}u;
  if (first >= down) { return; }
  let band = min(down - first, ${BAND}u);
  let place = index % (${BAND}u * across);
  let m0 = (first + place % band) * ${tile}u;
  let n0 = place / band * ${tile}u;
  if ((p.flags & 8u) != 0u && n0 + ${tile}u <= m0) { return; }
  let low = lane / 64u;
  let right = lane / 32u % 2u;
  ${sums}
  ${repeat(moved, (i) => `var rA${i}: vec4u; var rB${i}: vec4u;`)}
  let own = (lane / ${across}u) * ${stride / 8}u + lane % ${across}u;
  ${place("A", "m0")}
  ${place("B", "n0")}
  ${fetch("A")}
  ${fetch("B")}
  ${put("A")}
  ${put("B")}
  workgroupBarrier();
  let steps = p.k / ${MATRIX_DEPTH}u;
  for (var step = 1u; step <= steps; step++) {
    let more = step < steps;
    if (more) {
      atA += stepA;
      atB += stepB;
      ${fetch("A")}
      ${fetch("B")}
    }
    ${multiply}
    workgroupBarrier();
    if (more) {
      ${put("A")}
      ${put("B")}
    }
    workgroupBarrier();
  }
  let padded = across * ${tile}u;
  let rows = low * ${quarter}u;
  let cols = right * ${quarter}u;
  let origin = ${origin};
  ${store}
  storageBarrier();
  workgroupBarrier();
  for (var e = lane; e < ${tile * tile / 4}u; e += ${THREADS}u) {
    let row = m0 + e / ${tile / 4}u;
    let col = n0 + e % ${tile / 4}u * 4u;
    if (row < p.m && col < p.n) {
      let at = ${inPlace ? "p.c_start + row * p.c_stride + col" : "row * padded + col"};
      let sum = vec4f(${target}[at], ${target}[at + 1u], ${target}[at + 2u], ${target}[at + 3u]);
      put(row, col, sum * a_scale[row] *
        vec4f(b_scale[col], b_scale[col + 1u], b_scale[col + 2u], b_scale[col + 3u]));
    }
  }
}
`;
}

/**
 * Generates a kernel that loads 16 x 16 fragments from an array of vec4u in workgroup memory, with
 * offsets and strides that count `unit` halves: C = A Bᵀ of the columns from 16 on of two matrices
 * `[16, 64]`.
 */
export function unitKernel(unit: number): string {
	return `
@group(0) @binding(0) var<storage, read> A: array<vec4u>;
@group(0) @binding(1) var<storage, read> B: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> C: array<f32>;
var<workgroup> sA: array<vec4u, 128>;
var<workgroup> sB: array<vec4u, 128>;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) lane: u32) {
  for (var i = lane; i < 128u; i += 32u) { sA[i] = A[i]; sB[i] = B[i]; }
  workgroupBarrier();
  let a = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&sA, 2u, ${64 / unit}u);
  let b = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&sB, 2u, ${64 / unit}u);
  var c = subgroup_matrix_result<f32, 16, 16>();
  c = subgroupMatrixMultiplyAccumulate(a, b, c);
  subgroupMatrixStore<row_major>(&C, 0u, c, 16u);
}
`;
}
