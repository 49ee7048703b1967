import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import { DTYPE_BYTES, type Tensor } from "../../tensor.ts";
import { copyRegion } from "../elementwise/copy_region.ts";
import { BROADCAST_TILE, broadcastKernel } from "./gemm_broadcast_source.ts";
import { finishKernel, GEMM_FLAGS, type GemmLayout, type Storages } from "./gemm_source.ts";
import {
	type GemmFit,
	tileKernel,
	tileKernelBytes,
	tileName,
	type TileShape,
	tileThreads,
} from "./gemm_tile_source.ts";
import {
	MATRIX_DEPTH,
	MATRIX_TILE,
	matrixKernel,
	type MatrixLayout,
	unitKernel,
} from "./gemm_matrix_source.ts";
import { TileTuning } from "./gemm_tuning.ts";
import { halve, type Halves } from "./halve.ts";

export type { GemmLayout } from "./gemm_source.ts";

/**
 * A row-major matrix inside a tensor: row i begins at element `start + i * stride`. Factors and
 * residuals are f32, f16 or bf16; results are f32 or f16; sums are f32.
 */
export interface Matrix {
	tensor: Tensor;
	start?: number;
	/** Elements from one row to the next; the tensor's last dimension if absent. */
	stride?: number;
}

/** The arguments of {@link gemm}. */
export interface Gemm {
	/** Which of A and B are transposed. C is `[m, n]`, the inner dimension is k. */
	layout: GemmLayout;
	m: number;
	n: number;
	k: number;
	a: Matrix | Tensor;
	b: Matrix | Tensor;
	c: Matrix | Tensor;
	/** Factor of the product; 1 if absent. */
	alpha?: number;
	/** Whether to add to C instead of replacing it. */
	accumulate?: boolean;
	/** Added to every row, `[n]`. */
	bias?: Tensor;
	/** Added to the result, `[m, n]`; must not share memory with C. */
	residual?: Matrix | Tensor;
	/** Whether A and B may be rounded to f16, which happens if the device's precision is f16. */
	mayRound?: boolean;
	/** Keeps the rounded A for further products with it. */
	sharedA?: SharedFactor;
	/** Keeps the rounded B. */
	sharedB?: SharedFactor;
	/** Whether to skip tiles of C that are fully below the diagonal (they keep their content). */
	upperOnly?: boolean;
}

/** A factor of several products, which is rounded once; to be disposed of after them. */
export class SharedFactor implements Disposable {
	/** The rounded factor, once a product has needed it. */
	halves?: Halves;

	/** Frees the rounded factor. */
	[Symbol.dispose](): void {
		this.halves?.[Symbol.dispose]();
		this.halves = undefined;
	}
}

/** A {@link Matrix} with all of its numbers. */
export interface Placed {
	tensor: Tensor;
	start: number;
	stride: number;
}

function place(matrix: Matrix | Tensor): Placed {
	const { tensor, start = 0, stride } = "tensor" in matrix
		? matrix
		: { tensor: matrix, start: 0, stride: undefined };
	return { tensor, start, stride: stride ?? tensor.shape[tensor.shape.length - 1] };
}

/**
 * The candidate tiles, the safest first. Their results are bit-identical.
 *
 * 128 x 128 with 8 x 8 per thread suits most GPUs; larger tiles read less memory per product, smaller
 * ones leave fewer multiprocessors idle.
 */
export const TILES: readonly TileShape[] = [
	{ rows: 128, cols: 128, depth: 16, threadRows: 8, threadCols: 8 },
	{ rows: 64, cols: 64, depth: 16, threadRows: 8, threadCols: 8 },
	{ rows: 256, cols: 128, depth: 16, threadRows: 16, threadCols: 8 },
	{ rows: 128, cols: 128, depth: 8, threadRows: 8, threadCols: 8 },
	{ rows: 128, cols: 64, depth: 16, threadRows: 8, threadCols: 8 },
	{ rows: 64, cols: 128, depth: 16, threadRows: 8, threadCols: 8 },
	{ rows: 128, cols: 128, depth: 32, threadRows: 8, threadCols: 8 },
	{ rows: 256, cols: 128, depth: 8, threadRows: 16, threadCols: 8 },
	{ rows: 128, cols: 256, depth: 16, threadRows: 8, threadCols: 16 },
];
const [LARGE, SMALL] = TILES;

