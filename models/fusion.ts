import type { Tensor } from "../gpu/tensor.ts";
import { kindOf } from "./ops/mod.ts";
import type { OpContext } from "./ops/op.ts";
import { type Outputs, type Registers, updateRegisters } from "./registers.ts";

/**
 * Runs all operations of a layer on the registers of one token, and appends its keys and values to the
 * KV cache. The linear layers of a group, and the RMS norm or activation function before them, are
 * fused into one dispatch.
 */
export async function runToken(context: OpContext, registers: Registers): Promise<void> {
	const { gpu, weights } = context;
	const { ops, live } = weights.plan;
	const products: Tensor[] = []; // of groups; the registers are views of them
	for (let at = 0; at < ops.length; at++) {
		const source = sourceAt(at, context);
		const op = source ? ops[++at] : ops[at];
		const known = weights.groups.get(op);
		let outputs: Outputs;
		if (known) {
			const { from, residual, linears } = kindOf(op).group!(op);
			const { x, ...made } = source ?? { x: registers.get(from)! };
			const addends = {
				bias: known.biases,
				residual: residual ? registers.get(residual) : undefined,
			};
			const y = await known.group.multiplyVector(x, { ...made, ...addends });
			products.push(y);
			outputs = linears.map(({ to, rows }, i) => [to, y.view(known.group.starts[i], [1, rows])]);
		} else outputs = await kindOf(op).run(op, context);
		updateRegisters(registers, outputs, live[at + 1]);
	}
	// The layer's output is a view of its product from the first row on; the register takes it over.
	const hidden = registers.get("hidden")!;
	const owner = products.find((product) => product.sharesMemoryWith(hidden));
	if (owner) registers.set("hidden", owner);
	gpu.free(...products.filter((product) => product !== owner));
}

/**
 * The fused input of a group, if operation `at` computes that input, no other operation reads it, and
 * the group's kernel supports the operation as its prologue.
 */
function sourceAt(at: number, context: OpContext) {
	const { plan: { ops, live }, groups } = context.weights;
	const [op, next] = [ops[at], ops[at + 1]];
	if (!next || !groups.has(next)) return undefined;
	const { from } = kindOf(next).group!(next);
	if (!Object.hasOwn(kindOf(op).writes(op), from) || live[at + 2].has(from)) return undefined;
	return kindOf(op).source?.(op, context);
}
