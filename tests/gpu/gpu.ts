import { openGpu } from "./open_gpu.ts";

/** The device of a test file, see {@link openGpu}. */
export const gpu = await openGpu();