/** Multiplications from which a product is worth tuning: models of a billion weights. */
const TUNED_FROM = 2 ** 33;
/** Multiplications of a measurement: some milliseconds on a fast GPU. */
const MEASURED = 2 ** 36;
/** The most bytes of C in a measurement. */
const SCRATCH_BYTES = 128 << 20;

/**
 * Queues C = alpha · op(A) · op(B) (+ bias) (+ residual) (+ C), with sums in f32. Values beyond the range
 * of an f16 C saturate.
 *
 * GPUs multiply tiles in workgroup memory; software adapters with subgroups of a fixed size broadcast
 * values between the lanes of a subgroup instead. Before the first large product of its class, a GPU
 * measures which tiles are fastest, see {@link TileTuning}.
 *
 * @throws {RangeError} If C is f16 and a start, a stride or the length of a row is not a multiple of four.
 */
export async function gemm(gpu: Gpu, options: Gemm): Promise<void> {
	const { m, n } = options;
	if (m === 0 || n === 0) return;
	const call: Call = {
		...options,
		a: place(options.a),
		b: place(options.b),
		c: place(options.c),
		residual: options.residual ? place(options.residual) : undefined,
	};
	const { a, b, residual } = call;
	if ([a, b, residual].some((operand) => operand?.tensor.sharesMemoryWith(call.c.tensor))) {
		throw new Error("A product cannot be written over what it is made of");
	}
	if (call.c.tensor.dtype === "f16" && !isAligned(call)) {
		throw new RangeError("Cannot write a product in f16 unless all rows come in fours");
	}
	if (suitsMatrices(gpu, options) && isWritable(call)) return await matrixGemm(gpu, call);
	const lanes = gpu.subgroupSize;
	const { rows } = BROADCAST_TILE;
	if (gpu.software && lanes > 0 && rows % lanes === 0) await broadcastGemm(gpu, call);
	else await tileGemm(gpu, call);
}

type Call = Omit<Gemm, "a" | "b" | "c" | "residual"> & {
	a: Placed;
	b: Placed;
	c: Placed;
	residual?: Placed;
};

/** Whether rows consist of whole vec4s: along n, and along k where it is the fast dimension. */
function isAligned({ layout, n, k, a, b, c, residual = c }: Call): boolean {
	const inner = layout === "TN" ? [n] : [k, n];
	return inner.concat([a, b, c, residual].flatMap(({ start, stride }) => [start, stride]))
		.every((value) => value % 4 === 0);
}

function storagesOf({ a, b, c, residual = c }: Call): Storages {
	const [x, y, z, r] = [a, b, c, residual].map(({ tensor }) => tensor.dtype);
	return { a: x, b: y, c: z, r } as Storages;
}

async function tileGemm(gpu: Gpu, call: Call): Promise<void> {
	const { m, n, k } = call;
	const tile = isAligned(call) && m * n * k >= TUNED_FROM
		? await tunedTile(gpu, call)
		: tileFor(gpu, m, n);
	await queueTiles(gpu, call, tile);
}

/** Queues a product with one tile shape. */
export async function queueTiles(gpu: Gpu, call: Call, tile: TileShape): Promise<void> {
	const { layout, m, n, k } = call;
	const storages = storagesOf(call);
	const fit = isAligned(call) ? fitOf(gpu, layout, tile, m, n, k) : "any";
	const kernel = await gpu.kernel({
		name: `gemm_${layout}_${tileName(tile)}_${fit}${storageSuffix(storages)}`,
		source: () => tileKernel(layout, tile, fit, storages),
	});
	kernel.dispatch({
		...parameters(call),
		workgroups: [Math.ceil(n / tile.cols), Math.ceil(m / tile.rows)],
	});
}

/** Multiplications from which a product is worth rounding its operands. */
const MATRICES_FROM = 2 ** 24;

