// Quantizes one decoder layer of random weights and says what each stage takes.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { SHAPES, writeSyntheticModel, writeSyntheticTokens } from "../models/synthetic.ts";
import { loadPipeline } from "../pipeline/config.ts";
import { runPipeline } from "../pipeline/run.ts";
import { bytesText } from "../pipeline/units.ts";
import { STAGES } from "../stages/mod.ts";
import { count, runTask, usageErrors } from "./task.ts";

const HELP = `Usage: deno task bench:layer [--like NAME] [options]

Quantizes one decoder layer of random weights, twice, and prints the seconds of each stage the second
time, when all kernels are compiled. NAME is one of ${Object.keys(SHAPES).join(", ")}.

Options
  --like NAME           llama-7b if left out
  --samples N           Calibration windows (128)
  --sequence-length N   Tokens of a window (2048)
  --mode MODE           default or reference
  --help                Print this
`;

await runTask(async (signal) => {
  const usageError = usageErrors("bench:layer");
  const values = readArguments();
  if (values.help) {
    console.log(HELP);
    return;
  }
  const { like = "llama-7b", mode = "default" } = values;
  if (!Object.hasOwn(SHAPES, like)) {
    throw usageError(`--like must be one of ${Object.keys(SHAPES).join(", ")}, found "${like}"`);
  }
  const samples = count(usageError, "--samples", values.samples, 128);
  const length = count(usageError, "--sequence-length", values["sequence-length"], 2048);
  const folder = mkdtempSync(join(tmpdir(), "billm-bench-"));
  try {
    const { num_hidden_layers: layers, vocab_size: vocabulary } = SHAPES[like] as Record<
      string,
      number
    >;
    const model = join(folder, "model");
    const dataset = join(folder, "token_ids.safetensors");
    writeSyntheticModel(model, { ...SHAPES[like], num_hidden_layers: 1 }, 0);
    writeSyntheticTokens(dataset, { samples, length, vocabulary, seed: 0 });
    const calibrate = { calibrate: { dataset, samples, "sequence-length": length } };
    const stages = [
      "download",
      calibrate,
      "hessian",
      "salient-select",
      "residual-binarize",
      "split-search",
      "compensate",
      "pack",
    ];
    const file = join(folder, "pipeline.yaml");
    const output = join(folder, "out");
    writeFileSync(file, JSON.stringify({ name: "layer", model, output, mode, stages }));
    const config = await loadPipeline(file, { stages: STAGES });
    await runPipeline(config, { signal });
    const { adapter, layers: [layer], secondsByStage, peakGpuBytes } = await runPipeline(config, {
      signal,
      overwrite: true,
    }) as Required<Awaited<ReturnType<typeof runPipeline>>>;
    console.log(
      `${adapter}, Deno ${Deno.version.deno}: a layer of ${like}, ${samples} windows of ${length} ` +
        `tokens, mode ${mode}`,
    );
    for (const [stage, seconds] of Object.entries(secondsByStage)) {
      if (stage !== "download") console.log(`${stage.padEnd(20)} ${seconds.toFixed(2)} s`);
    }
    const { seconds } = layer;
    console.log(
      `the layer in all     ${seconds.toFixed(2)} s, ${layers} layers ${
        (seconds * layers).toFixed(0)
      } s\nGPU memory           ${bytesText(peakGpuBytes)} at most`,
    );
  } finally {
    rmSync(folder, { recursive: true });
  }

  function readArguments() {
    try {
      return parseArgs({
        options: {
          "like": { type: "string" },
          "samples": { type: "string" },
          "sequence-length": { type: "string" },
          "mode": { type: "string" },
          "help": { type: "boolean", short: "h" },
        },
      }).values;
    } catch (error) {
      throw usageError((error as Error).message);
    }
  }
});
