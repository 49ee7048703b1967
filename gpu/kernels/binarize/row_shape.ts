import type { Gpu } from "../../device.ts";

/**
 * The constants of a kernel that holds rows of a block in workgroup memory. LANES threads share a row:
 * eight on a GPU for occupancy, one on a software adapter, where threads do not run in parallel. STRIDE
 * avoids bank conflicts between the threads of four rows; ROWS leaves 7 KiB for other data.
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
