import assert from "node:assert/strict";
import { linearGroups, readArchitecture } from "../../models/architectures/architecture.ts";
import { liveRegisters, restartsOf, totalWidth } from "../../models/layer_plan.ts";
import { SHAPES } from "../../models/synthetic.ts";

/** Live registers and restarts of a model whose linear layers give so many features. */
function planOf(name: string, inner: number) {
  const architecture = readArchitecture(SHAPES[name], "config.json");
  const { hiddenSize, heads, keyValueHeads, headDim } = architecture;
  const rowsOf = (module: string) => {
    if (/q_proj/.test(module)) return heads * headDim;
    if (/[kv]_proj/.test(module)) return keyValueHeads * headDim;
    return /gate|up|fc1/.test(module) ? inner : hiddenSize;
  };
  const live = liveRegisters(architecture, rowsOf);
  const groups = linearGroups(architecture);
  const restarts = groups.map(({ step }) => restartsOf(architecture.steps, live, step));
  return { live, groups, restarts, steps: architecture.steps };
}

Deno.test("the live registers of LLaMA are what later operations read", () => {
  const { live, steps } = planOf("llama-3-8b", 14336);
  assert.equal(live.length, steps.length + 1);
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
  assert.deepEqual(planOf("llama-7b", 11008).restarts, [
    { near: 0, lean: 0 }, // q, k, v from the layer's input
    { near: 4, lean: 0 }, // o: its input, or all of the attention
    { near: 5, lean: 5 }, // gate, up from the stream
    { near: 8, lean: 5 }, // down: its input, or gate and up again
  ]);
  const opt = planOf("opt-6.7b", 16384);
  assert.deepEqual(opt.steps.map(({ op }) => op), [
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
  const { steps, live } = planOf("llama-7b", 11008);
  const narrow = live.map((registers) =>
    new Map([...registers].map(([name, width]) => [name, "qkv".includes(name) ? 1 : width]))
  );
  narrow[0].set("hidden", 1e6);
  assert.deepEqual(restartsOf(steps, narrow, 4), { near: 4, lean: 3 });
});
