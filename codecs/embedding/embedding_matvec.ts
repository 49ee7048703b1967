import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import {
  type EmbeddingLayout,
  embeddingRowBytes,
  embeddingScaleGroups,
} from "./dequantize_embedding.ts";
import { embeddingMatvecKernel, TABLE_ROWS, TABLE_STEP } from "./embedding_matvec_source.ts";

export interface EmbeddingMatvec {
  /** f32 `[1, cols]`. */
  x: Tensor;
  /** Its `rows` are those of `codes`. */
  layout: EmbeddingLayout;
  /** `[rows, embeddingRowBytes]` bytes in words, u32. */
  codes: Tensor;
  /** f16 `[rows, embeddingScaleGroups]` in words, u32. */
  scales: Tensor;
  /** Receives the products, f32. */
  out: Tensor;
  /** The element of `out` that the first product goes to, 0 unless told otherwise. */
  start?: number;
}

/** Queues out = x · tableᵀ for one token, the table as it is quantized: it is read once. */
export async function embeddingMatvec(
  gpu: Gpu,
  { x, layout, codes, scales, out, start = 0 }: EmbeddingMatvec,
): Promise<void> {
  const { rows, cols, bits, group } = layout;
  const aligned = cols % TABLE_STEP === 0 && group % TABLE_STEP === 0;
  const useSubgroup = gpu.software && gpu.subgroupSize > 0;
  const lanes = useSubgroup
    ? gpu.subgroupSize
    : gpu.software
    ? 16
    : lanesFor(aligned ? cols / TABLE_STEP : cols);
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

/** Threads of a workgroup on a GPU: as many as have something to read, 32 to 128. */
function lanesFor(reads: number): number {
  let lanes = 32;
  while (lanes < reads && lanes < 128) lanes *= 2;
  return lanes;
}
