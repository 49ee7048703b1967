/**
 * What `web/web.ts` generates in Chromium, beside what Deno generates: `deno task test:browser`, with a
 * Chromium on the machine (Debian: apt-get install chromium).
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { generate, ResidentModel } from "../../models/generation/generation.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import type * as Web from "../../web/web.ts";
import { type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";
import { bundleWeb } from "../web/bundle.ts";
import { WebPage } from "./web_page.ts";

const PROMPT = [5, 6, 7, 300, 12];
const TOKENS = 24;

/** Runs in the page: what follows a prompt, alone and beside another text. */
async function generateInPage({ names, prompt, maxTokens, isHardware }: {
  names?: string[];
  prompt: number[];
  maxTokens: number;
  isHardware: boolean;
}) {
  const path = "/web.js"; // of the server, unknown to the compiler
  const web: typeof Web = await import(path);
  const gpu = await web.openGpu({ poison: true });
  if (isHardware) (gpu as { software: boolean }).software = false;
  const folder = names
    ? new web.MemoryFolder(
      new Map(
        await Promise.all(names.map(async (name) => {
          const response = await fetch(`/model/${name}`);
          return [name, new Uint8Array(await response.arrayBuffer())] as const;
        })),
      ),
    )
    : await web.fetchFolder("/model");
  const files = web.ModelFiles.open(folder);
  const model = await web.ResidentModel.load(gpu, files);
  let recordings = 0;
  const record = gpu.record.bind(gpu);
  gpu.record = (work) => {
    recordings++;
    return record(work);
  };
  const run = async () => {
    const ids: number[] = [];
    let text = "";
    for await (const token of web.generate(model, { prompt, maxTokens, stopIds: [] })) {
      ids.push(token.id);
      text += token.text;
    }
    return { ids, text };
  };
  const alone = await run();
  const together = await Promise.all([run(), run()]);
  const { subgroupSize, software } = gpu;
  model[Symbol.dispose]();
  await gpu[Symbol.asyncDispose]();
  return { alone, together, recordings, subgroupSize, software };
}

const MODELS: [name: string, MicroModelOptions, last?: StageItem[]][] = [
  ["llama", { layers: 2 }],
  ["opt", { family: "opt", layers: 2, hidden: 80, intermediate: 150 }],
  ["llama on grids", { layers: 2 }, [{ rtn: { bits: 4 } }, "pack"]],
];

for (const [name, options, stages] of MODELS) {
  Deno.test(`a packed ${name} gives in Chromium the tokens that it gives in Deno`, async () => {
    using place = new Workplace(options);
    await place.run(stages && { stages: [place.method[0], ...stages] });
    const path = place.path("out", "model");
    await using gpu = await openGpu();
    using files = ModelFiles.open(denoFolder(path));
    using model = await ResidentModel.load(gpu, files);
    const expected = { ids: [] as number[], text: "" };
    for await (const token of generate(model, { prompt: PROMPT, maxTokens: TOKENS, stopIds: [] })) {
      expected.ids.push(token.id);
      expected.text += token.text;
    }
    assert.equal(expected.ids.length, TOKENS);

    const names = readdirSync(path);
    await using page = await WebPage.open({
      "/web.js": await bundleWeb(),
      ...Object.fromEntries(
        names.map((name) => [`/model/${name}`, new Uint8Array(readFileSync(join(path, name)))]),
      ),
    });
    for (const isHardware of [false, true]) {
      const found = await page.call(generateInPage, {
        ...(isHardware ? {} : { names }),
        ...{ prompt: PROMPT, maxTokens: TOKENS, isHardware },
      });
      assert.deepEqual(found.alone, expected);
      assert.deepEqual(found.together, [expected, expected]);
      assert.equal(found.subgroupSize, 4);
      assert(found.recordings >= 3 && found.recordings <= 7, `${found.recordings} recordings`);
    }
    // What the page fetches counts as well; some files of a model are not there.
    const complaints = page.browser.complaints()
      .filter((text) => !/127\.0\.0\.1:\d+\/(web\.js|model\/)/.test(text));
    assert.deepEqual(complaints, []);
  });
}
