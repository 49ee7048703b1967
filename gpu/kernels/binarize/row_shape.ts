import type { Gpu } from "../../device.ts";

/**
 * The constants of a kernel that keeps rows of a block in workgroup memory, each shared by LANES
 * threads: eight on a GPU, so that it has enough of them, one on a CPU, where no thread waits for
 * another. The row's STRIDE keeps the threads of four rows apart in the banks of that memory, and ROWS
 * leaves 7 KiB for what lies beside the rows.
 */
export function rowShape(
  gpu: Gpu,
  cols: number,
): { ROWS: number; LANES: number; LOADERS: number; STRIDE: number } {
  const STRIDE = cols + 8;
  const memory = gpu.device.limits.maxComputeWorkgroupStorageSize - 7168;
  const ROWS = Math.min(16, 2 ** Math.floor(Math.log2(memory / 4 / STRIDE)));
  return gpu.software
    ? { ROWS, LANES: 1, LOADERS: 1, STRIDE }
    : { ROWS, LANES: 8, LOADERS: 32, STRIDE };
}
