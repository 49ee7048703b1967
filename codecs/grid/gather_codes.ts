import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import source from "./gather_codes.wgsl" with { type: "text" };

/**
 * Puts codes without salient weights in another order: place c of a row gets the code at `places[c]`.
 *
 * @param codes u32 `[rows, ⌈cols / 32⌉, bits]`.
 * @param places A permutation of the places, u32 `[cols]`.
 * @param target u32 `[rows, ⌈cols / 32⌉, bits]`, not `codes`.
 */
export async function gatherCodes(
	gpu: Gpu,
	codes: Tensor,
	places: Tensor,
	target: Tensor,
): Promise<void> {
	const [rows, , bits] = codes.shape;
	const [cols] = places.shape;
	const kernel = await gpu.kernel({ name: "gather_codes", source, constants: { BITS: bits } });
	kernel.dispatch({
		params: uniform([rows, cols, bitWords(cols)]),
		tensors: [codes, places, target],
		workgroups: Math.ceil(rows * bitWords(cols) / 64),
	});
}
