import { repeat } from "../../source_text.ts";
import { ALL_F32, type GemmLayout, prelude, type Storages } from "./gemm_source.ts";

/** Rows and columns of C per workgroup, which has four subgroups of 32 lanes; each takes a quarter. */
export const MATRIX_TILE = 128;
/** Steps along the inner dimension between two barriers. */
export const MATRIX_DEPTH = 32;
const THREADS = 128;
/** Rows and columns of C per subgroup, in fragments of 16 x 16. */
const QUARTER = 64;
const FRAGMENTS = QUARTER / 16;
/** vec4u (of eight halves) that a thread moves per operand and step. */
const MOVED = MATRIX_TILE * MATRIX_DEPTH / 8 / THREADS;
/** Tiles of C that follow one another share their rows of A in bands of so many tiles. */
const BAND = 8;

/** The layouts of {@link matrixKernel}. */
export type MatrixLayout = Exclude<GemmLayout, "NN">;

/**
 * Generates the matrix product for tensor cores: f16 operands, sums in f32.
 *
 * A and B are whole tiles of f16, padded by zeros ({@link halve}): `[m, k]` and `[n, k]` for NT, `[k, m]`
 * and `[k, n]` for TN. Rows of the staged tiles are padded by eight halves against bank conflicts; the
 * next step is prefetched into registers. The sums pass through workgroup memory to `put`, which
 * handles edges, bias, residual and the storage format of C.
 *
 * @param unit What offsets and strides of loads from arrays of vec4u count, in halves: 8 or 1; found by
 *   {@link unitKernel}, as compilers differ.
 */
export function matrixKernel(
  layout: MatrixLayout,
  storages: Pick<Storages, "c" | "r">,
  unit: number,
): string {
  const isTransposed = layout === "TN"; // k is the slow dimension of both
  const [tileRows, tileCols] = isTransposed
    ? [MATRIX_DEPTH, MATRIX_TILE]
    : [MATRIX_TILE, MATRIX_DEPTH];
  const stride = tileCols + 8;
  const across = tileCols / 8;
  const at = (row: string, col: string) =>
    isTransposed
      ? `((${col}) * ${stride}u + ${row}) / 8u`
      : `((${row}) * ${stride}u + ${col}) / 8u`;
  const fetch = (name: string, first: string) =>
    repeat(MOVED, (i) => {
      const e = `(lane + ${i * THREADS}u)`;
      const row = isTransposed ? `k0 + ${e} / ${across}u` : `${first} + ${e} / ${across}u`;
      const col = isTransposed ? `${first} / 8u` : "k0 / 8u";
      const width = `p.${name.toLowerCase()}_stride`;
      return `r${name}${i} = ${name}[p.${name.toLowerCase()}_start / 8u + (${row}) * (${width} / 8u) + ${col} + ${e} % ${across}u];`;
    });
  const put = (name: string) =>
    repeat(MOVED, (i) => {
      const e = `(lane + ${i * THREADS}u)`;
      return `s${name}[(${e} / ${across}u) * ${stride / 8}u + ${e} % ${across}u] = r${name}${i};`;
    });
  const [left, right] = isTransposed ? ["col_major", "row_major"] : ["row_major", "col_major"];
  const load = (type: string, order: string, array: string, row: string, k: number) =>
    `subgroupMatrixLoad<${type}, ${order}>(&${array}, ${at(row, `${k}u`)}, ${stride / unit}u)`;
  const multiply = repeat(MATRIX_DEPTH / 16, (step) => {
    const k = step * 16;
    return `{
      ${
      repeat(FRAGMENTS, (i) => `let a${i} = ${load("Left", left, "sA", `rows + ${i * 16}u`, k)};`)
    }
      ${
      repeat(FRAGMENTS, (j) =>
        `{ let b = ${load("Right", right, "sB", `cols + ${j * 16}u`, k)};
        ${
          repeat(
            FRAGMENTS,
            (i) => `c${i}_${j} = subgroupMatrixMultiplyAccumulate(a${i}, b, c${i}_${j});`,
          )
        } }`)
    }
    }`;
  });
  const sums = repeat(FRAGMENTS, (i) => repeat(FRAGMENTS, (j) => `var c${i}_${j} = Sum();`));
  // A strip of 16 rows after another; each lane finishes eight times four adjacent entries.
  const finish = repeat(
    FRAGMENTS,
    (i) =>
      `${
        repeat(FRAGMENTS, (j) =>
          `subgroupMatrixStore<row_major>(&strips, (lane / 32u) * 1024u + ${
            j * 16
          }u, c${i}_${j}, 64u);`)
      }
    workgroupBarrier();
    for (var e = lane % 32u; e < 256u; e += 32u) {
      let start = (lane / 32u) * 1024u + e * 4u;
      let row = m0 + rows + ${i * 16}u + e / 16u;
      let col = n0 + cols + (e % 16u) * 4u;
      if (row < p.m && col < p.n) {
        let sum = vec4f(strips[start], strips[start + 1u], strips[start + 2u], strips[start + 3u]);
        put(row, col, sum * a_scale[row] *
          vec4f(b_scale[col], b_scale[col + 1u], b_scale[col + 2u], b_scale[col + 3u]));
      }
    }
    workgroupBarrier();`,
  );
  return `${prelude({ storages: { ...ALL_F32, ...storages }, aligned: true, halves: true })}
@group(0) @binding(6) var<storage, read> a_scale: array<f32>; // [m], powers of two
@group(0) @binding(7) var<storage, read> b_scale: array<f32>; // [n], padded to whole tiles

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
var<workgroup> sA: array<vec4u, ${tileRows * stride / 8}>;
var<workgroup> sB: array<vec4u, ${tileRows * stride / 8}>;
var<workgroup> strips: array<f32, 4096>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let across = (p.n + ${MATRIX_TILE - 1}u) / ${MATRIX_TILE}u;
  let down = (p.m + ${MATRIX_TILE - 1}u) / ${MATRIX_TILE}u;
  let tile = group.x + group.y * ${65535}u;
  let first = tile / (${BAND}u * across) * ${BAND}u;
  if (first >= down) { return; }
  let band = min(down - first, ${BAND}u);
  let place = tile % (${BAND}u * across);
  let m0 = (first + place % band) * ${MATRIX_TILE}u;
  let n0 = place / band * ${MATRIX_TILE}u;
  if ((p.flags & 8u) != 0u && n0 + ${MATRIX_TILE}u <= m0) { return; }
  let rows = (lane / 64u) * ${QUARTER}u;
  let cols = (lane / 32u) % 2u * ${QUARTER}u;
  ${sums}
  ${repeat(MOVED, (i) => `var rA${i}: vec4u; var rB${i}: vec4u;`)}
  var k0 = 0u;
  ${fetch("A", "m0")}
  ${fetch("B", "n0")}
  ${put("A")}
  ${put("B")}
  workgroupBarrier();
  for (; k0 < p.k;) {
    k0 += ${MATRIX_DEPTH}u;
    let more = k0 < p.k;
    if (more) {
      ${fetch("A", "m0")}
      ${fetch("B", "n0")}
    }
    ${multiply}
    workgroupBarrier();
    if (more) {
      ${put("A")}
      ${put("B")}
    }
    workgroupBarrier();
  }
  ${finish}
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
