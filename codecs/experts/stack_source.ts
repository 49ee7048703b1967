/**
 * What kernels have in common that multiply vectors with a stack of linear layers: those of experts, one
 * above the other, `STRIDE` rows apart. Vector `token`, from a dimension of the grid, passes through the
 * linear layer of its expert, so that the host need not know it.
 */

/** Further bindings, read-only. */
export const STACK_BINDINGS = [
	{ name: "routing", type: "f32", comment: "[tokens, 2 K]: experts, then their weights" },
	{ name: "expert_places", type: "u32", comment: "[experts], the linear layer of each" },
] as const;

/** Further pipeline constants; `ROWS` is that of one linear layer. */
export const STACK_CONSTANTS = `override STRIDE: u32;  // rows from one linear layer to the next
override K: u32;       // products of a token, one for each of its experts
override PER_ROW: u32; // products that share a row of x`;

/**
 * Statements that give the rows of a workgroup, `first_row` and `end_row`, the linear layer, `part`, and the
 * first entry of x, `x_start`, for workgroup `group` of vector `token`.
 *
 * @param run Rows of a workgroup.
 * @param startsX What declares `x_start`.
 */
export function stackedRows(run: number, startsX = "let x_start"): string {
	return `let expert = u32(routing[token / K * 2u * K + token % K]);
  let part = expert_places[expert];
  if (part == 0xffffffffu) { return; } // the whole workgroup
  ${startsX} = token / PER_ROW * COLS;
  let stack_row = part * STRIDE;
  let first_row = stack_row + group * ${run}u;
  let end_row = min(first_row + ${run}u, stack_row + ROWS);`;
}

/** Statements that store `y`, the product of row `row`. */
export const STACK_STORE = `let own_row = row - stack_row;
    if (HAS_BIAS) { y += bias[expert * ROWS + own_row]; }
    Y[token * ROWS + own_row] = y;`;
