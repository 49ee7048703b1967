import type { Gpu } from "../../gpu/device.ts";
import type { Draft } from "../codec.ts";
import { trellis } from "./codec.ts";
import type { TrellisHost } from "./store.ts";
import { emptyTrellis, freeTrellis, type TrellisLayout, type TrellisTensors } from "./trellis.ts";

/** The draft of a trellis layer. */
export class TrellisDraft implements Draft<TrellisHost> {
	readonly codec = trellis;
	readonly tensors: TrellisTensors;

	constructor(readonly gpu: Gpu, layout: TrellisLayout) {
		this.tensors = emptyTrellis(gpu, layout);
	}

	/** Rounds nothing: the scales are f16 values already. */
	async download(): Promise<TrellisHost> {
		const { gpu, tensors: { stream, scales, order, ...layout } } = this;
		return {
			...layout,
			stream: await gpu.read(stream, "u32"),
			scales: await gpu.read(scales),
			...(order && { order: await gpu.read(order, "u32") }),
		};
	}

	[Symbol.dispose](): void {
		freeTrellis(this.gpu, this.tensors);
	}
}
