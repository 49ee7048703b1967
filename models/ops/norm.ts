import type { Gpu } from "../../gpu/device.ts";
import { norm as normalize } from "../../gpu/kernels/reduce/norm.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { OpKind } from "./op.ts";

/** An RMS norm (with a weight) or a layer norm (with a weight and a bias). */
export interface NormOp {
  op: "norm";
  kind: "rms" | "layer";
  module: string;
  from: string;
  to: string;
  /** Elements that are normalized together. */
  width: number;
  /** Heads of the register, each normalized separately; 1 if absent. */
  heads?: number;
  epsilon: number;
}

export const norm: OpKind<NormOp> = {
  isCheap: true,
  reads: ({ from, width, heads = 1 }) => ({ [from]: heads * width }),
  writes: ({ to, width, heads = 1 }) => ({ [to]: heads * width }),

  tensors({ kind, module, width }) {
    const names = kind === "rms" ? ["weight"] : ["weight", "bias"];
    return names.map((name) => ({ name: `${module}.${name}`, shape: [width] }));
  },

  source({ kind, module, from, heads, epsilon }, { weights, registers }) {
    if (kind !== "rms" || heads) return undefined;
    const weight = weights.tensor(`${module}.weight`);
    return { x: registers.get(from)!, source: { op: "rms", weight, epsilon } };
  },

  async run(op, { gpu, weights, registers }) {
    const x = registers.get(op.from)!;
    return [[op.to, await applyNorm(gpu, op, x, (name) => weights.tensor(name))]];
  },
};

/**
 * The norm of each row of x, or of each head of a row.
 *
 * @param tensor Returns the weight or bias of a name.
 * @returns f32, the shape of `x`, owned by the caller.
 */
export function applyNorm(
  gpu: Gpu,
  { kind, module, epsilon }: NormOp,
  x: Tensor,
  tensor: (name: string) => Tensor,
): Promise<Tensor> {
  const bias = kind === "layer" ? tensor(`${module}.bias`) : undefined;
  return normalize(gpu, x, tensor(`${module}.weight`), bias, epsilon);
}
