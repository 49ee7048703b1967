import type { Gpu } from "../../gpu/device.ts";
import type { Draft } from "../codec.ts";
import { grid } from "./codec.ts";
import { emptyGrid, freeGrid, type GridLayout, type LinearGrid } from "./grid.ts";
import type { GridHost } from "./store.ts";

/** The draft of a grid layer, which stages quantize block by block. */
export class GridDraft implements Draft<GridHost> {
	readonly codec = grid;
	readonly codes: LinearGrid;

	constructor(readonly gpu: Gpu, layout: GridLayout) {
		this.codes = emptyGrid(gpu, layout);
	}

	/** Rounds nothing: the scales are f16 values already. */
	download(): Promise<GridHost> {
		return downloadGrid(this.codes);
	}

	[Symbol.dispose](): void {
		freeGrid(this.gpu, this.codes);
	}
}

/** Downloads a grid layer. */
export async function downloadGrid(linear: LinearGrid): Promise<GridHost> {
	const { codes, fits, mask, salientFits, order, ...layout } = linear;
	const { gpu } = codes;
	return {
		...layout,
		codes: await gpu.read(codes, "u32"),
		fits: await gpu.read(fits),
		...(mask && { mask: await gpu.read(mask, "u32") }),
		...(salientFits && { salientFits: await gpu.read(salientFits) }),
		...(order && { order: await gpu.read(order, "u32") }),
	};
}
