import type { Gpu } from "./device.ts";
import fillSource from "./fill.wgsl" with { type: "text" };
import { uniform } from "./kernel.ts";
import countSource from "./quantile_count.wgsl" with { type: "text" };
import pickSource from "./quantile_pick.wgsl" with { type: "text" };
import type { Tensor } from "./tensor.ts";

const NONE = 0xffffffff;

/**
 * Quantiles of |values| with the salient columns counted as zeros, with linear interpolation between
 * order statistics, exactly as a sort would give them.
 *
 * @param values f32 `[rows, cols]`, finite.
 * @param salient u32 `[cols]`, 0 or 1.
 * @param probabilities Ascending, each in 0 .. 1, at most 128.
 * @returns f32 `[probabilities.length]`, owned by the caller.
 */
export async function quantiles(
  gpu: Gpu,
  values: Tensor,
  salient: Tensor,
  probabilities: readonly number[],
): Promise<Tensor> {
  const n = probabilities.length;
  if (n > 128) throw new RangeError(`At most 128 quantiles at a time, asked for ${n}`);
  const { fround } = Math;
  const last = values.size - 1;
  const wantedHost = new Uint32Array(n * 6); // rank, slot 0, prefix 0: below, then above
  const weightHost = new Float32Array(n);
  probabilities.forEach((probability, i) => {
    const rank = fround(fround(probability) * fround(last)); // the precision of the released program
    const below = Math.min(Math.floor(rank), last);
    wantedHost[i * 6] = below;
    wantedHost[i * 6 + 3] = Math.min(below + 1, last);
    weightHost[i] = rank - below;
  });
  using wanted = gpu.upload(wantedHost, [n, 6]);
  using weight = gpu.upload(weightHost, [n]);
  using slot0 = gpu.empty([4096], "u32");
  using slot1 = gpu.empty([n * 2, 1024], "u32");
  using count = gpu.empty([Math.max(n * 2, 4), 1024], "u32");
  const out = gpu.empty([n]);
  const fill = await gpu.kernel({ name: "fill", source: fillSource });
  const slots = [slot0, slot1, slot1]; // level 2 makes none
  for (let level = 0; level < 3; level++) {
    gpu.clear(count);
    const tally = await gpu.kernel({
      name: "quantile_count",
      source: countSource,
      constants: { LEVEL: level },
    });
    tally.dispatch({
      params: uniform([values.size, values.shape[1]]),
      tensors: [values, salient, slot0, slot1, count],
      workgroups: Math.ceil(values.size / 64),
    });
    if (level < 2) {
      const { size } = slots[level];
      fill.dispatch({
        params: uniform([size, NONE]),
        tensors: [slots[level]],
        workgroups: Math.ceil(size / 64),
      });
    }
    const pick = await gpu.kernel({
      name: "quantile_pick",
      source: pickSource,
      constants: { LEVEL: level },
    });
    pick.dispatch({
      params: uniform([n]),
      tensors: [count, weight, wanted, slots[level], out],
      workgroups: 1,
    });
  }
  return out;
}
