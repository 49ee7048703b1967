import type { Gpu } from "../../gpu/device.ts";
import type { Draft } from "../codec.ts";
import { levels } from "./codec.ts";
import { emptyLevels, freeLevels, type LevelsLayout, type LinearLevels } from "./levels.ts";
import type { LevelsHost } from "./store.ts";

/** The draft of a linear layer of levels. */
export class LevelsDraft implements Draft<LevelsHost> {
	readonly codec = levels;
	readonly linear: LinearLevels;

	constructor(readonly gpu: Gpu, layout: LevelsLayout) {
		this.linear = emptyLevels(gpu, layout);
	}

	/** Rounds nothing: the parameters are f16 values already. */
	async download(): Promise<LevelsHost> {
		const { codes, theta, ...layout } = this.linear;
		return {
			...layout,
			codes: await this.gpu.read(codes, "u32"),
			theta: await this.gpu.read(theta),
		};
	}

	[Symbol.dispose](): void {
		freeLevels(this.gpu, this.linear);
	}
}
