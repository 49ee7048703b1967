import type { Gpu } from "../../gpu/device.ts";
import type { Segments } from "../../gpu/kernels/attention/attention.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/**
 * A text whose last tokens are scored: by their likelihood given the tokens before them.
 *
 * @internal
 */
export interface Prompt {
	/** At least two tokens; the last one is predicted but not read. */
	tokens: Int32Array;
	/** The number of scored tokens at the end; at least one token is not scored. */
	scored: number;
}

/**
 * A batch of prompts, concatenated without padding. The shared prefix of a group's prompts occurs once.
 */
export interface PromptBatch {
	/** The tokens that the model reads, u32 `[tokens]`. */
	ids: Uint32Array<ArrayBuffer>;
	/** The position of each token in its prompt, u32 `[tokens]`. */
	positions: Uint32Array<ArrayBuffer>;
	/** u32 `[segments, 4]`, see {@link Segments}. */
	segments: Uint32Array<ArrayBuffer>;
	/** The number of tokens read of the longest prompt. */
	length: number;
	/** The number of padding tokens at the end. */
	filling: number;
	/** The row that predicts each scored token, u32 `[scored]`. */
	rows: Uint32Array<ArrayBuffer>;
	/** The scored tokens, u32 `[scored]`. */
	targets: Uint32Array<ArrayBuffer>;
	/** The prompts that the scored tokens belong to, in the same order. */
	prompts: { group: number; prompt: number; scored: number }[];
}

/** The part of a {@link PromptBatch} that decoder layers read, in GPU memory. */
export interface PromptBatchOnGpu extends Disposable {
	segments: Segments;
	/** u32 `[tokens]`. */
	positions: Tensor;
	/** The number of tokens read of the longest prompt. */
	length: number;
}

/** The options of {@link batchPrompts}. */
export interface BatchOptions {
	/** The most tokens of a batch, unless a single prompt has more. */
	tokens: number;
	/** Whether the shared prefix of a group's prompts is computed once; true if absent. */
	shares?: boolean;
	/**
	 * Prompts for whose lengths, in tokens read, this is not the same are in different batches; those of
	 * any length may share one if absent.
	 */
	kindOf?(length: number): number;
}

/** Batches of more tokens than this are padded, so that matrix products have whole tiles. */
const FILLED_FROM = 1024;
const FILLED_TO = 256;

/**
 * Assigns groups of prompts to batches, the longest first, so that those of a batch have similar lengths.
 * If the next group does not fit, the shortest ones fill the batch, so that nearly all batches have the
 * same size.
 */
export function batchPrompts(
	groups: readonly (readonly Prompt[])[],
	{ tokens: most, shares = true, kindOf = () => 0 }: BatchOptions,
): PromptBatch[] {
	const indices = groups.map((_, i) => i);
	const kind = ({ group, prompt }: { group: number; prompt: number }) =>
		kindOf(groups[group][prompt].tokens.length - 1);
	const units = indices.flatMap((group) => {
		const places = groups[group].map((_, prompt) => ({ group, prompt }));
		return shares ? [...Map.groupBy(places, kind).values()] : places.map((place) => [place]);
	});
	/** Splits a group that exceeds a batch; its parts share less. */
	const sharingOf = (prompts: typeof units[number]): SharedPrompts[] => {
		const draft = new SharedPrompts(
			prompts.map((place) => ({ ...place, ...groups[place.group][place.prompt] })),
		);
		if (draft.size <= most || prompts.length === 1) return [draft];
		const half = prompts.length >> 1;
		return [...sharingOf(prompts.slice(0, half)), ...sharingOf(prompts.slice(half))];
	};
	return [...Map.groupBy(units, ([first]) => kind(first)).values()]
		.flatMap((units) => batchesOf(units.flatMap(sharingOf), most));
}

