import { repeat } from "../../gpu/source_text.ts";
import { TILE } from "./trellis.ts";

/**
 * Generates the kernel of {@link tileErrors}: E · U_gg = W - Z · spread for the 16 columns g of a tile,
 * solved for E by forward substitution, since U_gg is upper triangular:
 *
 *     e_j = (d_j - Σ_{i<j} e_i U_ij) / U_jj
 *
 * A thread solves one row; U_gg is in workgroup memory.
 */
export function tileErrorKernel(): string {
	const all = (line: (j: number) => string) => repeat(TILE, line, "\n  ");
	return `
struct Params { rows: u32, cols: u32, first_col: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;      // [rows, cols]
@group(0) @binding(2) var<storage, read> values: array<f32>;      // [rows, cols]
@group(0) @binding(3) var<storage, read> spread: array<f32>;      // [rows]
@group(0) @binding(4) var<storage, read> factor: array<f32>;      // U: [cols, cols]
@group(0) @binding(5) var<storage, read_write> error: array<f32>; // [rows, ${TILE}]

var<workgroup> u: array<array<f32, ${TILE}>, ${TILE}>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  for (var i = thread; i < ${TILE * TILE}u; i += 64u) {
    u[i / ${TILE}u][i % ${TILE}u] = factor[(p.first_col + i / ${TILE}u) * p.cols + p.first_col + i % ${TILE}u];
  }
  workgroupBarrier();
  let row = workgroup.x * 64u + thread;
  if (row >= p.rows) { return; }
  let at = row * p.cols + p.first_col;
  let s = spread[row];
  ${
		all((j) => {
			const known = repeat(j, (i) => ` - e${i} * u[${i}][${j}]`, "");
			return `let e${j} = (weight[at + ${j}u] - values[at + ${j}u] * s${known}) / u[${j}][${j}];`;
		})
	}
  ${all((j) => `error[row * ${TILE}u + ${j}u] = e${j};`)}
}
`;
}
