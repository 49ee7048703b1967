import type { Tensor } from "../tensor.ts";
import type { ActivationName } from "./elementwise/activation.ts";

/** A function of the input vector that a kernel computes in its prologue (fused). */
export type VectorSource =
  /** The RMS norm of the vector. */
  | { op: "rms"; weight: Tensor; epsilon: number }
  /**
   * An activation function of the vector; with `up`, the activation of its first half times its second
   * half, which begins at element `up`.
   */
  | { op: "activation"; name: ActivationName; up?: number };
