import { constant } from "../../gpu/constant.ts";
import type { Gpu } from "../../gpu/device.ts";
import { MAX_BLOCK } from "../../gpu/kernels/binarize/search.ts";
import { copyRegion } from "../../gpu/kernels/elementwise/copy_region.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type {
	BlockContext,
	BlockStage,
	GroupContext,
	LinearContext,
	LinearLayer,
	LinearStage,
	Stage,
} from "../stage.ts";
import { access, ArtifactStore } from "./artifacts.ts";
import type { Planned, StageClock } from "./run.ts";

/** One in this many blocks is timed, because timing costs more than some blocks take. */
const BLOCKS_PER_MEASUREMENT = 8;

/** Whether a stage runs on each linear layer, as a whole or by block. */
export function isInLinear({ scope }: Stage): boolean {
	return scope === "linear" || scope === "block";
}

/**
 * Runs the stages of scope linear and block on a linear layer. Consecutive stages of scope block run
 * together, block by block from left to right.
 *
 * @param store The artifacts of the layer's group.
 * @param stages Stages; those of other scopes are skipped.
 */
export async function quantizeLinear(
	groupContext: GroupContext,
	store: ArtifactStore,
	linear: LinearLayer,
	stages: readonly Planned<Stage>[],
	clock: StageClock,
): Promise<void> {
	using linearStore = new ArtifactStore(store);
	const context: LinearContext = { ...groupContext, ...access(linearStore), linear };
	const inLinear = stages.filter(({ stage }) => isInLinear(stage));
	while (inLinear.length > 0) {
		const next = inLinear.findIndex(({ stage }) => stage.scope !== "block");
		const blockStages = inLinear.splice(0, next < 0 ? inLinear.length : next);
		if (blockStages.length > 0) {
			await quantizeBlocks(context, linearStore, blockStages as Planned<BlockStage>[], clock);
			continue;
		}
		const [{ stage, options }] = inLinear.splice(0, 1) as Planned<LinearStage>[];
		const { name } = linear;
		const allocated = context.find("allocation")?.get(name);
		const own = stage.optionsOf ? stage.optionsOf(options, name, allocated) : options;
		if (own === undefined) linear.isSkipped = true;
		else await clock.queue(stage.name, () => stage.run(context, own));
	}
}

async function quantizeBlocks(
	linearContext: LinearContext,
	store: ArtifactStore,
	stages: readonly Planned<BlockStage>[],
	clock: StageClock,
): Promise<void> {
	const { gpu, blockSize, linear } = linearContext;
	const { rows, cols } = linear;
	for (let first = 0; first < cols; first += blockSize) {
		const width = Math.min(blockSize, cols - first);
		using blockStore = new ArtifactStore(store);
		using weight = gpu.empty([rows, width]);
		const region = { tensor: linear.weight, start: first, stride: cols, rows, cols: width };
		await copyRegion(gpu, region, weight, width);
		using costs = await blockCosts(gpu, store, first, width);
		const block = { first, cols: width, size: blockSize, weight, costs };
		const context: BlockContext = { ...linearContext, ...access(blockStore), block };
		const stands = blocksThatItStandsFor(first / blockSize, Math.ceil(cols / blockSize));
		for (const { stage, options, implied } of stages) {
			const run = () => stage.run(context, options);
			await (stands > 0 && !implied ? clock.queue(stage.name, run, stands) : run());
		}
	}
}

/** The number of blocks that the timing of a block represents: those around it, or none. */
function blocksThatItStandsFor(block: number, blocks: number): number {
	const first = block - block % BLOCKS_PER_MEASUREMENT;
	const together = Math.min(BLOCKS_PER_MEASUREMENT, blocks - first);
	return block - first === together >> 1 ? together : 0;
}

/** The column costs of a block, f32 `[cols]`; ones without a Hessian. */
async function blockCosts(
	gpu: Gpu,
	store: ArtifactStore,
	first: number,
	cols: number,
): Promise<Tensor> {
	const costs = store.find("column-costs");
	if (!costs) return constant(gpu, new Float32Array(MAX_BLOCK).fill(1)).view(0, [cols]);
	const part = costs.view(first, [cols]);
	// Bindings must start at a multiple of this alignment.
	if (part.offset % gpu.device.limits.minStorageBufferOffsetAlignment === 0) return part;
	const copy = gpu.empty([cols]);
	await copyRegion(gpu, { tensor: costs, start: first, stride: cols, rows: 1, cols }, copy, cols);
	return copy;
}
