import type { CacheDtype } from "../../gpu/kernels/attention/attention_decode.ts";
import type { ResidentModel } from "./generation.ts";
import { KeyValueCache } from "./kv_cache.ts";

/** Tokens that the capacity of a cache is a multiple of, so that the next turn of a chat often fits. */
const CAPACITY_STEP = 256;

/** A place for a text and its KV cache, which stays when the text has ended. */
class Place {
	cache?: KeyValueCache;
	/** The tokens in the cache. */
	ids: readonly number[] = [];
	/** The rotary positions of the keys in the cache, see `Decoder.positionsOf()`. */
	positions = 0;
	isTaken = false;
	/** When it was taken last, in order. */
	used = 0;
}

/** The KV cache of a text, to be given back. */
export interface HeldCache {
	/** The cache, for this text alone until it is released. */
	readonly cache: KeyValueCache;
	/** Tokens of the prompt that were in a cache already. */
	readonly reused: number;
	/**
	 * Gives it back.
	 *
	 * @param text The prompt and the generated tokens; the cache may hold fewer or more.
	 */
	release(text: readonly number[]): void;
}

/**
 * KV caches that outlive their texts. A text that begins as an earlier one, such as the next turn of a
 * chat, or as one that is being generated, such as another answer to the same prompt, takes over the
 * keys and values of its first tokens.
 */
export class PrefixCaches implements Disposable {
	readonly #places: Place[];
	#uses = 0;

	/**
	 * The caches of a model, none at first.
	 *
	 * @param texts The most texts at a time; as many caches stay.
	 */
	constructor(
		readonly model: ResidentModel,
		texts: number,
		readonly dtype: CacheDtype = "f32",
	) {
		this.#places = Array.from({ length: texts }, () => new Place());
	}

	/**
	 * A cache for a text, with the start of its prompt as far as another one has it. No GPU work of a text
	 * may be in progress.
	 *
	 * @param prompt At least one token id; the last one is always left to be run.
	 * @param capacity Tokens of the whole text that are run.
	 * @throws {RangeError} If all places are taken.
	 */
	take(prompt: readonly number[], capacity: number): HeldCache {
		const idle = this.#places.filter(({ isTaken }) => !isTaken);
		if (idle.length === 0) throw new RangeError("All KV caches are taken");
		const shared = new Map(this.#places.map((place) => [place, this.#shared(place, prompt)]));
		const source = this.#places.reduce((a, b) => shared.get(b)! > shared.get(a)! ? b : a);
		const reused = shared.get(source)!;
		// A text that shares only its beginning with another, such as a system prompt, leaves it the rest.
		const isContinued = !source.isTaken && reused > 0 && 2 * reused >= source.ids.length;
		const others = idle.filter((place) => reused === 0 || place !== source);
		const place = isContinued || others.length === 0
			? source
			: others.reduce((a, b) => b.used < a.used ? b : a);
		this.#fill(place, source, reused, capacity);
		place.ids = prompt;
		place.isTaken = true;
		place.used = ++this.#uses;
		return { cache: place.cache!, reused, release: (text) => this.#release(place, text) };
	}

	/** Tokens at the start of a prompt whose keys and values a place has. */
	#shared({ cache, ids, isTaken, positions }: Place, prompt: readonly number[]): number {
		if (!cache) return 0;
		const { decoder } = this.model;
		const most = Math.min(cache.length, ids.length, prompt.length - 1);
		let count = 0;
		while (count < most && ids[count] === prompt[count]) count++;
		const own = isTaken ? decoder.positionsOf(Math.max(1, cache.length)) : positions;
		const isRight = [count, prompt.length].every((length) => decoder.positionsOf(length) === own);
		return count > 0 && isRight ? count : 0;
	}

	/** Gives a place a cache of a capacity with the first tokens of another one, or of its own. */
	#fill(place: Place, source: Place, count: number, capacity: number): void {
		const { decoder: { gpu }, files: { architecture } } = this.model;
		const old = place.cache;
		const isLarge = old !== undefined && old.capacity >= capacity;
		const rounded = Math.ceil(capacity / CAPACITY_STEP) * CAPACITY_STEP;
		const wanted = Math.min(architecture.maxLength, rounded);
		// What need not be copied is freed first.
		if (!isLarge && place !== source) {
			old?.[Symbol.dispose]();
			place.cache = undefined;
		}
		const cache = isLarge ? old : new KeyValueCache(gpu, architecture, wanted, this.dtype);
		if (count > 0 && source.cache !== cache) copyStart(source.cache!, cache, count);
		if (!isLarge && place === source) old?.[Symbol.dispose]();
		cache.length = count;
		place.cache = cache;
	}

	#release(place: Place, text: readonly number[]): void {
		const cache = place.cache!;
		place.positions = this.model.decoder.positionsOf(Math.max(1, cache.length));
		cache.length = Math.min(cache.length, text.length);
		place.ids = text.slice(0, cache.length);
		place.isTaken = false;
	}

	/** Frees all caches. */
	[Symbol.dispose](): void {
		for (const { cache } of this.#places) cache?.[Symbol.dispose]();
	}
}

/** Copies the keys and values of the first tokens. */
function copyStart(source: KeyValueCache, target: KeyValueCache, count: number): void {
	for (const [i, layer] of target.layers.entries()) {
		for (const part of ["keys", "values"] as const) {
			const from = source.layers[i][part];
			const [, width] = from.shape;
			if (width === 0) continue; // a layer without attention
			target.gpu.copy(
				from.view(0, [count, width]),
				layer[part].view(0, [count, width]),
			);
		}
	}
}
