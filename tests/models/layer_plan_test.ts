import assert from "node:assert/strict";
import { readArchitecture } from "~/models/architectures/mod.ts";
import { LayerPlan, restarts, totalWidth } from "~/models/layer_plan.ts";
import type { Op } from "~/models/ops/mod.ts";
import { SHAPES } from "~/models/synthetic.ts";

/** The plan of a model's layers, and where the way to each group can be taken up again. */
function planOf(name: string) {
	const architecture = readArchitecture(SHAPES[name], "config.json");
	const plan = new LayerPlan(architecture, 0);
	return { plan, restarts: plan.groups.map(({ at }) => plan.restartsOf(at)) };
}

Deno.test("the live registers of LLaMA are what later operations read", () => {
	const { plan: { live, ops } } = planOf("llama-3-8b");
	assert.equal(live.length, ops.length + 1);
	assert.deepEqual(live.map((registers) => Object.fromEntries(registers)), [
		{ hidden: 4096 }, // norm
		{ hidden: 4096, x: 4096 }, // q, k, v
		{ hidden: 4096, q: 4096, k: 1024, v: 1024 }, // rotary positions
		{ hidden: 4096, q: 4096, k: 1024, v: 1024 }, // attention
		{ hidden: 4096, x: 4096 }, // o
		{ hidden: 4096 }, // norm
		{ hidden: 4096, x: 4096 }, // gate, up
		{ hidden: 4096, gate: 14336, up: 14336 }, // activation
		{ hidden: 4096, x: 14336 }, // down
		{ hidden: 4096 },
	]);
	assert.equal(totalWidth(live[2]), 4096 + 4096 + 2048);
});

Deno.test("a group is near where nothing but norms has to be computed anew, lean where the least is kept", () => {
	assert.deepEqual(planOf("llama-7b").restarts, [
		{ near: 0, lean: 0 }, // q, k, v from the layer's input
		{ near: 4, lean: 0 }, // o: its input, or all of the attention
		{ near: 5, lean: 5 }, // gate, up from the stream
		{ near: 8, lean: 5 }, // down: its input, or gate and up again
	]);
	const opt = planOf("opt-6.7b");
	assert.deepEqual(opt.plan.ops.map(({ op }) => op), [
		"norm",
		"linear",
		"attention",
		"linear",
		"norm",
		"linear",
		"activation",
		"linear",
	]);
	assert.deepEqual(opt.restarts, [
		{ near: 0, lean: 0 },
		{ near: 3, lean: 0 },
		{ near: 4, lean: 4 },
		{ near: 7, lean: 4 }, // after the activation: it need not be computed again
	]);
});

Deno.test("registers that rotary positions are written into are not kept before them", () => {
	// Rows as narrow as can be: q, k and v together would take less than the stream and x.
	const { plan: { ops, live } } = planOf("llama-7b");
	const narrow: Map<string, number>[] = live.map((registers) =>
		new Map([...registers].map(([name, width]) => [name, "qkv".includes(name) ? 1 : width]))
	);
	narrow[0].set("hidden", 1e6);
	assert.deepEqual(restarts(ops, narrow, 4), { near: 4, lean: 3 });
});

Deno.test("operations that do not fit together are found", () => {
	const norm = { op: "norm", kind: "rms", module: "n", width: 8, epsilon: 1e-6 } as const;
	const plan = (...ops: Op[]) => () => new LayerPlan({ steps: () => ops, hiddenSize: 8 }, 3);
	plan({ ...norm, from: "hidden", to: "hidden" })();
	assert.throws(
		plan({ ...norm, from: "hidden", to: "x" }, { ...norm, from: "x", to: "hidden", width: 4 }),
		new Error('Operation 1 of layer 3 (norm) reads "x" as 4 wide, but it is 8 wide'),
	);
	assert.throws(
		plan({ ...norm, from: "y", to: "hidden" }),
		new Error('Operation 0 of layer 3 (norm) reads "y" as 8 wide, but it is 0 wide'),
	);
});
