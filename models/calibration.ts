import type { Gpu } from "../gpu/device.ts";
import type { Activations } from "./activations.ts";

/** The calibration data and their activations. */
export interface Calibration {
	/** The windows of each batch. */
	batches: Int32Array[][];
	/** The activations of the batches between decoder layers. */
	activations: Activations;
	/** Those of the original model, if a stage wants them; as the others before the first layer. */
	original?: Activations;
	/** Tokens of a window. */
	length: number;
	/** Windows in all batches. */
	sequences: number;
	/**
	 * "layer": all Hessians of a decoder layer come from its original weights; a second pass runs the
	 * quantized layer. "module": one pass, in which each group of linear layers sees the quantized groups
	 * before it.
	 */
	order: "layer" | "module";
}

/** The most batches that are queued on a GPU before the host waits. */
const BATCHES_AHEAD = 32;

/**
 * Limits how far the host runs ahead of the GPU. On a software adapter it does not run ahead at all.
 *
 * @param done The number of batches queued so far.
 */
export async function paceBatches(gpu: Gpu, done: number): Promise<void> {
	if (gpu.software || done % BATCHES_AHEAD === 0) await gpu.idle();
}

/** Batches of windows with about `tokens` tokens each. */
export function batchWindows(windows: Int32Array[], tokens: number): Int32Array[][] {
	const perBatch = Math.max(1, Math.floor(tokens / windows[0].length));
	const batches: Int32Array[][] = [];
	for (let i = 0; i < windows.length; i += perBatch) batches.push(windows.slice(i, i + perBatch));
	return batches;
}
