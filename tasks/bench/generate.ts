import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { bytesText } from "../../base/units.ts";
import type { CacheDtype } from "../../gpu/kernels/attention/attention_decode.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import {
  continueTokens,
  type GenerationEnd,
  ResidentModel,
} from "../../models/generation/generation.ts";
import { cacheBytes } from "../../models/generation/kv_cache.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { count, runCommand, usageErrors } from "../task.ts";

const HELP = `Usage: deno task bench:generate MODEL... [options]

Measures the throughput of prefill and decode, and GPU memory, for packed or plain models with a
prompt of random tokens. The figures are those of the fastest of several runs.

Options
  --prompt N      Prompt tokens (512)
  --tokens N      Generated tokens (128)
  --runs N        Runs (3)
  --cache DTYPE   Type of the KV cache, f32 or f16 (f32)
  --json          Print the figures as JSON, one line per model
  --help          Print this
`;

const usageError = usageErrors("bench:generate");

const options = {
  prompt: { type: "string" },
  tokens: { type: "string" },
  runs: { type: "string" },
  cache: { type: "string" },
  json: { type: "boolean" },
} as const;

await runCommand({ name: "bench:generate", help: HELP, options }, async (given) => {
  const { values, positionals, signal } = given;
  if (positionals.length === 0) throw usageError("Give the folder of a model");
  const { cache = "f32" } = values;
  if (cache !== "f32" && cache !== "f16") {
    throw usageError(`--cache must be f32 or f16, found "${cache}"`);
  }
  const prompt = count(usageError, "--prompt", values.prompt, 512);
  const tokens = count(usageError, "--tokens", values.tokens, 128);
  const runs = count(usageError, "--runs", values.runs, 3);
  for (const folder of positionals) {
    const figures = await measure(folder, { prompt, tokens, runs, cache, signal });
    if (values.json) console.log(JSON.stringify(figures));
    else console.log(textOf(figures));
  }
});

interface Figures {
  model: string;
  adapter: string;
  /** Bytes of the weight files. */
  fileBytes: number;
  /** Bytes of the KV cache. */
  cacheBytes: number;
  /** GPU memory with the KV cache: the peak, and during decode. */
  peakBytes: number;
  generatingBytes: number;
  promptTokens: number;
  promptTokensPerSecond: number;
  tokens: number;
  tokensPerSecond: number;
}

interface Wanted {
  prompt: number;
  tokens: number;
  runs: number;
  cache: CacheDtype;
  signal: AbortSignal;
}

async function measure(
  folder: string,
  { prompt, tokens, runs, cache, signal }: Wanted,
): Promise<Figures> {
  await using gpu = await openGpu();
  using files = ModelFiles.open(denoFolder(folder));
  using model = await ResidentModel.load(gpu, files, { signal });
  const { architecture } = files;
  const ids = Array.from(
    { length: prompt },
    (_, i) => (i * 7919 + 13) % architecture.vocabularySize,
  );
  const capacity = Math.min(architecture.maxLength, prompt + tokens - 1);
  let fastest: Pick<GenerationEnd, "promptSeconds" | "seconds"> = {
    promptSeconds: Infinity,
    seconds: Infinity,
  };
  let generatingBytes = 0;
  gpu.resetPeak();
  for (let run = 0; run < runs; run++) {
    const texts = continueTokens(model, ids, { maxTokens: tokens, cache, signal });
    let next = await texts.next();
    while (!next.done) {
      const { current, pooled } = gpu.memory;
      generatingBytes = Math.max(generatingBytes, current + pooled);
      next = await texts.next();
    }
    signal.throwIfAborted();
    const { promptSeconds, seconds } = next.value;
    fastest = {
      promptSeconds: Math.min(fastest.promptSeconds, promptSeconds),
      seconds: Math.min(fastest.seconds, seconds),
    };
  }
  return {
    model: folder,
    adapter: gpu.name,
    fileBytes: readdirSync(folder)
      .filter((name) => name.endsWith(".safetensors") && name !== "token_ids.safetensors")
      .reduce((sum, name) => sum + statSync(join(folder, name)).size, 0),
    cacheBytes: cacheBytes(architecture, capacity, cache),
    peakBytes: gpu.memory.peak,
    generatingBytes,
    promptTokens: prompt,
    promptTokensPerSecond: prompt / fastest.promptSeconds,
    tokens,
    tokensPerSecond: (tokens - 1) / fastest.seconds,
  };
}

function textOf(figures: Figures): string {
  const { fileBytes, cacheBytes, generatingBytes, peakBytes } = figures;
  const share = 100 * (generatingBytes / (fileBytes + cacheBytes) - 1);
  return [
    `${figures.model} on ${figures.adapter}`,
    `  prefill     ${figures.promptTokens} tokens at ${figures.promptTokensPerSecond.toFixed(1)}/s`,
    `  decode      ${figures.tokens} tokens at ${figures.tokensPerSecond.toFixed(1)}/s`,
    `  GPU memory  ${bytesText(generatingBytes)} during decode, peak ${bytesText(peakBytes)}; ` +
    `files ${bytesText(fileBytes)}, KV cache ${bytesText(cacheBytes)} (${share.toFixed(1)} % more)`,
  ].join("\n");
}
