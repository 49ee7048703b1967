import type { Gpu } from "../../device.ts";
import { MAX_GROUPS, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import source from "./expert_rows.wgsl" with { type: "text" };

/** The pairs of an expert in the order of a batch's pairs. */
export interface ExpertPairs {
  expert: number;
  /** The order of {@link SortedPairs}, u32 `[pairs]`. */
  order: Tensor;
  /** The place of the expert's first pair in it. */
  first: number;
  /** Its pairs. */
  count: number;
  /** Experts per token. */
  k: number;
}

/**
 * The input rows of an expert's pairs.
 *
 * @param x f32 `[tokens, cols]`, or `[tokens, k · cols]` if each pair has a row of its own.
 * @param other The same register and the routing of another model, whose rows are wanted instead: those of
 *   the same tokens and the same expert, or those of `x` where that model sends a token elsewhere.
 * @returns f32 `[count, cols]`, owned by the caller.
 */
export async function expertRows(
  gpu: Gpu,
  x: Tensor,
  cols: number,
  { expert, order, first, count, k }: ExpertPairs,
  other?: { x: Tensor; routing: Tensor },
): Promise<Tensor> {
  const each = x.shape[1] !== cols;
  const kernel = await gpu.kernel({
    name: "expert_rows",
    source,
    constants: { EACH: Number(each), OTHER: Number(other !== undefined) },
  });
  const out = gpu.empty([count, cols]);
  const groups = Math.ceil(count / 4);
  if (groups > MAX_GROUPS) throw new RangeError(`A batch has ${count} rows of an expert`);
  kernel.dispatch({
    params: uniform([count, cols, k, first, expert]),
    tensors: [other?.x ?? x, order, other?.routing ?? x, x, out],
    workgroups: [groups, Math.ceil(cols / 64)],
  });
  return out;
}
