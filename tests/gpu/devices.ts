import { gpu } from "./gpu.ts";
import { openAsHardware } from "./open_gpu.ts";

/** The device of a test file with the kernels of real GPUs, see {@link openAsHardware}. */
export const hardware = await openAsHardware();

/** What a kernel with variants is tested on. */
export const DEVICES = [
	{ kernels: "the adapter's kernels", gpu },
	{ kernels: "kernels of real GPUs", gpu: hardware },
];