/** Whether a product is computed on tensor cores. */
export function suitsMatrices(gpu: Gpu, { layout, m, n, k, mayRound }: Gemm): boolean {
	return mayRound === true && gpu.roundsProducts && layout !== "NN" &&
		m * n * k >= MATRICES_FROM && n % 4 === 0 &&
		4 * (m + MATRIX_TILE) * (n + MATRIX_TILE) < gpu.maxBinding;
}

/** Whether C and the residual can be accessed by four entries of a row at a time. */
function isWritable({ c, residual = c }: Call): boolean {
	return [c, residual].every(({ start, stride }) => start % 4 === 0 && stride % 4 === 0);
}

async function matrixGemm(gpu: Gpu, call: Call): Promise<void> {
	const { layout, m, n, k, a, b } = call;
	using ownA = new SharedFactor();
	using ownB = new SharedFactor();
	const { sharedA = ownA, sharedB = ownB } = call;
	const isSame = a.tensor === b.tensor && a.start === b.start && a.stride === b.stride && m === n;
	const round = (matrix: Placed, length: number) =>
		layout === "TN"
			? halve(gpu, "column", matrix, [k, length], [MATRIX_DEPTH, MATRIX_TILE])
			: halve(gpu, "row", matrix, [length, k], [MATRIX_TILE, MATRIX_DEPTH]);
	const left = sharedA.halves ??= await round(a, m);
	const right = isSame ? left : sharedB.halves ??= await round(b, n);
	await multiplyHalves(gpu, call, left, right);
}

/**
 * Queues a product of rounded operands, by steps `[first, first + k]` of the inner dimension for TN.
 *
 * @param left Padded to whole tiles, like `right`.
 * @param tile Rows and columns of C per workgroup; smaller in tests.
 */
export async function multiplyHalves(
	gpu: Gpu,
	call: Omit<Gemm, "a" | "b"> & { first?: number },
	left: Halves,
	right: Halves,
	tile = MATRIX_TILE,
): Promise<void> {
	const { layout, m, n, first = 0 } = call;
	const operand = ({ words, paddedCols }: Halves): Placed => (
		{ tensor: words, start: first * paddedCols, stride: paddedCols }
	);
	const placed: Call = {
		...call,
		k: Math.ceil(call.k / MATRIX_DEPTH) * MATRIX_DEPTH,
		a: operand(left),
		b: operand(right),
		c: place(call.c),
		residual: call.residual ? place(call.residual) : undefined,
	};
	const { c, r } = { ...storagesOf(placed), ...(!call.residual && { r: "f32" as const }) };
	const unit = await unitOf(gpu);
	const inPlace = c === "f32" && !call.accumulate && m % tile === 0 &&
		n % tile === 0 && placed.c.tensor.bytes <= gpu.maxBinding;
	const kernel = await gpu.kernel({
		name: `gemm_matrix_${layout}_${tile}_${unit}${inPlace ? "" : "_apart"}${
			storageSuffix({ c, r })
		}`,
		source: () => matrixKernel(layout as MatrixLayout, { c, r }, unit, inPlace, tile),
	});
	const { params, tensors } = parameters(placed);
	const [down, across] = [m, n].map((length) => Math.ceil(length / tile));
	const sums = inPlace ? [] : [gpu.empty([down * tile, across * tile])];
	kernel.dispatch({
		params,
		tensors: [...tensors, left.scales, right.scales, ...sums],
		workgroups: down * across,
	});
	gpu.free(...sums);
}

const units = new WeakMap<Gpu, Promise<number>>();

/** What offsets of fragments in arrays of vec4u count on a device, in halves. */
export function unitOf(gpu: Gpu): Promise<number> {
	let unit = units.get(gpu);
	if (!unit) units.set(gpu, unit = findUnit(gpu));
	return unit;
}

