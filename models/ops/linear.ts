import type { Outputs } from "../registers.ts";
import type { LinearGroup, OpKind } from "./op.ts";

/** Linear layers that share an input: x · weightᵀ (+ bias) (+ residual). */
export interface LinearOp extends LinearGroup {
  op: "linear";
}

export const linear: OpKind<LinearOp> = {
  isCheap: false,

  reads({ from, cols, residual, linears }) {
    return { [from]: cols, ...(residual && { [residual]: linears[0].rows }) };
  },

  writes: ({ linears }) => Object.fromEntries(linears.map(({ to, rows }) => [to, rows])),

  group: (op) => op,

  async run({ from, linears, residual }, { weights, registers }) {
    const x = registers.get(from)!;
    const outputs: Outputs = [];
    for (const { module, to } of linears) {
      const { weight, bias } = weights.linear(module);
      const addends = { bias, residual: residual ? registers.get(residual) : undefined };
      outputs.push([to, await weight.multiply(x, addends)]);
    }
    return outputs;
  },
};
