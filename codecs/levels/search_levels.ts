import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { parametersOf } from "./levels.ts";
import { refitLevels, type SearchedLevels } from "./refit_levels.ts";
import { descendLevels } from "./sweep_levels.ts";

/** The effort of {@link searchLevels}. */
export interface LevelsEffort {
  /** Rounds of a refit, sweeps of coordinate descent and tabu search; a last refit follows them. */
  rounds: number;
  /** Sweeps of coordinate descent per round. */
  sweeps: number;
}

/**
 * Searches better parameters and codes of a linear layer in the loss tr(E H Eᵀ), E = W - Q.
 *
 * @param layer Its codes and parameters are updated.
 * @param targetProduct W H, f32 `[rows, cols]`.
 * @param pause Called between steps that may take long.
 */
export async function searchLevels(
  gpu: Gpu,
  layer: SearchedLevels,
  targetProduct: Tensor,
  { rounds, sweeps }: LevelsEffort,
  pause: () => Promise<void>,
): Promise<void> {
  const [rows, cols] = targetProduct.shape;
  using product = gpu.empty([parametersOf(layer.kind) * rows, cols]);
  const residual = product.view(0, [rows, cols]);
  for (let round = 0; round <= rounds; round++) {
    await refitLevels(gpu, layer, targetProduct, product);
    if (round === rounds) break;
    for (let sweep = 0; sweep < sweeps; sweep++) {
      await descendLevels(gpu, layer, residual);
      await pause();
    }
  }
}
