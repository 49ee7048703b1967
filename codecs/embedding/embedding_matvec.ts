import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { reducesInSubgroup, reductionLanes } from "../../gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
  type EmbeddingLayout,
  embeddingRowBytes,
  embeddingScaleGroups,
} from "./dequantize_embedding.ts";
import { embeddingMatvecKernel, TABLE_ROWS, TABLE_STEP } from "./embedding_matvec_source.ts";

/** The arguments of {@link embeddingMatvec}. */
export interface EmbeddingMatvec {
  /** f32 `[1, cols]`. */
  x: Tensor;
  /** Its `rows` match `codes`. */
  layout: EmbeddingLayout;
  /** Bytes `[rows, embeddingRowBytes]`, packed in u32 words. */
  codes: Tensor;
  /** f16 `[rows, embeddingScaleGroups]`, packed in u32 words. */
  scales: Tensor;
  /** Receives the products, f32. */
  out: Tensor;
  /** The element of `out` that receives the first product; 0 if absent. */
  start?: number;
}

/** Queues out = x · tableᵀ for one token with a quantized table, which is read once. */
export async function embeddingMatvec(
  gpu: Gpu,
  { x, layout, codes, scales, out, start = 0 }: EmbeddingMatvec,
): Promise<void> {
  const { rows, cols, bits, group } = layout;
  const aligned = cols % TABLE_STEP === 0 && group % TABLE_STEP === 0;
  const useSubgroup = reducesInSubgroup(gpu);
  const lanes = reductionLanes(gpu, lanesFor(aligned ? cols / TABLE_STEP : cols));
  const kernel = await gpu.kernel({
    name: `table_matvec_${bits}_${group}_${useSubgroup ? "subgroup" : lanes}${
      aligned ? "" : "_any"
    }`,
    source: () => embeddingMatvecKernel(layout, lanes, useSubgroup, aligned),
  });
  kernel.dispatch({
    params: uniform([rows, cols, embeddingRowBytes(layout), embeddingScaleGroups(layout), start]),
    tensors: [x, codes, scales, out],
    workgroups: Math.ceil(rows / TABLE_ROWS),
  });
}

/** Threads of a workgroup on a GPU: the number of reads per row, clamped to 32 .. 128. */
function lanesFor(reads: number): number {
  let lanes = 32;
  while (lanes < reads && lanes < 128) lanes *= 2;
  return lanes;
}
