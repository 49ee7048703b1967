import { countOnes } from "../../base/bits.ts";
import { percentText } from "../../base/units.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Codec, LinearFacts } from "../codec.ts";
import { infiniteHalves } from "../part_reader.ts";
import { dequantizeGrid } from "./dequantize_grid.ts";
import { gridSteps } from "./equal_steps.ts";
import { freeGrid, type LinearGrid, SALIENT_BITS } from "./grid.ts";
import { gridKind, uploadGrid, uploadGridGroup, uploadGridStack } from "./rows.ts";
import { dequantizeGridHost, type GridHost, loadGrid, storeGrid } from "./store.ts";

/** The grid codec: codes on equally spaced levels; salient weights may have codes of more bits. */
export const grid: Codec<GridHost> = {
	name: "grid",
	main: "grid_codes",
	since: 3,
	sinceParts: { grid_zero_bits: 4, grid_zero: 4, grid_real_zeros: 4, grid_order: 4 },
	parts: {
		grid_codes: "codes",
		grid_scales: "scales",
		grid_zeros: "scales",
		grid_zero_bits: "scales",
		grid_zero: "scales",
		grid_real_zeros: "scales",
		grid_means: "scales",
		grid_mask: "salient-mask",
		grid_counts: "salient-mask",
		grid_places: "salient-mask",
		grid_salient_codes: "salient-codes",
		grid_salient_scales: "scales",
		grid_salient_zeros: "scales",
		grid_order: "order",
	},
	usualParts: [],
	sizeColumns: {
		codes: ["codes"],
		which: ["salient-mask"],
		"8-bit": ["salient-codes"],
		scales: ["scales"],
		order: ["order"],
	},
	factColumns: [{
		key: "salientFraction",
		heading: "salient",
		value: ({ salientFraction = 0 }) => salientFraction,
		text: percentText,
		together: "mean",
	}],
	factMaps: [{
		title: "Salient weights",
		about: "The part of a linear layer's weights that is stored in more bits",
		value: ({ salientFraction = 0 }) => salientFraction,
	}],
	load: loadGrid,
	store: storeGrid,
	dequantize: dequantizeGridHost,

	facts(host): LinearFacts {
		const fraction = salientFraction(host);
		return {
			salientColumns: [],
			...(host.salient && { salientFraction: fraction }),
			highFraction: 0,
			paperBits: host.bits + (SALIENT_BITS - host.bits) * fraction,
		};
	},

	nonFinite({ fits, salientFits = [] }) {
		return {
			grid_scales: infiniteHalves(fits),
			grid_salient_scales: infiniteHalves(salientFits),
		};
	},

	equalSteps: gridSteps,

	matrix,

	upload(gpu, host) {
		return Promise.resolve(uploadGrid(gpu, host));
	},

	groups: () => true,
	expertKind: (_gpu, host) => gridKind(host),
	uploadExperts: (gpu, hosts) => Promise.resolve(uploadGridStack(gpu, hosts)),

	uploadGroup(gpu, hosts) {
		return Promise.resolve(uploadGridGroup(gpu, hosts));
	},
};

/** The dequantized weights of a grid layer on the GPU, f32 `[rows, cols]`, owned by the caller. */
async function matrix(gpu: Gpu, host: GridHost): Promise<Tensor> {
	const { codes, fits, mask, salientFits, order, ...layout } = host;
	const linear: LinearGrid = {
		...layout,
		codes: gpu.upload(codes, [codes.length]),
		fits: gpu.upload(fits, [fits.length]),
		...(mask && { mask: gpu.upload(mask, [mask.length]) }),
		...(salientFits && { salientFits: gpu.upload(salientFits, [salientFits.length]) }),
		...(order && { order: gpu.upload(order, [order.length]) }),
	};
	const weight = await dequantizeGrid(gpu, linear);
	freeGrid(gpu, linear);
	return weight;
}

/** Fraction of the weights that are salient. */
function salientFraction({ mask, rows, cols }: GridHost): number {
	return countOnes(mask ?? []) / (rows * cols);
}
