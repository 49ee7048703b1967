import type { Architecture, Step } from "./architectures/architecture.ts";

/** Whether an operation from `start` on reads a register before it is written anew. */
export function isRead(steps: readonly Step[], register: string, start: number): boolean {
  for (const step of steps.slice(start)) {
    if (inputs(step).includes(register)) return true;
    if (outputs(step).includes(register)) return false;
  }
  return register === "hidden"; // what the next layer reads
}

function inputs(step: Step): string[] {
  switch (step.op) {
    case "norm":
      return [step.from];
    case "linear":
      return step.residual ? [step.from, step.residual] : [step.from];
    case "rope":
      return step.registers.map(({ register }) => register);
    case "attention":
      return [step.query, step.key, step.value];
    case "activation":
      return step.up ? [step.from, step.up] : [step.from];
  }
}

function outputs(step: Step): string[] {
  switch (step.op) {
    case "linear":
      return step.linears.map(({ to }) => to);
    case "rope":
      return [];
    default:
      return [step.to];
  }
}

/** The registers that must be there before an operation, with their widths. */
export type LiveRegisters = Map<string, number>;

/**
 * The live registers before each operation of a decoder layer; the last entry is what the layer
 * gives.
 *
 * @param rowsOf Output features of a linear layer.
 */
export function liveRegisters(
  { steps, hiddenSize, heads, headDim }: Architecture,
  rowsOf: (module: string) => number,
): LiveRegisters[] {
  const widths: LiveRegisters = new Map([["hidden", hiddenSize]]);
  const before = (step: number): LiveRegisters =>
    new Map([...widths].filter(([register]) => isRead(steps, register, step)));
  const all = [before(0)];
  for (const [i, step] of steps.entries()) {
    if (step.op === "linear") {
      for (const { module, to } of step.linears) widths.set(to, rowsOf(module));
    } else if (step.op === "attention") widths.set(step.to, heads * headDim);
    else if (step.op !== "rope") widths.set(step.to, widths.get(step.from)!);
    all.push(before(i + 1));
  }
  return all;
}

/** Elements of the registers together, for each token. */
export function totalWidth(registers: LiveRegisters): number {
  return registers.values().reduce((sum, width) => sum + width, 0);
}

/** Where the way to a group of linear layers can be taken up again. */
export interface Restarts {
  /** Only norms and activation functions have to be computed anew. */
  near: number;
  /** The least has to be kept; linear layers and attention may have to be computed anew. */
  lean: number;
}

/**
 * The operations before which the registers may be kept, so that `step` can be reached from there
 * again: those with the fewest elements.
 *
 * @param live What {@link liveRegisters} gave.
 */
export function restartsOf(
  steps: readonly Step[],
  live: readonly LiveRegisters[],
  step: number,
): Restarts {
  let near = step;
  let lean = step;
  let isNear = true;
  for (let start = step - 1; start >= 0; start--) {
    const { op } = steps[start];
    isNear &&= op === "norm" || op === "activation";
    if (!keepsRegisters(steps, live[start], start, step)) continue;
    const width = totalWidth(live[start]);
    if (width < totalWidth(live[lean])) lean = start;
    if (isNear && width < totalWidth(live[near])) near = start;
  }
  return { near, lean };
}

/** Whether no operation on the way writes into a register that is to be kept: rotary positions do. */
function keepsRegisters(
  steps: readonly Step[],
  kept: LiveRegisters,
  from: number,
  to: number,
): boolean {
  return !steps.slice(from, to).some((step) =>
    step.op === "rope" && step.registers.some(({ register }) => kept.has(register))
  );
}
