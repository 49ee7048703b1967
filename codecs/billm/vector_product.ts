import type { Gpu } from "../../gpu/device.ts";
import activate from "../../gpu/kernels/elementwise/activate.wgsl" with { type: "text" };
import { ACTIVATIONS } from "../../gpu/kernels/elementwise/activation.ts";
import { runOf, transformConstants } from "../../gpu/kernels/rotation/rotation_source.ts";
import { vectorInput } from "../../gpu/kernels/vector_source.ts";
import { shapeText, type Tensor } from "../../gpu/tensor.ts";
import type { InputTransform, VectorOptions } from "../codec.ts";
import type { BillmGroupTensors } from "./group.ts";
import {
	billmVectorBytes,
	billmVectorKernel,
	type BillmVectorShape,
} from "./vector_product_source.ts";
import { formName, formOf, UNIT_COLS, unitsOf } from "./tensors.ts";

/** Target number of workgroups: one per multiprocessor of an H100, where this was measured. */
const WORKGROUPS = 132;
/**
 * The greatest number of subgroups that split the columns, if tables serve many steps of rows or one.
 * With 22, the 11008 columns of a LLaMA-7B (86 units) take four passes.
 */
const SPLITS = { many: 16, one: 22 };
/**
 * The number of steps of rows from which reusing tables is preferred to splitting the columns further.
 */
const WORTHWHILE_STEPS = 4;

/** Whether {@link billmVectorProduct} supports this block size on this adapter. */
export function multipliesVectors(gpu: Gpu, blockSize: number): boolean {
	const { subgroupSize } = gpu;
	return subgroupSize >= 8 && subgroupSize <= 64 && blockSize % UNIT_COLS === 0;
}

/** Whether {@link billmVectorProduct} can transform its input in this way: runs must be within units. */
export function transformsVectors(transform: InputTransform): boolean {
	return runOf(transform) <= UNIT_COLS;
}

/**
 * The product of one vector with each linear layer of a group, in one dispatch.
 *
 * @param x f32 `[1, cols]`, or `[1, up + cols]` for a gated activation.
 * @param options Bias and residual are f32 `[1, rows]`; a transform must be one that
 *   {@link transformsVectors} allows.
 * @returns f32 `[1, rows]`, owned by the caller; the layers' products begin at `group.starts`.
 * @throws {RangeError} If the shape of x does not match.
 */
export async function billmVectorProduct(
	gpu: Gpu,
	x: Tensor,
	group: BillmGroupTensors,
	{ source, transform, bias, residual }: VectorOptions = {},
): Promise<Tensor> {
	const { rows, cols, blockSize, bits, scales, factors, places, starts } = group;
	const up = source?.op === "activation" ? source.up : undefined;
	if (x.size !== (up ?? 0) + cols) {
		throw new RangeError(
			`Cannot multiply ${shapeText(x.shape)} with packed weights of ${shapeText([rows, cols])}`,
		);
	}
	const form = formOf(group);
	const units = unitsOf(group);
	const shape = shapeFor(gpu, rows, units);
	const blockUnits = blockSize / UNIT_COLS;
	const input = vectorInput(source);
	const xRun = transform && runOf(transform);
	// A workgroup must not span two layers.
	const { lanes, splits, steps, turns } = shape;
	const run = steps * lanes;
	const [, part1 = rows, part2 = rows] = starts;
	const group1 = Math.ceil(part1 / run);
	const group2 = group1 + Math.ceil((part2 - part1) / run);
	const kernel = await gpu.kernel({
		name: `packed_vector_${formName(form)}_${blockUnits}_${splits}x${steps}` +
			`${turns ? "_turns" : ""}_${input}${xRun === undefined ? "" : `_runs_of_${xRun}`}`,
		source: () =>
			(source?.op === "activation" ? activate : "") +
			billmVectorKernel(form, shape, input, blockUnits, xRun),
		constants: {
			...{ ROWS: rows, COLS: cols, UNITS: units, BLOCKS: Math.ceil(cols / blockSize) },
			...{ PART1: part1, PART2: part2, GROUP1: group1, GROUP2: group2 },
			...{ HAS_BIAS: +(bias !== undefined), HAS_RESIDUAL: +(residual !== undefined) },
			...(source?.op === "activation" && { KIND: ACTIVATIONS[source.name] }),
			...(up !== undefined && { UP: up }),
			...(source?.op === "rms" && { EPSILON: source.epsilon }),
			...(transform && transformConstants(transform)),
		},
	});
	const y = gpu.empty([1, rows]);
	kernel.dispatch({
		tensors: [
			...[x, bits, scales, factors ?? scales, places, bias ?? x, residual ?? x],
			...(source?.op === "rms" ? [source.weight] : []),
			y,
		],
		workgroups: group2 + Math.ceil((rows - part2) / run),
	});
	return y;
}

/**
 * The work distribution. A subgroup's tables serve all rows of its workgroup, so there are no more
 * workgroups than saturate a GPU, as far as workgroup memory holds the sums of that many rows.
 */
export function shapeFor(
	gpu: Pick<Gpu, "subgroupSize" | "subgroupBarriers" | "device">,
	rows: number,
	units: number,
): BillmVectorShape {
	const { subgroupSize: lanes, subgroupBarriers, device: { limits } } = gpu;
	const wanted = Math.ceil(rows / (lanes * WORKGROUPS));
	const fits = (splits: number, steps: number) =>
		splits * lanes <= limits.maxComputeInvocationsPerWorkgroup &&
		billmVectorBytes({ lanes, splits, steps }) <= limits.maxComputeWorkgroupStorageSize;
	let most = wanted > 1 ? SPLITS.many : SPLITS.one;
	while (most > 1 && !fits(most, Math.min(wanted, WORTHWHILE_STEPS))) most--;
	const turns = Math.ceil(units / most);
	const splits = Math.ceil(units / turns);
	let mostSteps = splits;
	while (mostSteps > 1 && !fits(splits, mostSteps)) mostSteps--;
	const steps = Math.ceil(wanted / Math.ceil(wanted / mostSteps)); // so that workgroups are equally long
	return { lanes, splits, steps, turns: turns > 1, subgroupBarriers };
}
