import assert from "node:assert/strict";
import { argmax } from "../../../gpu/kernels/reduce/argmax.ts";
import { ResidentModel } from "../../../models/generation/generation.ts";
import { KeyValueCache } from "../../../models/generation/kv_cache.ts";
import { ModelFiles } from "../../../models/model_files.ts";
import { denoFolder } from "../../../storage/deno_folder.ts";
import { assertClose } from "../../assert_close.ts";
import { openAsHardware, openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { type MicroModelOptions, Workplace } from "../../micro_model.ts";
import { LoadedModel } from "../loaded_model.ts";

const software = await openGpu();
const hardware = await openAsHardware();

const MODELS: Record<string, MicroModelOptions> = {
  "llama": { intermediate: 200, config: { hidden_act: "gelu" } },
  "mistral with a sliding window": { config: { model_type: "mistral", sliding_window: 5 } },
  "opt": { family: "opt", hidden: 80, intermediate: 150 },
  "opt with norms last": { family: "opt", config: { do_layer_norm_before: false } },
};

for (const [name, options] of Object.entries(MODELS)) {
  Deno.test(`on a GPU, a packed ${name} gives the logits of its matrices, token by token`, async () => {
    using place = new Workplace({ layers: 2, ...options });
    const blocks = place.method.slice(0, 6); // up to the zones; compensate has blocks of 32 there
    await place.run({ stages: [...blocks, "compensate", "pack"] });
    const folder = place.path("out", "model");
    const text = Int32Array.from({ length: 12 }, (_, i) => (i * 389 + 7) % 4096);
    const prompt = 2; // as for three and four, but compiled in a third of the time

    const expected = await (async () => {
      using loaded = await LoadedModel.open(software, folder);
      return await loaded.logits([text]);
    })();
    const before = hardware.memory.current;
    {
      using files = ModelFiles.open(denoFolder(folder));
      using model = await ResidentModel.load(hardware, files);
      using cache = new KeyValueCache(hardware, files.architecture, text.length, "f32");
      const names = watchKernels(hardware);
      using id = hardware.empty([1], "u32");
      for (let done = 0; done < text.length;) {
        const count = done === 0 ? prompt : 1;
        const ids = text.subarray(done, done + count);
        using uploaded = hardware.upload(ids, [count], "u32");
        if (done > prompt) hardware.copy(uploaded, id);
        using logits = done > prompt
          ? await model.logitsAfter(id, cache)
          : (await model.logits(ids, cache))!;
        done += count;
        const row = expected.subarray((done - 1) * 4096, done * 4096);
        assertClose(await hardware.read(logits), row, { abs: 1e-3, what: `after ${done} tokens` });
        using best = await argmax(hardware, logits);
        assert.equal((await hardware.read(best, "u32"))[0], row.indexOf(Math.max(...row)));
      }
      const products = [...names].filter((name) => name.startsWith("packed_vector"));
      assert(products.length >= 2, `a layer is ${products.join(", ")}`);
      assert(![...names].some((name) => name.startsWith("packed_matvec_") && name.includes("_1x")));
    }
    assert.equal(hardware.memory.current, before);
  });
}

Deno.test("on a GPU, a model with its linear layers on grids gives the logits of its matrices, token by token", async () => {
  using place = new Workplace({ layers: 2 });
  await place.run({ stages: [place.method[0], { rtn: { bits: 4 } }, "pack"] });
  const folder = place.path("out", "model");
  const text = Int32Array.from({ length: 6 }, (_, i) => (i * 389 + 7) % 4096);
  const expected = await (async () => {
    using loaded = await LoadedModel.open(software, folder);
    return await loaded.logits([text]);
  })();
  using files = ModelFiles.open(denoFolder(folder));
  using model = await ResidentModel.load(hardware, files);
  using cache = new KeyValueCache(hardware, files.architecture, text.length, "f32");
  for (let done = 0; done < text.length; done++) {
    using logits = (await model.logits(text.subarray(done, done + 1), cache))!;
    const row = expected.subarray(done * 4096, (done + 1) * 4096);
    assertClose(await hardware.read(logits), row, { abs: 1e-3, what: `after ${done + 1} tokens` });
  }
});
