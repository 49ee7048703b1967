import type { Tensor } from "../gpu/tensor.ts";
import type { LiveRegisters } from "./layer_plan.ts";

/** Activations by register, f32 `[tokens, width]`. */
export type Registers = Map<string, Tensor>;

/** What the outputs of an operation are, by register; the receiver owns them. */
export type Outputs = [register: string, tensor: Tensor][];

/**
 * Puts outputs in the place of what registers held, and frees what no operation reads any more.
 *
 * @param live The registers that are still read.
 */
export function updateRegisters(
  registers: Registers,
  outputs: Outputs,
  live: LiveRegisters,
): void {
  for (const [register, tensor] of outputs) {
    registers.get(register)?.[Symbol.dispose]();
    registers.set(register, tensor);
  }
  for (const [register, tensor] of registers) {
    if (live.has(register)) continue;
    registers.delete(register);
    tensor[Symbol.dispose]();
  }
}
