import { DenseWeight } from "../codecs/dense/weight.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Place } from "./places.ts";
import type { StoredTensors } from "./stored_tensors.ts";

/**
 * A projection between the width of the embedding and that of the layers.
 *
 * @param x f32 `[tokens, cols]`; freed.
 * @param place The projection matrix `[rows, cols]`; absent if the model has none.
 * @returns f32 `[tokens, rows]`, owned by the caller; `x` itself without a matrix.
 * @throws {UserError} If the matrix is missing, has another shape or holds NaN or infinite values.
 */
export async function project(
	stored: StoredTensors,
	place: Place | undefined,
	x: Tensor,
): Promise<Tensor> {
	if (!place) return x;
	using _ = x;
	using projection = new DenseWeight(await stored.checked(place));
	return await projection.multiply(x);
}
