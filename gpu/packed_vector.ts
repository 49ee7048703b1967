import activate from "./activate.wgsl" with { type: "text" };
import { type ActivationName, ACTIVATIONS } from "./activation.ts";
import type { Gpu } from "./device.ts";
import { uniform } from "./kernel.ts";
import type { PackedGroup } from "./packed_group.ts";
import type { Addends } from "./packed_matvec.ts";
import {
  packedVectorBytes,
  packedVectorKernel,
  type PackedVectorShape,
  VECTOR_FLAGS,
  type VectorInput,
} from "./packed_vector_source.ts";
import { formName, formOf, UNIT_COLS, unitsOf } from "./packed_weight.ts";
import { shapeText, type Tensor } from "./tensor.ts";

/** From so many rows on a thread takes two: there are enough of them to keep a GPU busy. */
const TWO_ROWS_FROM = 16384;
/** Pieces of work, 32 rows and a share of the columns each, that keep a GPU busy. */
const BUSY = 2600;

/** What is multiplied in place of a vector itself, made of it on the way. */
export type VectorSource =
  /** Its RMS norm. */
  | { op: "rms"; weight: Tensor; epsilon: number }
  /** An activation function of it; with `up`, of its first half times its second half, which begins there. */
  | { op: "activation"; name: ActivationName; up?: number };

/** Whether {@link packedVectorProduct} can multiply weights of such blocks on this adapter. */
export function multipliesVectors(gpu: Gpu, blockSize: number): boolean {
  const { subgroupSize, software } = gpu;
  return !software && subgroupSize >= 8 && subgroupSize <= 64 && blockSize % UNIT_COLS === 0 &&
    packedVectorBytes(shapeFor(gpu, 32)) <= gpu.device.limits.maxComputeWorkgroupStorageSize;
}

/**
 * The product of one vector with each linear layer of a group, in one dispatch.
 *
 * @param x f32 `[1, cols]`, or with a second half `[1, up + cols]`.
 * @param options What is added to the product, bias and residual, is f32 `[1, rows]`.
 * @returns f32 `[1, rows]`, owned by the caller; the layers' products begin at `group.starts`.
 * @throws {RangeError} If x does not fit.
 */
export async function packedVectorProduct(
  gpu: Gpu,
  x: Tensor,
  group: PackedGroup,
  { source, bias, residual }: Addends & { source?: VectorSource } = {},
): Promise<Tensor> {
  const { rows, cols, blockSize, bits, scales, factors, salient, columns, starts } = group;
  const up = source?.op === "activation" ? source.up : undefined;
  if (x.size !== (up ?? 0) + cols) {
    throw new RangeError(
      `Cannot multiply ${shapeText(x.shape)} with packed weights of ${shapeText([rows, cols])}`,
    );
  }
  const form = formOf(group);
  const shape = shapeFor(gpu, rows);
  const blockUnits = blockSize / UNIT_COLS;
  const input: VectorInput = !source
    ? "plain"
    : source.op === "rms"
    ? "rms"
    : up === undefined
    ? "activation"
    : "gated";
  const isActivation = source?.op === "activation";
  const kernel = await gpu.kernel({
    name: `packed_vector_${formName(form)}_${blockUnits}_${shape.rows}x${shape.splits}_${input}`,
    source: () =>
      (isActivation ? activate : "") + packedVectorKernel(form, shape, input, blockUnits),
    constants: isActivation ? { KIND: ACTIVATIONS[source.name] } : undefined,
  });
  const y = gpu.empty([1, rows]);
  const [, part1 = rows, part2 = rows] = starts;
  const blocks = Math.ceil(cols / blockSize);
  const [, salientStride] = salient.shape;
  const flags = (bias ? VECTOR_FLAGS.bias : 0) | (residual ? VECTOR_FLAGS.residual : 0);
  const isNorm = source?.op === "rms";
  kernel.dispatch({
    params: uniform(
      [
        ...[rows, cols, unitsOf(group), blocks, flags, part1, part2],
        ...[salientStride, up ?? 0],
      ],
      [isNorm ? source.epsilon : 0],
    ),
    tensors: [
      ...[x, bits, scales, factors ?? scales, salient, columns, bias ?? x, residual ?? x],
      ...(isNorm ? [source.weight] : []),
      y,
    ],
    workgroups: Math.ceil(rows / (shape.lanes * shape.rows)),
  });
  return y;
}

/** Rows of a thread and shares of the columns; measured on an H100. */
function shapeFor(gpu: Gpu, count: number): PackedVectorShape {
  const { subgroupSize: lanes, subgroupBarriers } = gpu;
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
  const shape = { lanes, rows: count >= TWO_ROWS_FROM ? 2 : 1, splits: 4, subgroupBarriers };
  const mayDouble = () =>
    shape.splits < 16 && count / 32 * shape.splits < BUSY &&
    2 * lanes * shape.splits <= maxComputeInvocationsPerWorkgroup &&
    packedVectorBytes({ ...shape, splits: 2 * shape.splits }) <= maxComputeWorkgroupStorageSize;
  while (mayDouble()) shape.splits *= 2;
  return shape;
}
