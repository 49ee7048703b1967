import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { StackChoice, StackedWeights } from "../codec.ts";
import { type BillmGroupTensors, freeGroup, uploadGroup } from "./group.ts";
import { unpackRows } from "./matmul.ts";
import { type BillmSource, formName, formOf, UNIT_COLS, unitsOf } from "./tensors.ts";
import { shapeFor } from "./vector_product.ts";
import { billmVectorKernel } from "./vector_product_source.ts";

/** What BiLLM layers of experts have in common to be stacked. */
export function billmKind({ cols, blockSize, zones, planes, codes }: BillmSource): string {
	return [cols, blockSize, zones, planes, codes !== undefined].join(" ");
}

/** BiLLM layers of experts, one above the other; owns their tensors. */
export class BillmStack implements StackedWeights {
	private constructor(
		readonly gpu: Gpu,
		readonly rows: number,
		readonly tensors: BillmGroupTensors,
	) {}

	/** Uploads layers of one {@link billmKind} and shape. */
	static async upload(gpu: Gpu, hosts: readonly BillmSource[]): Promise<BillmStack> {
		return new BillmStack(gpu, hosts[0].rows, await uploadGroup(gpu, hosts));
	}

	get cols(): number {
		return this.tensors.cols;
	}

	async multiplyVectors(
		x: Tensor,
		{ routing, places: expertPlaces, vectors, perRow }: StackChoice,
		y: Tensor,
		bias?: Tensor,
	): Promise<void> {
		const { gpu, rows, tensors } = this;
		const { cols, blockSize, bits, scales, factors, places, starts } = tensors;
		const form = formOf(tensors);
		const units = unitsOf(tensors);
		// As if all vectors were one of more rows, so that workgroups are as many.
		const shape = shapeFor(gpu, rows * vectors, units);
		const { lanes, splits, steps, turns } = shape;
		const blockUnits = blockSize / UNIT_COLS;
		const kernel = await gpu.kernel({
			name: `packed_stack_${formName(form)}_${blockUnits}_${splits}x${steps}` +
				`${turns ? "_turns" : ""}`,
			source: () => billmVectorKernel(form, shape, "plain", blockUnits, undefined, true),
			constants: {
				...{ ROWS: rows, COLS: cols, UNITS: units, BLOCKS: Math.ceil(cols / blockSize) },
				HAS_BIAS: Number(bias !== undefined),
				STRIDE: starts.length > 1 ? starts[1] : 0,
				...{ K: routing.shape[1] / 2, PER_ROW: perRow },
			},
		});
		kernel.dispatch({
			tensors: [x, bits, scales, factors ?? scales, places, bias ?? x, routing, expertPlaces, y],
			workgroups: [Math.ceil(rows / (steps * lanes)), 1, vectors],
		});
	}

	async unpack(place: number, out: Tensor): Promise<void> {
		await unpackRows(this.gpu, this.tensors.weights[place], 0, this.rows, out);
	}

	[Symbol.dispose](): void {
		freeGroup(this.gpu, this.tensors);
	}
}
