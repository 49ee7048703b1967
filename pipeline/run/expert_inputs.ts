import type { Gpu } from "../../gpu/device.ts";
import { countPairs } from "../../gpu/kernels/experts/sort_pairs.ts";
import { expertRows } from "../../gpu/kernels/experts/expert_rows.ts";
import { sortPairs } from "../../gpu/kernels/experts/sort_pairs.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { LinearGroup } from "../../models/ops/op.ts";
import type { Registers } from "../../models/registers.ts";

/** The part of all tokens that an expert must get for a Hessian of its own. */
const LEAST_SHARE = 0.005;

/** Alignment of the counts of a batch in elements, for the alignment of bindings. */
const ALIGNMENT = 64;

/** Rows of tiles; none are used here. */
const TILE_ROWS = 64;

/** What is known of a group of linear layers of an expert: its input, and its place. */
export type ExpertGroup = Pick<LinearGroup, "from" | "cols"> & {
	expert: NonNullable<LinearGroup["expert"]>;
};

/** Whether an expert gets too few tokens for a Hessian of its linear layers. */
export function isStarved(tokens: number, cols: number, allTokens: number): boolean {
	return tokens < Math.max(cols, LEAST_SHARE * allTokens);
}

/**
 * The tokens that the experts of a decoder layer get in each batch. The host has to know them, because
 * stages are shown inputs of known shapes; all batches are counted before it waits.
 */
export class ExpertCounts implements Disposable {
	readonly #onGpu: Tensor;
	readonly #stride: number;
	#found?: Uint32Array;

	constructor(readonly gpu: Gpu, readonly batches: number, readonly experts: number) {
		this.#stride = Math.ceil(experts / ALIGNMENT) * ALIGNMENT;
		this.#onGpu = gpu.zeros([batches, this.#stride], "u32");
	}

	/** Queues the count of a batch. */
	async count(batch: number, routing: Tensor): Promise<void> {
		const { gpu, experts } = this;
		const own = this.#onGpu.view(batch * this.#stride, [experts]);
		await countPairs(gpu, routing, experts, own);
	}

	/** Waits for the counts. */
	async read(): Promise<void> {
		this.#found = await this.gpu.read(this.#onGpu, "u32");
	}

	/** The tokens of each expert in a batch. */
	of(batch: number): Uint32Array {
		return this.#found!.subarray(batch * this.#stride, batch * this.#stride + this.experts);
	}

	/** The tokens of an expert in all batches. */
	total(expert: number): number {
		let sum = 0;
		for (let batch = 0; batch < this.batches; batch++) sum += this.of(batch)[expert];
		return sum;
	}

	[Symbol.dispose](): void {
		this.gpu.free(this.#onGpu);
	}
}

/**
 * Shows the inputs of experts in a batch.
 *
 * @param counts The tokens of each expert in the batch.
 * @param kind Any group of the operation.
 * @param wanted The groups to show; those without tokens in the batch are left out.
 * @param streams The registers, and those of the original model, possibly the same. Where the original sends
 *   a token to other experts, the input itself stands for that of the original.
 * @param show Called with the input of each group, f32 `[tokens, cols]`.
 * @param showAll Called with the input of all experts together, if present.
 */
export async function showExperts<Group extends ExpertGroup>(
	gpu: Gpu,
	counts: Uint32Array,
	kind: ExpertGroup,
	wanted: readonly Group[],
	{ registers, others }: { registers: Registers; others?: Registers },
	show: (group: Group, input: Tensor, original?: Tensor) => Promise<void>,
	showAll?: (input: Tensor, original?: Tensor) => Promise<void>,
): Promise<void> {
	const { from, cols, expert: { of, routing } } = kind;
	const own = { x: registers.get(from)!, routing: registers.get(routing)! };
	const isSame = others === registers;
	const other = others && !isSame
		? { x: others.get(from)!, routing: others.get(routing)! }
		: undefined;
	using pairs = await sortPairs(gpu, own.routing, of, TILE_ROWS);
	const { order } = pairs;
	const showRange = async (
		range: { first: number; count: number },
		to: (input: Tensor, original?: Tensor) => Promise<void>,
	) => {
		await gpu.inFewSizes(async () => {
			using input = await expertRows(gpu, own, cols, { order, ...range });
			using original = other && await expertRows(gpu, own, cols, { order, ...range }, other);
			await to(input, isSame ? input : original);
		});
	};
	const starts = [0];
	for (const count of counts) starts.push(starts.at(-1)! + count);
	if (showAll) {
		const all = starts.at(-1)!;
		if (own.x.shape[1] === cols) await showAll(own.x, isSame ? own.x : other?.x);
		else await showRange({ first: 0, count: all }, showAll);
	}
	for (const group of wanted) {
		const { index } = group.expert;
		const count = counts[index];
		if (count === 0) continue;
		await showRange(
			{ first: starts[index], count },
			(input, original) => show(group, input, original),
		);
	}
}
