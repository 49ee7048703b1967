import type { Tensor } from "../../gpu/tensor.ts";
import type { Activations } from "../activations.ts";
import type { Decoder } from "../decoder.ts";
import type { Window } from "../ops/op.ts";

/**
 * Runs batches through all decoder layers, with one layer's weights on the GPU at a time.
 *
 * @param windows The attention context of each batch.
 * @param finish The head's input for a batch, from its last activations; kept in place of them.
 * @param progress Called after each batch of each layer.
 * @returns Returns the head's input for a batch, owned by the caller; can be called repeatedly.
 */
export async function runLayers(
	decoder: Decoder,
	activations: Activations,
	windows: readonly Window[],
	finish: (batch: number) => Promise<Tensor>,
	progress: () => Promise<void>,
): Promise<(batch: number) => Promise<Tensor>> {
	const { layers } = decoder.model.architecture;
	for (let layer = 0; layer < layers; layer++) {
		const weights = await decoder.loadLayer(layer, { packed: true });
		for (const [batch, window] of windows.entries()) {
			const registers = await activations.load(batch);
			await decoder.run(weights, registers, window);
			await activations.keep(batch, 0, registers);
			if (batch === windows.length - 1 && layer + 1 < layers) decoder.prefetchLayer(layer + 1);
			await progress();
		}
		weights[Symbol.dispose]();
	}
	for (const batch of windows.keys()) {
		await activations.keep(batch, 0, new Map([["hidden", await finish(batch)]]));
	}
	return async (batch) => (await activations.load(batch)).get("hidden")!;
}
