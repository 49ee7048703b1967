import type { Gpu } from "../../gpu/device.ts";
import { type CacheDtype, cacheWidth } from "../../gpu/kernels/attention/attention_decode.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Architecture } from "../architectures/architecture.ts";

/**
 * The keys and values of a text's tokens, so that each further token needs to be computed alone. Keys
 * are kept with their rotary positions.
 */
export class KeyValueCache implements Disposable {
  /** Tokens in the cache. */
  length = 0;
  /** By decoder layer; f32 or f16 `[capacity, keyValueHeads * padded headDim]`. */
  readonly layers: readonly { keys: Tensor; values: Tensor }[];

  /** @param capacity The most tokens that it can hold. */
  constructor(
    readonly gpu: Gpu,
    { layers, keyValueHeads, headDim }: Architecture,
    readonly capacity: number,
    dtype: CacheDtype,
  ) {
    const shape = [capacity, cacheWidth(keyValueHeads, headDim)];
    this.layers = Array.from({ length: layers }, () => ({
      keys: gpu.empty(shape, dtype),
      values: gpu.empty(shape, dtype),
    }));
  }

  [Symbol.dispose](): void {
    for (const { keys, values } of this.layers) this.gpu.free(keys, values);
  }
}
