import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Weight, WeightGroup } from "../codec.ts";
import { canGroupRows, PackedRowsGroup, PackedRowsWeight } from "../packed_rows/packed_rows.ts";
import {
	layerWords,
	type QuadCode,
	QuadRows,
	type QuadTensors,
	quadUnpacking,
	uploadQuads,
	wordsOf,
} from "../packed_rows/quads.ts";
import { decodeRows } from "../packed_rows/unpack.ts";
import declarations from "./arb_weights.wgsl" with { type: "text" };
import type { ArbHost } from "./host.ts";
import { type ArbLayout, arbPlanes, arbScales, type ArbTensors } from "./layout.ts";

/** The weights of the codec arb, four at a time. */
export const ARB_QUADS: QuadCode = {
	name: "arb",
	tensors: {
		codes: "u32", // [rows, chunks, planes]
		scales: "f32", // [rows, BLOCKS, SCALES]
		column_scales: "vec4f", // [layers, chunks · 32]
		masks: "u32", // [layers, MASKS]
	},
	declarations,
};

function constantsOf(layout: ArbLayout): Record<string, number> {
	const { cols, blockSize, columnScales, bitmap } = layout;
	return {
		COLUMN_SCALES: Number(columnScales),
		BITMAP: Number(bitmap),
		SCALES: arbScales(layout),
		BLOCK_CHUNKS: blockSize / 32,
		BLOCKS: Math.ceil(cols / blockSize),
		MASKS: layerWords(bitWords(cols)),
	};
}

/** The dequantized weights of a linear layer; `weight` receives them, a new tensor if absent. */
export async function dequantizeArbOnGpu(gpu: Gpu, layer: ArbTensors): Promise<Tensor> {
	const { rows, cols, codes, scales, columns, mask } = layer;
	return await decodeRows(gpu, {
		...{ first: 0, rows, cols },
		code: quadUnpacking(ARB_QUADS),
		tensors: [codes, scales, columns, mask],
		constants: constantsOf(layer),
	});
}

function dataOf(host: ArbHost): QuadTensors<Uint32Array<ArrayBuffer>> {
	const { rows, cols, codes, scales, columns, mask } = host;
	const padded = new Float32Array(host.columnScales ? 128 * bitWords(cols) : 4);
	padded.set(columns);
	return { rows, cols, byRow: [codes, wordsOf(scales)], byLayer: [wordsOf(padded), mask] };
}

function uploadRows(gpu: Gpu, hosts: readonly ArbHost[]): QuadRows {
	return uploadQuads(gpu, ARB_QUADS, hosts.map(dataOf), constantsOf(hosts[0]));
}

/** Uploads a linear layer for products with its codes. */
export async function uploadArb(gpu: Gpu, host: ArbHost): Promise<Weight> {
	return new PackedRowsWeight(gpu, uploadRows(gpu, [host]));
}

/** Uploads linear layers as a group; undefined if the adapter or different kinds prevent it. */
export async function uploadArbGroup(
	gpu: Gpu,
	hosts: readonly ArbHost[],
): Promise<WeightGroup | undefined> {
	const kindOf = ({ cols, blockSize, columnScales, bitmap }: ArbHost) => [
		...[cols, blockSize, columnScales, bitmap],
	];
	const [{ cols, blockSize }] = hosts;
	const words = Math.max(
		bitWords(cols) * arbPlanes(hosts[0]),
		Math.ceil(cols / blockSize) * arbScales(hosts[0]),
	);
	if (!canGroupRows(gpu, hosts, kindOf, words)) return undefined;
	const group = uploadRows(gpu, hosts);
	return new PackedRowsGroup(gpu, group, hosts.map(({ rows }, i) => group.layer(rows, i)));
}

/** The dequantized weights of a linear layer in host memory, f32 `[rows, cols]`, owned by the caller. */
export async function arbMatrix(gpu: Gpu, host: ArbHost): Promise<Tensor> {
	const layer = uploadRows(gpu, [host]);
	const weight = await layer.unpack(gpu, 0, host.rows);
	gpu.free(...layer.tensors);
	return weight;
}
