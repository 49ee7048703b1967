import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROJECT } from "../checkout.ts";
import { runFile, type StageItem } from "../micro_model.ts";

Deno.test("a trained model of one bit is better with propagate-error and refit-norm", async () => {
  const folder = mkdtempSync(join(tmpdir(), "billm-test-"));
  const text = (name: string) => join(PROJECT, "examples/text", name);
  const lossOf = async (name: string, ...stages: StageItem[]) => {
    const file = join(folder, `${name}.yaml`);
    const calibration = { "samples": 16, "sequence-length": 128, "batch-tokens": 1024 };
    const perplexity = { "dataset": text("evaluation.txt"), "sequence-length": 128, "windows": 4 };
    const pipeline = {
      name,
      model: join(PROJECT, "examples/models/tiny-llama"),
      output: join(folder, name),
      stages: [
        "download",
        { calibrate: { dataset: text("calibration.txt"), ...calibration } },
        "hessian",
        ...stages,
        "pack",
        { evaluate: { perplexity: [perplexity], cache: false } },
      ],
    };
    writeFileSync(file, JSON.stringify(pipeline));
    return (await runFile(file)).record.evaluation!.packed![0].loss;
  };
  try {
    const gptq = { gptq: { bits: 1 } };
    const plain = await lossOf("plain", gptq);
    const corrected = await lossOf("corrected", "propagate-error", gptq, "refit-norm");
    assert.ok(corrected < plain - 0.3, `${corrected} nats with corrections, ${plain} without`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
