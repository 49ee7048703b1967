// Measures kernels on this machine's adapter: median of several runs, each waited for.

import { attention } from "../gpu/attention.ts";
import { Gpu } from "../gpu/device.ts";
import { gemm, type GemmLayout } from "../gpu/gemm.ts";
import { inverseFactor } from "../gpu/inverse_factor.ts";
import { packedMatmul } from "../gpu/packed_matmul.ts";
import { packedMatvec } from "../gpu/packed_matvec.ts";
import { freePacked, type PackedWeight, uploadPacked } from "../gpu/packed_weight.ts";
import { quantiles } from "../gpu/quantile.ts";
import { scalesPerBlock } from "../gpu/quantize_block.ts";
import { columnOrder, selectSalientColumns, splitZones } from "../gpu/search.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { count, parseArguments, runTask, usageErrors } from "./task.ts";

const HELP = `Usage: deno task bench [--size N] [--runs N]

Measures the kernels on this machine's adapter: the median time of several runs, what that is per
second, and which fraction of what a plain copy or a plain product (GEMM f32 NN) reaches.

Options
  --size N   Rows and columns of the matrices (4096 on a GPU, 768 on a software adapter)
  --runs N   Runs of each kernel (10 on a GPU, 3 on a software adapter)
`;

const usageError = usageErrors("bench");

