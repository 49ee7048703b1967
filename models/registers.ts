import type { Tensor } from "../gpu/tensor.ts";
import type { LiveRegisters } from "./layer_plan.ts";

/** The activations by register, f32 `[tokens, width]`. */
export type Registers = Map<string, Tensor>;

/** The outputs of an operation by register, owned by the receiver. */
export type Outputs = [register: string, tensor: Tensor][];

/**
 * Assigns outputs to their registers, and frees registers that no later operation reads.
 *
 * @param live The registers that later operations read.
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
