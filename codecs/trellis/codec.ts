import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Codec, LinearFacts } from "../codec.ts";
import { infiniteHalves } from "../part_reader.ts";
import { dequantizeTrellis } from "./dequantize_trellis.ts";
import { trellisKind, uploadTrellis, uploadTrellisGroup, uploadTrellisStack } from "./products.ts";
import { dequantizeTrellisHost, loadTrellis, storeTrellis, type TrellisHost } from "./store.ts";
import { freeTrellis, type TrellisTensors } from "./trellis.ts";

/** The trellis codec: tiles of weights as walks through a table, a scale per row. */
export const trellis: Codec<TrellisHost> = {
	name: "trellis",
	main: "trellis",
	rowsPart: "trellis_scales",
	since: 5,
	parts: { trellis: "codes", trellis_scales: "scales", trellis_order: "order" },
	usualParts: [],
	sizeColumns: { codes: ["codes"], scales: ["scales"], order: ["order"] },
	factColumns: [],
	factMaps: [],
	load: loadTrellis,
	store: storeTrellis,
	dequantize: dequantizeTrellisHost,

	facts({ bits }): LinearFacts {
		return { salientColumns: [], highFraction: 0, paperBits: bits };
	},

	nonFinite({ scales }) {
		return { trellis_scales: infiniteHalves(scales) };
	},

	matrix,

	upload: uploadTrellis,
	groups: () => true,
	expertKind: (_gpu, host) => trellisKind(host),
	uploadExperts: uploadTrellisStack,
	uploadGroup: uploadTrellisGroup,
};

/** The dequantized weights of a trellis layer on the GPU, f32 `[rows, cols]`, owned by the caller. */
async function matrix(gpu: Gpu, host: TrellisHost): Promise<Tensor> {
	const { stream, scales, order, ...layout } = host;
	const layer: TrellisTensors = {
		...layout,
		stream: gpu.upload(stream, [stream.length]),
		scales: gpu.upload(scales, [scales.length]),
		...(order && { order: gpu.upload(order, [order.length]) }),
	};
	const weight = await dequantizeTrellis(gpu, layer);
	freeTrellis(gpu, layer);
	return weight;
}