async function findUnit(gpu: Gpu): Promise<number> {
	const values = (factor: number) =>
		Float32Array.from({ length: 16 * 64 }, (_, i) => (i * factor) % 13 - 6);
	const [x, y] = [values(7), values(5)];
	const upload = (from: Float32Array) =>
		gpu.upload(new Uint16Array(Float16Array.from(from).buffer), [16, 32], "u32");
	using a = upload(x);
	using b = upload(y);
	for (const unit of [8, 1]) {
		using c = gpu.empty([16, 16]);
		const kernel = await gpu.kernel({ name: `gemm_unit_${unit}`, source: () => unitKernel(unit) });
		kernel.dispatch({ tensors: [a, b, c], workgroups: 1 });
		const found = await gpu.read(c);
		const isRight = found.every((value, at) => {
			let sum = 0;
			for (let k = 16; k < 32; k++) sum += x[(at >> 4) * 64 + k] * y[(at & 15) * 64 + k];
			return value === sum;
		});
		if (isRight) return unit;
	}
	throw new Error("The adapter's tensor cores multiply wrongly; use precision f32");
}

/** The suffix of kernel names for storage formats other than f32: `_f32-f16-f32-f32`. */
function storageSuffix(storages: Partial<Storages>): string {
	const all = Object.values(storages);
	return all.every((storage) => storage === "f32") ? "" : `_${all.join("-")}`;
}

function fitOf(
	gpu: Gpu,
	layout: GemmLayout,
	tile: TileShape,
	m: number,
	n: number,
	k: number,
): GemmFit {
	if (m % tile.rows || n % tile.cols || k % tile.depth) return "aligned";
	return isPossible(gpu, layout, tile, "paired") && k % (2 * tile.depth) === 0 ? "paired" : "whole";
}

/** Whether the adapter has enough threads and workgroup memory for a tile. */
function isPossible(gpu: Gpu, layout: GemmLayout, tile: TileShape, fit: GemmFit): boolean {
	const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
	return tileThreads(tile) <= maxComputeInvocationsPerWorkgroup &&
		tileKernelBytes(layout, tile, fit) <= maxComputeWorkgroupStorageSize;
}

function tileFor(gpu: Gpu, m: number, n: number): TileShape {
	// Fewer large tiles than this leave multiprocessors idle.
	const suits = Math.ceil(m / LARGE.rows) * Math.ceil(n / LARGE.cols) >= 128;
	return suits && isPossible(gpu, "NT", LARGE, "any") ? LARGE : SMALL;
}

/** The fastest tile for the class of a product, measured with its factors and a scratch C. */
async function tunedTile(gpu: Gpu, call: Call): Promise<TileShape> {
	const { layout, m, n, k, upperOnly } = call;
	const usual = tileFor(gpu, m, n);
	const tuning = TileTuning.of(gpu);
	if (!tuning) return usual;
	const divides = ({ rows, cols, depth }: TileShape) =>
		m % rows === 0 && n % cols === 0 && k % depth === 0;
	const candidates = [usual, ...TILES.filter((tile) => tile !== usual)].filter((tile) =>
		isPossible(gpu, layout, tile, "any") && (divides(tile) || !divides(usual))
	);
	const { a, b, c } = storagesOf(call);
	const tiles = Math.ceil(m / LARGE.rows) * Math.ceil(n / LARGE.cols);
	const productClass = [
		layout,
		a,
		b,
		c,
		k < 512 ? "shallow" : "deep",
		tiles < 2048 ? "small" : "large",
		...upperOnly ? ["upper"] : [],
		...candidates.length < TILES.length ? [`of ${candidates.map(tileName).join(" ")}`] : [],
	].join(" ");

	let scratch: Tensor | undefined;
	const rowBytes = n * DTYPE_BYTES[c];
	const rows = Math.min(m, Math.max(1, Math.floor(SCRATCH_BYTES / rowBytes / 256)) * 256);
	const times = Math.max(1, Math.round(MEASURED / (rows * n * k)));
	try {
		return await tuning.choose(productClass, candidates, async (tile) => {
			scratch ??= gpu.empty([rows, n], c);
			const measured: Call = {
				layout,
				m: rows,
				n,
				k,
				a: call.a,
				b: call.b,
				c: { tensor: scratch, start: 0, stride: n },
				upperOnly,
			};
			for (let i = 0; i < times; i++) await queueTiles(gpu, measured, tile);
		});
	} finally {
		if (scratch) {
			gpu.free(scratch);
			gpu.trim();
		}
	}
}

