import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readTokenIds } from "../../data/windows.ts";
import { Gpu } from "../../gpu/device.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { SHAPES, writeSyntheticModel } from "../../models/synthetic.ts";
import { LoadedModel } from "../models/loaded_model.ts";
import { randomWindows } from "../models/random_model.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const gpu = await Gpu.open();

/** The shapes of a known model, made narrow. */
function narrow(name: string): Record<string, unknown> {
  const { num_key_value_heads: grouped, ...config } = SHAPES[name];
  return {
    ...config,
    vocab_size: 97,
    hidden_size: 64,
    intermediate_size: 96,
    ffn_dim: 96,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    head_dim: 32,
    ...(grouped ? { num_key_value_heads: 1 } : {}),
    max_position_embeddings: 64,
  };
}

for (const name of Object.keys(SHAPES)) {
  Deno.test(`a synthetic model in the shapes of ${name} is a whole one, and near 1`, async () => {
    using folder = new TemporaryFolder();
    writeSyntheticModel(folder.path, narrow(name), 3);
    using loaded = await LoadedModel.open(gpu, folder.path);
    const logits = await loaded.logits(randomWindows(2, 33, 97, 1));
    const meanSquare = logits.reduce((sum, logit) => sum + logit * logit, 0) / logits.length;
    assert.ok(meanSquare > 0.3 && meanSquare < 3, `logits of ${meanSquare}`);
    assert.equal(loaded.model.checkpoint.files.length, 4);
  });
}

Deno.test("synth writes what a pipeline runs on, the same for the same seed", async () => {
  using folder = new TemporaryFolder();
  const model = join(folder.path, "model");
  const args = ["--like", "opt-125m", "--layers", "1", "--samples", "2", "--sequence-length", "16"];
  const { code, stderr, stdout } = await startTask("synth", [model, ...args]);
  assert.deepEqual([code, stderr], [0, ""]);
  const tokens = join(model, "token_ids.safetensors");
  assert.equal(
    stdout,
    `${model}: random weights in the shapes of opt-125m; calibrate on ${tokens}\n`,
  );
  assert.deepEqual(readTokenIds(tokens).map(({ length }) => length), [16, 16]);
  using files = ModelFiles.open(model);
  const { hiddenSize, layers } = files.architecture;
  assert.deepEqual([hiddenSize, layers], [768, 1]);
  const shard = "model-00002-of-00002.safetensors";
  const first = readFileSync(join(model, shard));
  await startTask("synth", [model, ...args]);
  assert.deepEqual(readFileSync(join(model, shard)), first);

  const wrong = await startTask("synth", [model, "--like", "gpt-5"]);
  assert.equal(wrong.code, 2);
  assert.match(
    wrong.stderr,
    /^deno task synth: --like must be one of opt-125m, .*, found "gpt-5"\n$/,
  );
});
