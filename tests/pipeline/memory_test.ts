import assert from "node:assert/strict";
import { UserError } from "../../base/errors.ts";
import { bytesText } from "../../base/units.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { workingBytes } from "../../models/memory_plan.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { contents, Workplace } from "../micro_model.ts";

const SAMPLES = 12;
const TOKENS = SAMPLES * 32;

for (const family of ["llama", "opt"] as const) {
  for (
    const [order, activations] of [["module", "f32"], ["layer", "f32"], ["module", "f16"]] as const
  ) {
    const what = `${family}, order ${order}, ${activations}`;
    Deno.test(`any budget of GPU memory gives the same model: ${what}`, async () => {
      using place = new Workplace({ family, layers: 2 });
      using model = ModelFiles.open(denoFolder(place.model));
      const working = workingBytes(model, { batchTokens: 64, order });
      const stream = 4 * TOKENS * model.architecture.hiddenSize;
      const outcomes: Record<string, string>[] = [];
      // Everything; the stream and some inputs of linear layers; half of the stream; nothing.
      for (const kept of [Infinity, 1.5 * stream, 0.5 * stream, 0]) {
        const output = place.path(`out-${kept}`);
        const options = { order, activations, samples: SAMPLES, "batch-tokens": 64 };
        const stages = place.method.with(1, place.calibrateWith(options));
        if (order === "layer") stages.pop(); // what evaluate keeps in memory has no order
        const memory = kept < Infinity && { gpu: { memory: `${(working + kept) / 1e6}MB` } };
        const { record } = await place.run({ stages, output, ...memory });
        assert.equal(record.status, "done");
        outcomes.push(contents(place.path(`out-${kept}/model`)));
      }
      for (const outcome of outcomes.slice(1)) assert.deepEqual(outcome, outcomes[0]);
    });
  }
}

Deno.test("a search over rows stays within the memory that is planned for it", async () => {
  using place = new Workplace({ layers: 1, intermediate: 512 });
  using model = ModelFiles.open(denoFolder(place.model));
  const work = { batchTokens: 32, order: "module" } as const;
  const working = workingBytes(model, { ...work, search: true });
  assert.ok(working > workingBytes(model, work));
  const calibrate = place.calibrateWith({ "batch-tokens": 32 });
  const stages = [
    ...place.method.with(1, calibrate).slice(0, 7),
    { "row-search": { rounds: 1, moves: 0.1 } },
    "pack",
  ];
  const { record } = await place.run({ stages, gpu: { memory: `${working / 1e6}MB` } });
  const { peakGpuBytes } = record.layers![0];
  assert.ok(peakGpuBytes <= working, `${peakGpuBytes} of ${working} bytes`);
});

Deno.test("activations in f16 change the result a little", async () => {
  using place = new Workplace({ layers: 2 });
  const run = async (activations: string) => {
    const options = { samples: 24, activations };
    const stages = place.method.with(1, place.calibrateWith(options));
    const { record } = await place.run({ stages, output: place.path(activations) });
    return record.evaluation!.packed![0].loss;
  };
  const [full, half] = [await run("f32"), await run("f16")];
  assert.notEqual(half, full);
  assert.ok(Math.abs(half / full - 1) < 0.02, `${half} and ${full}`);
});

Deno.test("too little memory for a layer is an error that says what would do", async () => {
  using place = new Workplace({ layers: 1 });
  using model = ModelFiles.open(denoFolder(place.model));
  const working = workingBytes(model, { batchTokens: 128, order: "module" });
  await assert.rejects(
    () => place.run({ gpu: { memory: "0.1MB" } }),
    new UserError(
      `100.0 kB of GPU memory is too little for "${place.model}": a decoder layer takes ` +
        `${bytesText(working)}; use a smaller batch-tokens, or give more memory`,
    ),
  );
});

Deno.test("the memory that there is bounds what is asked for", async () => {
  await using gpu = await openGpu({ memory: 1000 });
  assert.deepEqual([await gpu.memoryFor(10), await gpu.memoryFor(1e12)], [10, 1000]);
  await using free = await openGpu();
  assert.equal(await free.memoryFor(1000), 1000);
  const found = await free.memoryFor(1e15);
  assert.ok(found > 1e8 && found < 1e13, `${found} bytes`);
  assert.equal(await free.memoryFor(2e15), found, "it is a budget from then on");
});
