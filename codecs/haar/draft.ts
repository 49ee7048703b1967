import type { Gpu } from "../../gpu/device.ts";
import type { Draft, SearchArguments } from "../codec.ts";
import { haar } from "./codec.ts";
import type { HaarHost } from "./host.ts";
import { emptyHaar, freeHaar, type HaarLayout, type HaarTensors } from "./layout.ts";
import { searchHaar } from "./search.ts";

/** The draft of a linear layer of the codec haar, which stages quantize block by block. */
export class HaarDraft implements Draft<HaarHost> {
	readonly codec = haar;
	readonly linear: HaarTensors;

	constructor(readonly gpu: Gpu, layout: HaarLayout) {
		this.linear = emptyHaar(gpu, layout);
	}

	/** Rounds nothing: the scales are f16 values already. */
	async download(): Promise<HaarHost> {
		const { gpu } = this;
		const { codes, scales, mask, ...layout } = this.linear;
		return {
			...layout,
			codes: await gpu.read(codes, "u32"),
			scales: await gpu.read(scales),
			mask: await gpu.read(mask, "u32"),
		};
	}

	search(search: SearchArguments): Promise<void> {
		return searchHaar(this.gpu, this.linear, search);
	}

	[Symbol.dispose](): void {
		freeHaar(this.gpu, this.linear);
	}
}
