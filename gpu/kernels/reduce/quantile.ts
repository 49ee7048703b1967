import { constant } from "../../constant.ts";
import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import placesSource from "./quantile_places.wgsl" with { type: "text" };
import countSource from "./quantile_count.wgsl" with { type: "text" };
import pickSource from "./quantile_pick.wgsl" with { type: "text" };

/** Bins of the first level and of the other levels: 11, 10 and 10 bits of a magnitude. */
const FIRST_BINS = 2048;
const BINS = 1024;

/** The counts of the first level, which every call resets to zero for the next one. */
const firstCounts = new WeakMap<Gpu, Tensor>();

function firstCount(gpu: Gpu): Tensor {
	const count = firstCounts.get(gpu) ?? gpu.zeros([FIRST_BINS], "u32");
	firstCounts.set(gpu, count);
	return count;
}

/**
 * The quantiles of |values| with salient columns counted as zeros, linearly interpolated between order
 * statistics; exact, as by sorting.
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
	const last = values.size - 1;
	// f32 products, as in the released program. Computed on the host, as the device may not round them.
	const { fround } = Math;
	const places = probabilities.map((probability) => fround(fround(probability) * fround(last)));
	return await quantilesAt(gpu, values, salient, constant(gpu, Float32Array.from(places)));
}

/**
 * The quantiles of |values| in some columns alone, else as by {@link quantiles}.
 *
 * @param excluded u32 `[cols]`, 1 for the other columns; if all are, the quantiles are those of zeros.
 */
export async function quantilesWithin(
	gpu: Gpu,
	values: Tensor,
	excluded: Tensor,
	probabilities: readonly number[],
): Promise<Tensor> {
	const n = probabilities.length;
	const kernel = await gpu.kernel({ name: "quantile_places", source: placesSource });
	using place = gpu.empty([n]);
	kernel.dispatch({
		params: uniform([values.shape[0], values.shape[1], n]),
		tensors: [excluded, constant(gpu, Float32Array.from(probabilities)), place],
		workgroups: 1,
	});
	return await quantilesAt(gpu, values, excluded, place);
}

/** The quantiles at some places, from 0 on, among the ascending magnitudes, f32 `[n]`, at most 128. */
async function quantilesAt(
	gpu: Gpu,
	values: Tensor,
	salient: Tensor,
	place: Tensor,
): Promise<Tensor> {
	const n = place.size;
	if (n > 128) throw new RangeError(`At most 128 quantiles at a time, asked for ${n}`);
	const last = values.size - 1;
	const first = firstCount(gpu);
	const slots = 2 * n; // the ranks below and above each quantile
	using count = gpu.empty([2, slots, BINS], "u32");
	using slot = gpu.empty([FIRST_BINS + slots * BINS], "u32");
	using wanted = gpu.empty([2, slots, 3], "u32");
	const out = gpu.empty([n]);
	// On a GPU each thread takes a few values; a software adapter has few workgroups, so that little time
	// goes into clearing and merging bins.
	const lanes = gpu.software ? 16 : 256;
	const groups = Math.min(Math.ceil(values.size / (4 * lanes)), gpu.software ? 16 : 256);
	const kernels = [];
	for (let level = 0; level < 3; level++) {
		const constants = { LEVEL: level, LANES: lanes };
		kernels.push({
			tally: await gpu.kernel({ name: "quantile_count", source: countSource, constants }),
			pick: await gpu.kernel({ name: "quantile_pick", source: pickSource, constants }),
			slotsSearched: [1, slots, n][level],
		});
	}
	// No await from here on: the first counts are shared, so calls must not interleave.
	for (const { tally, pick, slotsSearched } of kernels) {
		tally.dispatch({
			params: uniform([values.size, values.shape[1], count.size]),
			tensors: [values, salient, slot, first, count],
			workgroups: groups,
		});
		pick.dispatch({
			params: uniform([n, last]),
			tensors: [place, count, first, wanted, slot, out],
			workgroups: slotsSearched,
		});
	}
	return out;
}
