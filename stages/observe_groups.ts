import type { DenseWeight } from "../codecs/dense/weight.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { paceBatches } from "../models/calibration.ts";
import type { Decoder } from "../models/decoder.ts";
import type { LayerWeights } from "../models/layer_weights.ts";
import type { ExpertPlace } from "../models/ops/op.ts";
import { access, ArtifactStore } from "../pipeline/run/artifacts.ts";
import { ExpertCounts, isStarved, showExperts } from "../pipeline/run/expert_inputs.ts";
import { showInput } from "../pipeline/run/groups.ts";
import type { GroupContext, LinearLayer, ModelContext } from "../pipeline/stage.ts";
import type { Chain } from "./rate_plan.ts";

/** A group of linear layers with its artifacts. */
export interface ObservedGroup {
	at: number;
	from: string;
	cols: number;
	/** The expert of its linear layers, if any. */
	expert?: ExpertPlace;
	context: GroupContext;
	store: ArtifactStore;
}

/** The artifacts of a store on top of those of a context. */
export function accessWithin(
	store: ArtifactStore,
	context: ModelContext,
): ReturnType<typeof access> {
	const own = access(store);
	return {
		...own,
		find: (name) => own.find(name) ?? context.find(name),
		get: (name) => own.find(name) ?? context.get(name),
	};
}

/**
 * Passes calibration data through a layer and lets the stages observe the inputs of its groups.
 *
 * @param batches The number of batches, from the first one on.
 */
export async function observeGroups(
	context: ModelContext,
	{ before }: Chain,
	decoder: Decoder,
	weights: LayerWeights,
	batches: number,
): Promise<{ groups: ObservedGroup[]; pools: ArtifactStore[] }> {
	const { gpu } = context;
	const { activations, batches: all, length } = context.get("calibration");
	const { layers: count, names } = decoder.architecture;
	const { plan, layer: index } = weights;
	const prefix = names.layer(index);
	const groups: ObservedGroup[] = [];
	for (const { at, from, cols, expert, linears: wanted } of plan.groups) {
		const store = new ArtifactStore();
		const linears: LinearLayer[] = [];
		for (const { module } of wanted) {
			const { matrix } = weights.linear(module).weight as DenseWeight;
			const [rows, cols] = matrix.shape;
			const copy = async () =>
				matrix.dtype === "f32" ? gpu.clone(matrix) : await widen(gpu, matrix);
			linears.push({
				name: prefix + module,
				module,
				rows,
				cols,
				original: await copy(),
				weight: await copy(),
				quantized: gpu.empty([rows, cols]),
			});
		}
		groups.push({
			at,
			from,
			cols,
			...(expert && { expert }),
			store,
			context: { ...context, ...accessWithin(store, context), layer: { index, count }, linears },
		});
	}
	const together = [...Map.groupBy(groups, ({ at }) => at).values()];
	const pools = new Map<number, { store: ArtifactStore; context: GroupContext }>();
	const tokens = new Map<ObservedGroup, number>();
	for (let batch = 0; batch < batches; batch++) {
		const registers = await activations.load(batch);
		let done = 0;
		for (const groups of together) {
			const [{ at, from, cols, expert, context: groupContext }] = groups;
			await decoder.run(weights, registers, length, done, at);
			done = at;
			if (!expert) {
				await showInput(groupContext, before, registers.get(from)!);
				continue;
			}
			using counts = new ExpertCounts(gpu, 1, expert.of);
			await counts.count(0, registers.get(expert.routing)!);
			await counts.read();
			if (!pools.has(at)) {
				const store = new ArtifactStore();
				const access = accessWithin(store, context);
				pools.set(at, { store, context: { ...groupContext, ...access } });
			}
			const pool = pools.get(at)!;
			const show = ({ context }: { context: GroupContext }, input: Tensor) =>
				showInput(context, before, input);
			const experts = groups.map((group) => ({ ...group, expert: group.expert! }));
			await showExperts(
				gpu,
				counts.of(0),
				{ from, cols, expert },
				experts,
				{ registers },
				show,
				(input) => show(pool, input),
			);
			for (const group of groups) {
				tokens.set(group, (tokens.get(group) ?? 0) + counts.total(group.expert!.index));
			}
		}
		await decoder.run(weights, registers, length, done);
		await activations.keep(batch, 0, registers);
		await paceBatches(gpu, batch + 1);
		await context.pause();
	}
	const seen = all.slice(0, batches).flat().length * length;
	for (const [group, count] of tokens) {
		if (!isStarved(count, group.cols, seen)) continue;
		group.store[Symbol.dispose]();
		group.store.parent = pools.get(group.at)!.store;
	}
	return { groups, pools: [...pools.values()].map(({ store }) => store) };
}
