import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Codec } from "../codec.ts";
import { infiniteHalves } from "../part_reader.ts";
import { dequantizeLevels } from "./dequantize_levels.ts";
import { levelsSteps } from "./equal_steps.ts";
import { freeLevels, LEVEL_COUNTS, type LinearLevels } from "./levels.ts";
import { levelsKind, uploadLevels, uploadLevelsGroup, uploadLevelsStack } from "./products.ts";
import { dequantizeLevelsHost, type LevelsHost, loadLevels, storeLevels } from "./store.ts";

/** The codec of levels: each row has 2, 3, 4, 5 or 8 levels of its own, with one or two parameters. */
export const levels: Codec<LevelsHost> = {
	name: "levels",
	main: "level_codes",
	since: 5,
	parts: {
		level_codes: "codes",
		...Object.fromEntries(LEVEL_COUNTS.map((count) => [`levels_${count}`, "scales"])),
	},
	usualParts: [],
	sizeColumns: { codes: ["codes"], scales: ["scales"] },
	factColumns: [],
	factMaps: [],
	load: loadLevels,
	store: storeLevels,
	dequantize: dequantizeLevelsHost,

	facts({ count }) {
		return { paperBits: Math.log2(count), salientColumns: [], highFraction: 0 };
	},

	nonFinite({ count, theta }) {
		return { [`levels_${count}`]: infiniteHalves(theta) };
	},

	equalSteps: levelsSteps,

	matrix,

	upload: uploadLevels,
	groups: () => true,
	expertKind: levelsKind,
	uploadExperts: uploadLevelsStack,
	uploadGroup: uploadLevelsGroup,
};

/** The dequantized weights of a linear layer of levels on the GPU, f32 `[rows, cols]`, owned by the caller. */
async function matrix(gpu: Gpu, { codes, theta, ...layout }: LevelsHost): Promise<Tensor> {
	const linear: LinearLevels = {
		...layout,
		codes: gpu.upload(codes, [codes.length]),
		theta: gpu.upload(theta, [theta.length]),
	};
	const weight = await dequantizeLevels(gpu, linear);
	freeLevels(gpu, linear);
	return weight;
}
