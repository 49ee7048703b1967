import type { Gpu } from "~/gpu/device.ts";
import { access, ArtifactStore } from "~/pipeline/run/artifacts.ts";
import type { Planned } from "~/pipeline/run/run.ts";
import type { GroupContext, GroupStage, LinearLayer, Stage } from "~/pipeline/stage.ts";
import { hessian } from "~/stages/hessian.ts";
import { normals } from "../reference/random.ts";

/** A linear layer that no stage has quantized; `weight` is row-major. */
export function linearOnGpu(
	gpu: Gpu,
	weight: Float32Array,
	rows: number,
	name = "linear",
): LinearLayer {
	const cols = weight.length / rows;
	const original = gpu.upload(weight, [rows, cols]);
	return {
		...{ name, module: name, rows, cols, original },
		weight: gpu.clone(original),
		quantized: gpu.empty([rows, cols]),
	};
}

export function freeLinear(gpu: Gpu, { original, weight, quantized, draft }: LinearLayer): void {
	gpu.free(original, weight, quantized);
	draft?.[Symbol.dispose]();
}

/** A linear layer on the GPU, with the context of the stages that have its Hessian. */
export interface OnGpu {
	linear: LinearLayer;
	store: ArtifactStore;
	context: GroupContext;
}

/**
 * Uploads a linear layer and runs the stage `hessian` on its Hessian.
 *
 * @param layer Its weight `[rows, cols]` and H `[cols, cols]`.
 * @param isNeeded Whether later stages need an artifact.
 */
export async function layerOnGpu(
	gpu: Gpu,
	{ name = "linear", weight, hessian: h }: {
		name?: string;
		weight: Float32Array;
		hessian: Float32Array;
	},
	blockSize: number,
	isNeeded = (name: string) => ["factor", "column-costs"].includes(name),
): Promise<OnGpu> {
	const cols = Math.sqrt(h.length);
	const store = new ArtifactStore();
	store.set("hessian", gpu.upload(h, [cols, cols]));
	const linear = linearOnGpu(gpu, weight, weight.length / cols, name);
	const context = {
		...{ gpu, blockSize, linears: [linear], isNeeded },
		async pause() {},
		...access(store),
	} as unknown as GroupContext;
	await (hessian as GroupStage).run(context, { damping: 0.01 });
	return { linear, store, context };
}

export function planned(stage: Stage, options: Record<string, unknown> = {}): Planned<Stage> {
	return { stage, options: stage.options.parse(options) } as Planned<Stage>;
}

/** An upper triangular matrix with a diagonal near 1 and small entries beside it. */
export function randomFactor(cols: number): Float32Array {
	const factor = normals(cols * cols, 2, 0.05);
	for (let i = 0; i < cols; i++) {
		factor.fill(0, i * cols, i * cols + i);
		factor[i * cols + i] = 1 + 0.3 * Math.abs(factor[i * cols + i]);
	}
	return factor;
}

/**
 * U with W - Q = E · U. Without feedback in the block, the block's own part is its diagonal.
 *
 * @param factor U of the inverse Hessian, f32 `[cols, cols]`.
 */
export function seenFactor(factor: Float32Array, blockSize: number, feedback?: string) {
	const cols = Math.sqrt(factor.length);
	return factor.map((u, i) => {
		const [row, col] = [Math.floor(i / cols), i % cols];
		const isWithin = Math.floor(row / blockSize) === Math.floor(col / blockSize) && row !== col;
		return feedback === "block" && isWithin ? 0 : u;
	});
}
