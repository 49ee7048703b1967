import type { LevelKind } from "./levels.ts";
import { levelsSource, THETA_OF_ROW } from "./levels_source.ts";

/** Columns that a thread takes in registers before it updates the later ones of the block. */
const TOGETHER = 8;

/**
 * What a sweep over the columns of a block does with each weight, given a row x of values and a matrix M:
 *
 * - "feedback": takes the level q nearest to x_j and moves later values by the error e = (x_j - q) / M_jj,
 *   x_k -= e · M_jk. With x = w and M = U, the factor of H⁻¹, this is GPTQ (arXiv:2210.17323).
 * - "descent": takes the level q nearest to the old one + x_j / M_jj, and with the step e = q - old,
 *   x_k -= e · M_jk. With x = (w - q) H and M = H, this is coordinate descent on the loss (w - q) H (w - q)ᵀ.
 */
export type LevelSweep = "feedback" | "descent";

/**
 * The WGSL of a sweep. Columns are sequential, rows are independent; all LANES threads of a row compute
 * each step, and each updates its share of the later columns of the block, which are in workgroup memory.
 * The caller moves the columns beyond the block by a product with the steps.
 *
 * Reference: tests/reference/levels.ts.
 */
export function sweepLevelsKernel(kind: LevelKind, sweep: LevelSweep): string {
	const all = Array.from({ length: TOGETHER }, (_, i) => i);
	const isDescent = sweep === "descent";
	const lines = (line: (i: number) => string) => all.map(line).join("\n");
	const step = (i: number) => `
    if (col + ${i}u < p.cols) {
      let diagonal = entry(col + ${i}u, col + ${i}u);
      ${
		isDescent
			? `let old = level(levels, c${i});
      let chosen = nearest(levels, old + x${i} / diagonal);
      e${i} = chosen.level - old;`
			: `let chosen = nearest(levels, x${i});
      e${i} = (x${i} - chosen.level) / diagonal;`
	}
      c${i} = chosen.code;
${all.slice(i + 1).map((k) => `      x${k} -= e${i} * entry(col + ${i}u, col + ${k}u);`).join("\n")}
    }`;
	const sum = all.map((i) => `e${i} * entry(col + ${i}u, k)`).join(" + ");
	const update = `for (var k = col + ${TOGETHER}u + share; k < p.cols; k += LANES) {
      tile[tile_at + k] -= ${sum};
    }`;
	const isMoved = all.map((i) => `e${i} != 0.0`).join(" || ");
	return `${levelsSource(kind)}${THETA_OF_ROW}
override ROWS: u32 = 16;
override LANES: u32 = 8;    // threads of a row
override STRIDE: u32 = 136; // of the rows in workgroup memory, at least the columns + ${TOGETHER}
override TILE: u32 = ROWS * STRIDE;

struct Params { rows: u32, cols: u32, first: u32, layer_cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;      // [rows, layer_cols]
@group(0) @binding(2) var<storage, read> matrix: array<f32>;      // [layer_cols, layer_cols]
@group(0) @binding(3) var<storage, read> theta: array<f32>;       // [rows, PARAMETERS]
@group(0) @binding(4) var<storage, read_write> codes: array<u32>; // [rows, layer_cols]
@group(0) @binding(5) var<storage, read_write> steps: array<f32>; // [rows, cols]

var<workgroup> tile: array<f32, TILE>;

// Entries beyond the block have no effect.
fn entry(i: u32, j: u32) -> f32 {
  return matrix[(p.first + i) * p.layer_cols + p.first + min(j, p.cols - 1)];
}

@compute @workgroup_size(LANES * ROWS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let share = lane % LANES;
  let place = lane / LANES;
  let own_row = (group.y * groups.x + group.x) * ROWS + place;
  let writes = own_row < p.rows;
  let row = min(own_row, p.rows - 1);
  let tile_at = place * STRIDE;
  let row_at = row * p.layer_cols + p.first;
  for (var col = share; col < p.cols; col += LANES) { tile[tile_at + col] = values[row_at + col]; }
  let levels = levels_of(theta_of(row));

  for (var col = 0u; col < p.cols; col += ${TOGETHER}u) {
    workgroupBarrier(); // these columns are complete
${lines((i) => `    var x${i} = tile[tile_at + col + ${i}u];`)}
${lines((i) => `    var e${i} = 0.0;`)}
${
		lines((i) =>
			isDescent
				? `    var c${i} = codes[row_at + min(col + ${i}u, p.cols - 1)];`
				: `    var c${i} = 0u;`
		)
	}
${lines(step)}
    workgroupBarrier(); // all threads of the row have read these columns and their codes
    if (writes) {
${
		lines((i) =>
			`      if (share == ${i}u % LANES && col + ${i}u < p.cols) {
        codes[row_at + col + ${i}u] = c${i};
        steps[row * p.cols + col + ${i}u] = e${i};
      }`
		)
	}
    }
    ${isDescent ? `if (${isMoved}) {\n    ${update}\n    }` : update}
  }
}
`;
}
