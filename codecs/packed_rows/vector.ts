import type { Gpu } from "../../gpu/device.ts";
import { MAX_GROUPS } from "../../gpu/kernel.ts";
import activate from "../../gpu/kernels/elementwise/activate.wgsl" with { type: "text" };
import { ACTIVATIONS } from "../../gpu/kernels/elementwise/activation.ts";
import { runOf, transformConstants } from "../../gpu/kernels/rotation/rotation_source.ts";
import { vectorInput } from "../../gpu/kernels/vector_source.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { InputTransform, VectorOptions } from "../codec.ts";
import type { PackedRows } from "./packed_rows.ts";
import {
	type RowCode,
	rowVectorBytes,
	rowVectorKernel,
	type RowVectorShape,
} from "./vector_source.ts";

/** The most threads of a workgroup: 256, as more would leave fewer workgroups than multiprocessors. */
const MOST_THREADS = 256;
/**
 * The most entries that all workgroups together transform. An H200 has 132 multiprocessors; a subgroup
 * takes about 25 clock cycles for 128 entries, so these take 4 µs, a dispatch 8.
 */
const MOST_TRANSFORMED = 4.5e6;
/** Threads of a workgroup on a software adapter without subgroups. */
const SOFTWARE_THREADS = 16;

/**
 * The product of one vector with each linear layer, in one dispatch; or of a few tokens with a single
 * one, which reads the packed weight once per token.
 *
 * @param x f32 `[tokens, cols]`; with a source `[1, cols]`, or `[1, up + cols]` for a gated activation.
 * @param options Bias is f32 `[rows]`, residual f32 `[tokens, rows]`; a transform must be one that
 *   {@link transformsRows} allows.
 * @returns f32 `[tokens, rows]`, owned by the caller; the layers' products begin at `starts`.
 * @throws {RangeError} If the shape of x does not match.
 */
export async function multiplyRows(
	gpu: Gpu,
	x: Tensor,
	layers: PackedRows,
	{ source, transform, bias, residual }: VectorOptions = {},
): Promise<Tensor> {
	const { rows, cols, starts, order, tensors } = layers;
	const up = source?.op === "activation" ? source.up : undefined;
	const tokens = source ? 1 : x.shape[0];
	if (x.size !== (up ?? 0) + tokens * cols) {
		throw new RangeError(
			`Cannot multiply ${shapeText(x.shape)} with packed weights of ${shapeText([rows, cols])}`,
		);
	}
	const code = layers.code(gpu, rows);
	const shape = rowShape(gpu, code, cols);
	const { threads, lanes, bands = 1, turns = 1 } = shape;
	const input = vectorInput(source);
	const ordered = order !== undefined;
	const xRun = transform && runOf(transform);
	const aligned = (!ordered || xRun !== undefined) && cols % 4 === 0 && (up ?? 0) % 4 === 0;
	const chunks = Math.ceil(cols / code.chunk);
	// A workgroup must not span two layers.
	const [, part1 = rows, part2 = rows] = starts;
	const run = bands * code.rows;
	const group1 = Math.ceil(part1 / run);
	const group2 = group1 + Math.ceil((part2 - part1) / run);
	const kernel = await gpu.kernel({
		name: `row_vector_${code.name}_${code.rows}_${threads}${lanes ? `_of_${lanes}` : ""}` +
			`${bands > 1 ? `_bands_${bands}` : ""}${turns > 1 ? `_turns_${turns}` : ""}_${input}` +
			`${ordered ? "_ordered" : aligned ? "" : "_any"}` +
			`${xRun === undefined ? "" : `_runs_of_${xRun}`}`,
		source: () =>
			(source?.op === "activation" ? activate : "") +
			rowVectorKernel(code, shape, { input, ordered, aligned, run: xRun }),
		constants: {
			...{
				ROWS: rows,
				COLS: cols,
				CHUNKS: chunks,
				PANELS: Math.ceil(chunks / (threads / bands * turns)),
			},
			...{ PART1: part1, PART2: part2, GROUP1: group1, GROUP2: group2 },
			...{ HAS_BIAS: +(bias !== undefined), HAS_RESIDUAL: +(residual !== undefined) },
			...(order && { ORDER_QUADS: order.shape[1] / 4 }),
			...(source?.op === "activation" && { KIND: ACTIVATIONS[source.name] }),
			...(up !== undefined && { UP: up }),
			...(source?.op === "rms" && { EPSILON: source.epsilon }),
			...(transform && transformConstants(transform)),
			...layers.constants,
		},
	});
	const y = gpu.empty([tokens, rows]);
	const groups = group2 + Math.ceil((rows - part2) / run);
	kernel.dispatch({
		tensors: [
			...[x, ...tensors, ...(order ? [order] : []), bias ?? x, residual ?? x],
			...(source?.op === "rms" ? [source.weight] : []),
			y,
		],
		workgroups: [Math.min(groups, MAX_GROUPS), Math.ceil(groups / MAX_GROUPS), tokens],
	});
	return y;
}

