import type { Tensor } from "../../gpu/tensor.ts";
import type { Restarts } from "../../models/layer_plan.ts";
import type { ExpertPlace } from "../../models/ops/op.ts";
import type { GroupContext, GroupStage } from "../stage.ts";
import type { ArtifactStore } from "./artifacts.ts";
import type { Planned } from "./run.ts";

/** A group of linear layers that share an input. */
export interface Group {
	/** The operation of the decoder layer that runs them. */
	at: number;
	/** The register that is their input. */
	from: string;
	/** Columns of the linear layers. */
	cols: number;
	/** The expert that they belong to, if any. */
	expert?: ExpertPlace;
	/** The tokens that the expert gets. */
	tokens?: number;
	/** What the inputs of all experts give, if these are too few. */
	pool?: Pool;
	/** The operations before which activations may be kept on the way to the group. */
	restarts: Restarts;
	/** Elements per token of activations kept near the group. */
	nearWidth: number;
	context: GroupContext;
	store: ArtifactStore;
	/** Output errors of the quantized linear layers; see {@link outputErrorParts}. */
	errors: Tensor[];
}

/** The artifacts of the inputs of all experts together. */
export interface Pool {
	context: GroupContext;
	store: ArtifactStore;
}

/**
 * The groups that are observed together: experts of one operation.
 *
 * @param mostOf The most experts, from the columns of their linear layers.
 */
export function bundles(groups: readonly Group[], mostOf: (cols: number) => number): Group[][] {
	const found: Group[][] = [];
	for (const group of groups) {
		const last = found.at(-1);
		const isTogether = last && group.expert && last[0].at === group.at &&
			last.length < mostOf(group.cols);
		if (isTogether) last.push(group);
		else found.push([group]);
	}
	return found;
}

/**
 * Lets group stages observe a batch of a group's input, each in the form that the ones before it give.
 *
 * @param input f32 `[tokens, n]`.
 * @param original The same input in the original model, if a stage wants it.
 * @param queue Runs the work of a stage; to be timed.
 */
export async function showInput(
	context: GroupContext,
	stages: readonly Planned<GroupStage>[],
	input: Tensor,
	original?: Tensor,
	queue: (stage: string, work: () => Promise<void>) => Promise<void> = (_, work) => work(),
): Promise<void> {
	const transformed: Tensor[] = [];
	for (const { stage, options } of stages) {
		if (!stage.observe && !stage.transform) continue;
		await queue(stage.name, async () => {
			await stage.observe?.(context, options, input, original);
			const isSame = original === input;
			const output = await stage.transform?.(context, options, input);
			if (!output) return;
			transformed.push(input = output);
			if (isSame) original = input;
			else if (original) {
				transformed.push(original = (await stage.transform!(context, options, original))!);
			}
		});
	}
	context.gpu.free(...transformed);
}