await runTask(async () => {
  const values = readArguments();
  if (values.help) {
    console.log(HELP);
    return;
  }
  await using gpu = await Gpu.open();
  const size = count(usageError, "--size", values.size, gpu.software ? 768 : 4096);
  const runs = count(usageError, "--runs", values.runs, gpu.software ? 3 : 10);
  console.log(`${gpu.name}, Deno ${Deno.version.deno}, ${size} x ${size}, median of ${runs} runs`);

  const random = (shape: number[]): Tensor => {
    const values = new Float32Array(shape.reduce((a, b) => a * b));
    for (let i = 0; i < values.length; i++) {
      values[i] = ((i * 7919 + (i >> 9) * 31) % 997) / 997 - 0.5;
    }
    return gpu.upload(values, shape);
  };
  const plainRates: Record<string, number> = {};
  /** Times `work` and prints what it does per second; it queues `repeat` calls of the kernel. */
  const measure = async (
    name: string,
    amount: number,
    unit: string,
    work: () => Promise<void>,
    repeat = gpu.software ? 1 : 10,
  ) => {
    await work();
    await gpu.idle();
    const times: number[] = [];
    for (let run = 0; run < runs; run++) {
      const start = performance.now();
      for (let i = 0; i < repeat; i++) await work();
      await gpu.idle();
      times.push((performance.now() - start) / repeat);
    }
    const ms = times.sort((a, b) => a - b)[times.length >> 1];
    const rate = amount / ms / (unit.startsWith("M") ? 1e3 : 1e6);
    // The first of a unit is what the others are held against: a plain copy, a plain product.
    const plain = plainRates[unit] ??= rate;
    const fraction = unit.startsWith("M") ? "" : `  ${(100 * rate / plain).toFixed(0)} %`;
    console.log(
      `${name.padEnd(34)} ${ms.toFixed(3).padStart(10)} ms  ` +
        `${rate.toFixed(1).padStart(9)} ${unit}${fraction}`,
    );
  };

  const a = random([size, size]);
  const b = random([size, size]);
  const c = gpu.empty([size, size]);
  const cube = 2 * size ** 3;
  await measure("copy", 2 * a.bytes, "GB/s", async () => gpu.copy(a, c));
  for (const layout of ["NN", "NT", "TN"] as GemmLayout[]) {
    await measure(
      `GEMM f32 ${layout}`,
      cube,
      "GFLOP/s",
      () => gemm(gpu, { layout, m: size, n: size, k: size, a, b, c }),
    );
  }
  if (!gpu.software) { // what the feed-forward layers of LLaMA-7B multiply for a batch of tokens
    const [hidden, inner, tokens] = [4096, 11008, 8192];
    const x = gpu.zeros([tokens, inner]);
    const y = gpu.zeros([tokens, inner]);
    const weight = gpu.zeros([inner, hidden]);
    for (const [n, k] of [[inner, hidden], [hidden, inner]]) {
      await measure(
        `GEMM f32 NT, ${tokens} x ${n} x ${k}`,
        2 * tokens * n * k,
        "GFLOP/s",
        () =>
          gemm(gpu, {
            layout: "NT",
            m: tokens,
            n,
            k,
            a: { tensor: x, stride: k },
            b: { tensor: weight, stride: k },
            c: { tensor: y, stride: n },
          }),
      );
    }
    gpu.free(x, y, weight);
  }
  await measure(
    "Hessian, upper triangle of XᵀX",
    cube / 2,
    "GFLOP/s",
    () => gemm(gpu, { layout: "TN", m: size, n: size, k: size, a, b: a, c, upperOnly: true }),
  );

  const tokens = gpu.software ? 64 : 512;
  // Several weights one after the other, so that a GPU's cache does not hold them.
  const weights = await packedWeights(gpu, size, gpu.software ? 2 : 16);
  for (const count of [1, 4]) {
    using x = random([count, size]);
    let turn = 0;
    await measure(
      `packed weight, ${count} token${count > 1 ? "s" : ""}`,
      weights[0].bits.bytes + weights[0].scales.bytes,
      "GB/s",
      async () => gpu.free(await packedMatvec(gpu, x, weights[turn++ % weights.length])),
      gpu.software ? 1 : 64,
    );
  }
  {
    using x = random([tokens, size]);
    await measure(
      `packed weight, ${tokens} tokens`,
      2 * tokens * size ** 2,
      "GFLOP/s",
      async () => gpu.free(await packedMatmul(gpu, x, weights[0])),
    );
  }
  for (const weight of weights) freePacked(gpu, weight);

  const [heads, headDim, length] = gpu.software ? [8, 32, 256] : [32, 128, 2048];
  const q = random([length, heads * headDim]);
  await measure(
    `attention, ${heads} x ${headDim}, ${length} tokens`,
    2 * length * length * heads * headDim,
    "GFLOP/s",
    async () =>
      gpu.free(await attention(gpu, q, q, q, { heads, keyValueHeads: heads, headDim, length })),
  );

  const h = gpu.empty([size, size]);
  await gemm(gpu, { layout: "TN", m: size, n: size, k: size, a, b: a, c: h, alpha: 2 });
  await measure("factor of the inverse Hessian", 2 / 3 * size ** 3, "GFLOP/s", async () => {
    const { factor, cost, status } = await inverseFactor(gpu, h, 0.01);
    gpu.free(factor, cost, status);
  }, 1);

  const block = random([size, 128]);
  const cost = random([128]);
  using order = await columnOrder(gpu, block, cost, "magnitude");
  using salient = await selectSalientColumns(gpu, block, order, cost, 49);
  const probabilities = Array.from({ length: 81 }, (_, i) => 0.1 + i / 100);
  using threshold = await quantiles(gpu, block, salient, probabilities);
  const blockWeights = block.size;
  await measure(
    "salient columns of a block",
    blockWeights,
    "Mweights/s",
    async () => gpu.free(await selectSalientColumns(gpu, block, order, cost, 49)),
  );
  await measure(
    "quantiles of a block",
    blockWeights,
    "Mweights/s",
    async () => gpu.free(await quantiles(gpu, block, salient, probabilities)),
  );
  await measure(
    "split of a block",
    blockWeights,
    "Mweights/s",
    async () => gpu.free(await splitZones(gpu, block, salient, cost, threshold)),
  );
});

/** Weights in the form that BiLLM gives them, two zones and a tenth of the columns salient. */
async function packedWeights(gpu: Gpu, size: number, count: number): Promise<PackedWeight[]> {
  const words = Math.ceil(size / 32);
  const layout = { rows: size, cols: size, blockSize: 128, zones: 2, planes: 2 } as const;
  const perRow = Math.ceil(size / 128) * scalesPerBlock(layout);
  const host = {
    ...layout,
    bits: Uint32Array.from({ length: 2 * size * words }, (_, i) => Math.imul(i, 2654435761)),
    salient: new Uint32Array(words).fill(0b111).map((mark, i) => i === words - 1 ? 0 : mark),
    scales: new Float32Array(size * perRow).fill(0.5),
  };
  const weights: PackedWeight[] = [];
  for (let i = 0; i < count; i++) weights.push(await uploadPacked(gpu, host));
  return weights;
}

function readArguments() {
  return parseArguments(usageError, {
    options: { size: { type: "string" }, runs: { type: "string" }, help: { type: "boolean" } },
  }).values;
}