async function broadcastGemm(gpu: Gpu, call: Call): Promise<void> {
	const { layout, m, n, k, c, bias, upperOnly } = call;
	const lanes = gpu.subgroupSize;
	const tile = { rows: BROADCAST_TILE.rows, cols: BROADCAST_TILE.colsPerLane * lanes };
	const temporary: Tensor[] = [];
	const prepare = async (matrix: Placed, rows: number, cols: number) => {
		const isReady = matrix.tensor.dtype === "f32" && matrix.start % 4 + matrix.stride % 4 === 0;
		if (isReady) return matrix;
		const stride = Math.ceil(cols / 4) * 4; // whole vec4s
		const tensor = gpu.empty([rows, stride]);
		temporary.push(tensor);
		await copyRegion(gpu, { ...matrix, rows, cols }, tensor, stride);
		return { tensor, start: 0, stride };
	};
	const a = layout === "TN" ? await prepare(call.a, k, m) : await prepare(call.a, m, k);
	const b = layout === "NT" ? await prepare(call.b, n, k) : await prepare(call.b, k, n);
	const grid: [number, number] = [Math.ceil(n / tile.cols), Math.ceil(m / tile.rows)];
	const whole = m % tile.rows === 0 && n % tile.cols === 0 &&
		c.tensor.dtype === "f32" && c.start % 4 + c.stride % 4 === 0;
	const plain = (call.alpha ?? 1) === 1 && !call.residual && !call.accumulate;
	const inPlace = whole && plain;
	let product = c;
	if (!inPlace) {
		const stride = grid[0] * tile.cols;
		const tensor = gpu.empty([grid[1] * tile.rows, stride]);
		temporary.push(tensor);
		product = { tensor, start: 0, stride };
	}
	const kernel = await gpu.kernel({
		name: `gemm_broadcast_${layout}_${lanes}`,
		source: () => broadcastKernel(layout, lanes),
	});
	const fused = inPlace ? bias : undefined;
	const { params } = parameters({ layout, m, n, k, a, b, c: product, bias: fused, upperOnly });
	kernel.dispatch({
		params,
		tensors: [a.tensor, b.tensor, product.tensor, fused ?? a.tensor],
		workgroups: grid,
	});
	if (!inPlace) await finish(gpu, { ...call, a: product, b: product });
	gpu.free(...temporary);
}

/** Queues C = alpha · A (+ bias) (+ residual) (+ C) for a computed product A. */
async function finish(gpu: Gpu, call: Call): Promise<void> {
	const { m, n, a, c, residual = c } = call;
	const aligned = [a, c, residual].every(({ start, stride }) => start % 4 + stride % 4 === 0) &&
		n % 4 === 0;
	const flags = flagsOf(call) & ~GEMM_FLAGS.upper;
	const { c: result, r } = storagesOf(call);
	const kernel = await gpu.kernel({
		name: `gemm_finish_${aligned ? "aligned" : "any"}_${flags}${storageSuffix({ c: result, r })}`,
		source: () => finishKernel(aligned, flags, { c: result, r }),
	});
	kernel.dispatch({ ...parameters(call), workgroups: [Math.ceil(n / 64), Math.ceil(m / 4)] });
}

function flagsOf({ bias, residual, accumulate, upperOnly }: Call): number {
	return (bias ? GEMM_FLAGS.bias : 0) |
		(residual ? GEMM_FLAGS.residual : 0) |
		(accumulate ? GEMM_FLAGS.accumulate : 0) |
		(upperOnly ? GEMM_FLAGS.upper : 0);
}

function parameters(call: Call): { params: Uint8Array; tensors: Tensor[] } {
	const { m, n, k, a, b, c, bias, residual, alpha = 1 } = call;
	const flags = flagsOf(call);
	const r = residual ?? { tensor: a.tensor, start: 0, stride: 0 };
	return {
		params: uniform(
			[m, n, k, flags, a.start, a.stride, b.start, b.stride, c.start, c.stride, r.start, r.stride],
			[alpha],
		),
		tensors: [a.tensor, b.tensor, c.tensor, bias ?? a.tensor, r.tensor],
	};
}
