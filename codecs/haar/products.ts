import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Weight, WeightGroup } from "../codec.ts";
import { canGroupRows, PackedRowsGroup, PackedRowsWeight } from "../packed_rows/packed_rows.ts";
import {
	layerWords,
	type QuadCode,
	QuadRows,
	quadUnpacking,
	uploadQuads,
	wordsOf,
} from "../packed_rows/quads.ts";
import { decodeRows } from "../packed_rows/unpack.ts";
import declarations from "./haar_weights.wgsl" with { type: "text" };
import type { HaarHost } from "./host.ts";
import { type HaarLayout, haarPlanes, haarScales, type HaarTensors } from "./layout.ts";

/** The weights of the codec haar, four at a time. */
export const HAAR_QUADS: QuadCode = {
	name: "haar",
	tensors: {
		codes: "u32", // [rows, chunks, planes]
		scales: "f32", // [rows, BLOCKS, SCALES]
		masks: "u32", // [layers, MASKS]
	},
	declarations,
};

function constantsOf(layout: HaarLayout): Record<string, number> {
	const { cols, blockSize, axis } = layout;
	return {
		BY_ROWS: Number(axis === "row"),
		SCALES: haarScales(layout),
		BLOCK_CHUNKS: blockSize / 32,
		BLOCKS: Math.ceil(cols / blockSize),
		MASKS: layerWords(bitWords(cols)),
	};
}

/** The dequantized weights of a linear layer, f32 `[rows, cols]`, owned by the caller. */
export async function dequantizeHaarOnGpu(gpu: Gpu, layer: HaarTensors): Promise<Tensor> {
	const { rows, cols, codes, scales, mask } = layer;
	return await decodeRows(gpu, {
		...{ first: 0, rows, cols },
		code: quadUnpacking(HAAR_QUADS),
		tensors: [codes, scales, mask],
		constants: constantsOf(layer),
	});
}

function uploadRows(gpu: Gpu, hosts: readonly HaarHost[]): QuadRows {
	const data = hosts.map(({ rows, cols, codes, scales, mask }) => ({
		...{ rows, cols },
		byRow: [codes, wordsOf(scales)],
		byLayer: [mask],
	}));
	return uploadQuads(gpu, HAAR_QUADS, data, constantsOf(hosts[0]));
}

/** Uploads a linear layer for products with its codes. */
export async function uploadHaar(gpu: Gpu, host: HaarHost): Promise<Weight> {
	return new PackedRowsWeight(gpu, uploadRows(gpu, [host]));
}

/** Uploads linear layers as a group; undefined if the adapter or different kinds prevent it. */
export async function uploadHaarGroup(
	gpu: Gpu,
	hosts: readonly HaarHost[],
): Promise<WeightGroup | undefined> {
	const kindOf = ({ cols, blockSize, axis }: HaarHost) => [cols, blockSize, axis];
	const [{ cols, blockSize }] = hosts;
	const words = Math.max(
		bitWords(cols) * haarPlanes(hosts[0]),
		Math.ceil(cols / blockSize) * haarScales(hosts[0]),
	);
	if (!canGroupRows(gpu, hosts, kindOf, words)) return undefined;
	const group = uploadRows(gpu, hosts);
	return new PackedRowsGroup(gpu, group, hosts.map(({ rows }, i) => group.layer(rows, i)));
}

/** The dequantized weights of a linear layer in host memory, f32 `[rows, cols]`, owned by the caller. */
export async function haarMatrix(gpu: Gpu, host: HaarHost): Promise<Tensor> {
	const layer = uploadRows(gpu, [host]);
	const weight = await layer.unpack(gpu, 0, host.rows);
	gpu.free(...layer.tensors);
	return weight;
}
