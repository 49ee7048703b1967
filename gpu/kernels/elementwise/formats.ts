import type { Dtype } from "../../tensor.ts";

/** The FORMAT constant of kernels that read stored floating-point tensors. */
export const FORMATS: Partial<Record<Dtype, number>> = { f32: 0, f16: 1, bf16: 2 };
