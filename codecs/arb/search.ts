import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { SearchArguments } from "../codec.ts";
import { computeResidual } from "../row_search/residual.ts";
import { type RowSearch, searchRowsInTurns } from "../row_search/row_search.ts";
import { arbPlanes, arbScales, type ArbTensors } from "./layout.ts";
import candidates from "./row_candidates_arb.wgsl" with { type: "text" };

/** Tabu search for the bits of each row, with fixed scales; `quantized` and the bits are updated. */
export async function searchArb(
	gpu: Gpu,
	linear: ArbTensors,
	{ target, hessian, quantized, rounds, moves, pause }: SearchArguments,
): Promise<void> {
	const search = searchOf(linear);
	using residual = gpu.empty(target.shape);
	const recompute = () => computeResidual(gpu, target, hessian, quantized, residual);
	for (let round = 0; round < rounds; round++) {
		await recompute();
		const count = Math.ceil(moves * linear.cols);
		const matrices: [Tensor, Tensor, Tensor] = [hessian, residual, quantized];
		await searchRowsInTurns(gpu, search, ...matrices, count, round, recompute, pause);
	}
}

function searchOf(linear: ArbTensors): RowSearch {
	const { cols, blockSize, columnScales, bitmap, mask, scales, columns, codes } = linear;
	return {
		name: "arb",
		candidates,
		constants: {
			...{ BLOCK: blockSize, BLOCKS: Math.ceil(cols / blockSize), WORDS: bitWords(cols) },
			...{ SCALES: arbScales(linear), PLANES: arbPlanes(linear) },
			...{ COLUMN_SCALES: Number(columnScales), BITMAP: Number(bitmap) },
		},
		tensors: [mask, scales, columns, codes],
	};
}