function batchesOf(drafts: SharedPrompts[], most: number): PromptBatch[] {
	drafts.sort((a, b) => b.length - a.length || b.size - a.size);
	const batches: PromptBatch[] = [];
	for (let first = 0, last = drafts.length - 1; first <= last;) {
		const taken = [drafts[first++]];
		let { size } = taken[0];
		const fits = (draft: SharedPrompts) => first <= last && size + draft.size <= most;
		const take = (draft: SharedPrompts) => {
			taken.push(draft);
			size += draft.size;
		};
		while (fits(drafts[first])) take(drafts[first++]);
		while (fits(drafts[last])) take(drafts[last--]);
		batches.push(batchOf(taken, size, filledTo(size, most)));
	}
	return batches;
}

/** The tokens of a batch after padding, within the limit. */
function filledTo(size: number, most: number): number {
	const filled = Math.ceil(size / FILLED_TO) * FILLED_TO;
	return size > FILLED_FROM && filled <= most ? filled : size;
}

type PlacedPrompt = Prompt & { group: number; prompt: number };

/** The prompts of a group with their shared prefix. */
class SharedPrompts {
	/** The length of the shared prefix in tokens that the model reads. */
	readonly shared: number;
	/** The number of tokens read of the longest prompt. */
	readonly length: number;
	/** The number of tokens in a batch. */
	readonly size: number;

	constructor(readonly prompts: readonly PlacedPrompt[]) {
		const lengths = prompts.map(({ tokens }) => tokens.length - 1);
		const [{ tokens: first }] = prompts;
		const isShared = (i: number) => prompts.every(({ tokens }) => tokens[i] === first[i]);
		let shared = 0;
		while (shared < Math.min(...lengths) && isShared(shared)) shared++;
		this.shared = shared;
		this.length = Math.max(...lengths);
		this.size = lengths.reduce((sum, length) => sum + length - shared, shared);
	}
}

function batchOf(drafts: readonly SharedPrompts[], size: number, filled: number): PromptBatch {
	const ids = new Uint32Array(filled);
	const positions = new Uint32Array(filled);
	const segments: number[] = [];
	const rows: number[] = [];
	const targets: number[] = [];
	const prompts: PromptBatch["prompts"] = [];
	let end = 0;
	/** Appends the tokens `from` to `to` (exclusive) of a prompt as a segment that continues `prefix`. */
	const add = (tokens: Int32Array, prefix: number, from: number, to: number) => {
		if (from < to) segments.push(prefix, from, end, to);
		for (let position = from; position < to; position++) {
			ids[end] = tokens[position];
			positions[end++] = position;
		}
	};
	for (const { prompts: members, shared } of drafts) {
		const prefix = end;
		add(members[0].tokens, 0, 0, shared);
		for (const { tokens, scored, group, prompt } of members) {
			const own = end;
			add(tokens, prefix, shared, tokens.length - 1);
			for (let i = tokens.length - scored; i < tokens.length; i++) {
				rows.push(i - 1 < shared ? prefix + i - 1 : own + i - 1 - shared);
				targets.push(tokens[i]);
			}
			prompts.push({ group, prompt, scored });
		}
	}
	// The padding is a segment of its own, with all tokens at position 0.
	if (end < filled) segments.push(0, 0, end, filled - end);
	return {
		ids,
		positions,
		segments: Uint32Array.from(segments),
		length: Math.max(...drafts.map(({ length }) => length)),
		filling: filled - size,
		rows: Uint32Array.from(rows),
		targets: Uint32Array.from(targets),
		prompts,
	};
}

/** Uploads the part of a batch that decoder layers read; freed by `using`. */
export function uploadBatch(gpu: Gpu, batch: PromptBatch): PromptBatchOnGpu {
	const { segments, positions } = batch;
	const table = gpu.upload(segments, [segments.length / 4, 4]);
	const positionsOnGpu = gpu.upload(positions, [positions.length]);
	let [longest, length] = [0, 0];
	for (let i = 0; i < segments.length; i += 4) {
		longest = Math.max(longest, segments[i + 3] - segments[i + 1]);
		length = Math.max(length, segments[i + 3]);
	}
	return {
		segments: { table, longest, length },
		positions: positionsOnGpu,
		length: batch.length,
		[Symbol.dispose]: () => gpu.free(table, positionsOnGpu),
	};
}
