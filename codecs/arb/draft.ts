import type { Gpu } from "../../gpu/device.ts";
import type { Draft, SearchArguments } from "../codec.ts";
import { arb } from "./codec.ts";
import type { ArbHost } from "./host.ts";
import { type ArbLayout, type ArbTensors, emptyArb, freeArb } from "./layout.ts";
import { searchArb } from "./search.ts";

/** The draft of a linear layer of the codec arb, which stages quantize block by block. */
export class ArbDraft implements Draft<ArbHost> {
	readonly codec = arb;
	readonly linear: ArbTensors;

	constructor(readonly gpu: Gpu, layout: ArbLayout) {
		this.linear = emptyArb(gpu, layout);
	}

	/** Rounds nothing: the scales are f16 values already. */
	async download(): Promise<ArbHost> {
		const { gpu } = this;
		const { codes, scales, columns, mask, ...layout } = this.linear;
		const all = await gpu.read(columns);
		return {
			...layout,
			codes: await gpu.read(codes, "u32"),
			scales: await gpu.read(scales),
			columns: all.slice(0, layout.columnScales ? 4 * layout.cols : 0),
			mask: await gpu.read(mask, "u32"),
		};
	}

	search(search: SearchArguments): Promise<void> {
		return searchArb(this.gpu, this.linear, search);
	}

	[Symbol.dispose](): void {
		freeArb(this.gpu, this.linear);
	}
}
