import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import overRow from "../reduce/reduce_row.wgsl" with { type: "text" };
import source from "./fit_rows.wgsl" with { type: "text" };
import { rowShape } from "./row_shape.ts";

/**
 * Fits `planes` planes of mean ± scale to the salient columns of each row.
 *
 * @param weight f32 `[rows, cols]`.
 * @param salient u32 `[cols]`, 0 or 1.
 * @returns f32 `[rows, 2 * planes]`: mean and scale of each plane, owned by the caller.
 */
export async function fitSalient(
	gpu: Gpu,
	weight: Tensor,
	salient: Tensor,
	planes: number,
): Promise<Tensor> {
	const fit = gpu.empty([weight.shape[0], 2 * planes]);
	await fitRows(gpu, weight, salient, salient, fit, { PLANES: planes, ZONES: 0 });
	return fit;
}

/**
 * Fits one plane of mean ± scale to each zone of the columns that are not salient.
 *
 * @param zones Bit mask of the high zone, u32 `[rows, ⌈cols / 32⌉]`; absent with one zone.
 * @returns f32 `[rows, 2 * zones]`: mean and scale of the low and the high zone, owned by the caller.
 */
export async function fitZones(
	gpu: Gpu,
	weight: Tensor,
	salient: Tensor,
	zones: Tensor | undefined,
): Promise<Tensor> {
	const fit = gpu.empty([weight.shape[0], zones ? 4 : 2]);
	await fitRows(gpu, weight, salient, zones ?? salient, fit, { PLANES: 1, ZONES: zones ? 2 : 1 });
	return fit;
}

async function fitRows(
	gpu: Gpu,
	weight: Tensor,
	salient: Tensor,
	zones: Tensor,
	fit: Tensor,
	form: { PLANES: number; ZONES: number },
): Promise<void> {
	const [rows, cols] = weight.shape;
	const shape = rowShape(gpu, cols);
	const constants = { ...shape, ...form };
	const kernel = await gpu.kernel({ name: "fit_rows", source: overRow + source, constants });
	kernel.dispatch({
		params: uniform([rows, cols]),
		tensors: [weight, salient, zones, fit],
		workgroups: Math.ceil(rows / shape.ROWS),
	});
}
