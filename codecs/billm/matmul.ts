import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS, uniform } from "../../gpu/kernel.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { Addends } from "../codec.ts";
import { multiplySlabs } from "../packed_rows/slabs.ts";
import orderColumns from "./order_columns.wgsl" with { type: "text" };
import {
	billmMatmulBytes,
	billmMatmulKernel,
	type BillmTile,
	MATMUL_FLAGS,
	UNPACKED_ROWS,
	unpackKernel,
} from "./matmul_source.ts";
import { billmMatvec, MATVEC_TOKENS } from "./matvec.ts";
import { type BillmTensors, formName, formOf, tilesOf, UNIT_COLS, unitsOf } from "./tensors.ts";

const LARGE: BillmTile = { rows: 128, cols: 128, depth: 16 };
const SMALL: BillmTile = { rows: 64, cols: 64, depth: 16 };

/**
 * The token count from which unpacking each weight once is cheaper than once per tile of tokens: sooner if
 * weights may be salient, which takes several scales and tests for each.
 */
const SLAB_TOKENS = { ordinary: 1024, salient: 256 };
/** The same where slabs are multiplied on tensor cores. */
const ROUNDED_SLAB_TOKENS = 64;

/** Where weights are unpacked for a product of many tokens: in workgroup memory, or in GPU memory. */
export type UnpackedIn = "tiles" | "slabs";

/**
 * x · weightᵀ (+ bias) (+ residual) for any number of tokens; selects the kernel by their number.
 *
 * @param x f32 `[tokens, cols]`.
 * @returns f32 `[tokens, rows]`, owned by the caller.
 * @throws {RangeError} If the shape of x does not match the weight.
 */
export async function billmProduct(
	gpu: Gpu,
	x: Tensor,
	weight: BillmTensors,
	addends: Addends = {},
): Promise<Tensor> {
	const multiply = x.shape[0] <= MATVEC_TOKENS ? billmMatvec : billmMatmul;
	return await multiply(gpu, x, weight, addends);
}

/**
 * {@link billmProduct} for many tokens. GPUs unpack the weight tile by tile in workgroup memory. From
 * {@link SLAB_TOKENS} tokens on, and on software adapters, slabs of rows are unpacked to GPU memory first.
 *
 * @param unpacked Where, for measurements; as suits the adapter and the number of tokens if absent.
 */
export async function billmMatmul(
	gpu: Gpu,
	x: Tensor,
	weight: BillmTensors,
	addends: Addends = {},
	unpacked?: UnpackedIn,
): Promise<Tensor> {
	const { rows, cols, planes } = weight;
	const [tokens, width] = x.shape;
	if (width !== cols) {
		throw new RangeError(
			`Cannot multiply ${shapeText(x.shape)} with a packed weight of ${shapeText([rows, cols])}`,
		);
	}
	const y = gpu.empty([tokens, rows]);
	const fromTokens = gpu.roundsProducts
		? ROUNDED_SLAB_TOKENS
		: SLAB_TOKENS[planes > 0 ? "salient" : "ordinary"];
	unpacked ??= gpu.software || tokens >= fromTokens ? "slabs" : "tiles";
	if (unpacked === "slabs") {
		const unpack = (first: number, count: number) => unpackRows(gpu, weight, first, count);
		await multiplySlabs(gpu, x, { rows, unpack }, addends, y);
	} else await multiplyTiles(gpu, x, weight, addends, y);
	return y;
}

/** Queues the product into `y`, unpacking tiles in workgroup memory. */
async function multiplyTiles(
	gpu: Gpu,
	x: Tensor,
	weight: BillmTensors,
	{ bias, residual }: Addends,
	y: Tensor,
): Promise<void> {
	const { rows, cols, blockSize, bits, scales, factors, salient, order } = weight;
	const [tokens] = x.shape;
	const form = formOf(weight);
	const [tiles, units] = [tilesOf(weight), unitsOf(weight)];
	const positions = units * UNIT_COLS;
	const tile = tileFor(gpu, tokens, rows);
	const [tilesDown, tilesAcross] = [Math.ceil(tokens / tile.rows), Math.ceil(rows / tile.cols)];
	using ordered = gpu.empty([tilesDown * tile.rows, positions]);
	const reorder = await gpu.kernel({ name: "order_columns", source: orderColumns });
	reorder.dispatch({
		params: uniform([tokens, cols, positions]),
		tensors: [x, order, ordered],
		workgroups: [Math.ceil(positions / 256), Math.min(tokens, 32768), Math.ceil(tokens / 32768)],
	});
	const { maxComputeWorkgroupStorageSize } = gpu.device.limits;
	const paired = billmMatmulBytes(tile, true) <= maxComputeWorkgroupStorageSize;
	const aligned = rows % 4 === 0;
	const kernel = await gpu.kernel({
		name: `packed_matmul_${formName(form)}_${tile.rows}x${tile.cols}${paired ? "_paired" : ""}${
			aligned ? "" : "_any"
		}`,
		source: () => billmMatmulKernel(form, { tile, paired, aligned }),
	});
	const flags = (bias ? MATMUL_FLAGS.bias : 0) | (residual ? MATMUL_FLAGS.residual : 0);
	const blocks = Math.ceil(cols / blockSize);
	kernel.dispatch({
		params: uniform([tokens, rows, units, blocks, blockSize, tiles, flags]),
		tensors: [ordered, bits, scales, factors ?? scales, salient, bias ?? x, residual ?? x, y],
		workgroups: [tilesAcross, tilesDown],
	});
}

function tileFor(gpu: Gpu, tokens: number, rows: number): BillmTile {
	const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
	const fits = maxComputeInvocationsPerWorkgroup >= 256 &&
		billmMatmulBytes(LARGE, false) <= maxComputeWorkgroupStorageSize;
	// Fewer large tiles than this leave multiprocessors idle.
	const count = Math.ceil(tokens / LARGE.rows) * Math.ceil(rows / LARGE.cols);
	return fits && count >= 128 ? LARGE : SMALL;
}

/**
 * The dequantized weights of some rows; bit-identical to dequantize().
 *
 * @param out Receives them; a new tensor if absent.
 * @returns f32 `[rows, cols]`; a new one is owned by the caller.
 */
export async function unpackRows(
	gpu: Gpu,
	weight: BillmTensors,
	first = 0,
	rows: number = weight.rows - first,
	out: Tensor = gpu.empty([rows, weight.cols]),
): Promise<Tensor> {
	const { cols, blockSize, bits, scales, factors, salient, order } = weight;
	const form = formOf(weight);
	const units = unitsOf(weight);
	const kernel = await gpu.kernel({
		name: `unpack_rows_${formName(form)}`,
		source: () => unpackKernel(form),
	});
	const down = Math.ceil(rows / UNPACKED_ROWS);
	kernel.dispatch({
		params: uniform([first, rows, cols, units, Math.ceil(cols / blockSize), blockSize]),
		tensors: [bits, scales, factors ?? scales, salient, order, out],
		workgroups: [units, Math.min(down, MAX_GROUPS), Math.ceil(down / MAX_GROUPS)],
	});
	return out;
}