/**
 * Whether {@link multiplyRows} can transform its input in this way, in less time than a dispatch takes. Runs
 * must be within the entries that a subgroup prepares at a time, and x in one panel if columns have an
 * order of their own.
 */
export function transformsRows(
	gpu: Gpu,
	layers: PackedRows,
	transform: InputTransform,
): boolean {
	const { rows, cols, order } = layers;
	const code = layers.code(gpu, rows);
	const { threads, lanes, bands = 1, turns = 1 } = rowShape(gpu, code, cols);
	const isOnePanel = cols <= threads / bands * turns * code.chunk;
	const groups = Math.ceil(rows / (bands * code.rows));
	return lanes > 0 && runOf(transform) <= 4 * lanes && (order === undefined || isOnePanel) &&
		groups * cols <= MOST_TRANSFORMED;
}

/** Threads of a subgroup, or 0 if products do not use subgroups. */
function lanesOf({ subgroupSize }: Pick<Gpu, "subgroupSize">): number {
	return subgroupSize >= 4 && subgroupSize <= 64 ? subgroupSize : 0;
}

/**
 * The work distribution: as few panels of x as threads and workgroup memory allow, and no more threads
 * than these panels need.
 */
export function rowShape(
	gpu: Pick<Gpu, "software" | "subgroupSize" | "device">,
	code: Pick<RowCode, "chunk" | "rows" | "bands" | "threads" | "turns" | "bytes" | "isDense">,
	cols: number,
): RowVectorShape {
	const { software, device: { limits } } = gpu;
	const { bands = 1, threads: wantedThreads = MOST_THREADS } = code;
	const lanes = lanesOf(gpu);
	if (software) return { threads: bands * (lanes || SOFTWARE_THREADS), lanes, bands };
	const unit = lanes || 32;
	const mostThreads = Math.min(wantedThreads, limits.maxComputeInvocationsPerWorkgroup);
	const fits = (columns: number, turns: number) =>
		bands * columns <= mostThreads &&
		rowVectorBytes(code, { threads: bands * columns, lanes, bands, turns }) <=
			limits.maxComputeWorkgroupStorageSize;
	const next = (columns: number) => lanes ? columns + unit : 2 * columns;
	let most = unit; // threads of a band
	while (fits(next(most), 1)) most = next(most);
	const chunks = Math.ceil(cols / code.chunk);
	const wanted = Math.ceil(chunks / Math.ceil(chunks / most));
	let columns = unit;
	while (columns < wanted) columns = next(columns);
	const ofThread = Math.ceil(chunks / columns);
	let turns = Math.min(code.turns ?? 1, ofThread);
	while (turns > 1 && !fits(columns, turns)) turns--;
	turns = Math.ceil(ofThread / Math.ceil(ofThread / turns)); // so that panels are equally long
	return { threads: bands * columns, lanes, bands, turns };
}
