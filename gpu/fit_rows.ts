import type { Gpu } from "./device.ts";
import source from "./fit_rows.wgsl" with { type: "text" };
import { uniform } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Fits `planes` planes of mean ± scale to the salient columns of each row.
 *
 * @param weight f32 `[rows, cols]`.
 * @param salient u32 `[cols]`, 0 or 1.
 * @returns f32 `[rows, 2 * planes]`: mean and scale of each plane, owned by the caller.
 */
export async function fitSalient(
  gpu: Gpu,
  weight: Tensor,
  salient: Tensor,
  planes: number,
): Promise<Tensor> {
  const fit = gpu.empty([weight.shape[0], 2 * planes]);
  await fitGroup(gpu, weight, salient, salient, fit, 0, { PLANES: planes, ZONE: 0 });
  return fit;
}

/**
 * Fits one plane of mean ± scale to each zone of the columns that are not salient.
 *
 * @param zones The high zone as bits, u32 `[rows, ⌈cols / 32⌉]`; without it there is one zone.
 * @returns f32 `[rows, 2 * zones]`: mean and scale of the low and the high zone, owned by the caller.
 */
export async function fitZones(
  gpu: Gpu,
  weight: Tensor,
  salient: Tensor,
  zones: Tensor | undefined,
): Promise<Tensor> {
  const [rows, cols] = weight.shape;
  const fit = gpu.empty([rows, zones ? 4 : 2]);
  using none = zones ? undefined : gpu.zeros([rows, Math.ceil(cols / 32)], "u32");
  await fitGroup(gpu, weight, salient, zones ?? none!, fit, 0, { PLANES: 1, ZONE: 1 });
  if (zones) await fitGroup(gpu, weight, salient, zones, fit, 2, { PLANES: 1, ZONE: 2 });
  return fit;
}

async function fitGroup(
  gpu: Gpu,
  weight: Tensor,
  salient: Tensor,
  zones: Tensor,
  fit: Tensor,
  start: number,
  constants: { PLANES: number; ZONE: number },
): Promise<void> {
  const [rows, cols] = weight.shape;
  const kernel = await gpu.kernel({ name: "fit_rows", source, constants });
  kernel.dispatch({
    params: uniform([rows, cols, start, fit.shape[1]]),
    tensors: [weight, salient, zones, fit],
    workgroups: Math.ceil(rows / 32),
  });
}
