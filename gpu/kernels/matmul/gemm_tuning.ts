import { isRecord } from "../../../base/record.ts";
import type { Gpu } from "../../device.ts";
import type { TextStore } from "../../host.ts";
import { TILE_KERNEL_VERSION, tileName, type TileShape } from "./gemm_tile_source.ts";

/** Timed runs of each candidate. */
const ROUNDS = 5;
/** The time in ms after which no further candidate is compiled. */
const COMPILE_MS = 4000;
/** The time in ms that a GPU needs to reach its full clock. */
const WARM_UP_MS = 200;
/** The ratio to the first tile's time below which a candidate is clearly faster. */
const CLEARLY_FASTER = 0.98;

/** The content of the store as JSON: by adapter, the name of the tile for each class of products. */
interface Choices {
	version: 1;
	adapters: Record<string, Record<string, string>>;
}

/**
 * The tuning of tiles: the fastest tile per class of products on this adapter, measured once and kept in
 * the host's store. A store that is damaged or cannot be written only costs another measurement.
 */
export class TileTuning {
	static #known = new WeakMap<Gpu, TileTuning | undefined>();

	#chosen = new Map<string, Promise<TileShape>>();
	readonly #adapter: string;

	constructor(readonly gpu: Gpu, readonly store: TextStore) {
		this.#adapter = `${gpu.name}, ${gpu.host.name}, kernels ${TILE_KERNEL_VERSION}`;
	}

	/** The tuning of a device; undefined for a software adapter or a host without a store. */
	static of(gpu: Gpu): TileTuning | undefined {
		if (gpu.software) return undefined;
		const known = TileTuning.#known;
		if (!known.has(gpu)) { // finding the host's store is slow, as it reads the environment
			const { tuning } = gpu.host;
			known.set(gpu, tuning && new TileTuning(gpu, tuning));
		}
		return known.get(gpu);
	}

	/**
	 * The tile for a class of products.
	 *
	 * @param candidates The likely best first; some may not be measured.
	 * @param run Queues one product with a tile.
	 */
	choose(
		productClass: string,
		candidates: readonly TileShape[],
		run: (tile: TileShape) => Promise<void>,
	): Promise<TileShape> {
		let chosen = this.#chosen.get(productClass);
		if (!chosen) {
			chosen = this.#find(productClass, candidates, run);
			this.#chosen.set(productClass, chosen);
			chosen.catch(() => this.#chosen.delete(productClass)); // the next product tries again
		}
		return chosen;
	}

	async #find(
		productClass: string,
		candidates: readonly TileShape[],
		run: (tile: TileShape) => Promise<void>,
	): Promise<TileShape> {
		const name = readChoices(this.store)?.adapters[this.#adapter]?.[productClass];
		const known = candidates.find((tile) => tileName(tile) === name);
		if (known) return known;
		const best = await this.#fastest(candidates, run);
		this.#keep(productClass, best);
		return best;
	}

	/** The candidate with the shortest run in all rounds; it must be clearly faster than the first. */
	async #fastest(
		candidates: readonly TileShape[],
		run: (tile: TileShape) => Promise<void>,
	): Promise<TileShape> {
		if (candidates.length === 1) return candidates[0];
		const started = performance.now();
		const compiled: TileShape[] = [];
		for (const tile of candidates) {
			if (compiled.length > 0 && performance.now() - started > COMPILE_MS) break;
			await run(tile);
			compiled.push(tile);
		}
		// A GPU that idled during compilation is slow at first, so the candidates alternate.
		const warm = performance.now();
		while (performance.now() - warm < WARM_UP_MS) await this.#time(() => run(compiled[0]));
		const times = compiled.map(() => Infinity);
		for (let round = 0; round < ROUNDS; round++) {
			for (const [i, tile] of compiled.entries()) {
				times[i] = Math.min(times[i], await this.#time(() => run(tile)));
			}
		}
		const least = Math.min(...times);
		return least < CLEARLY_FASTER * times[0] ? compiled[times.indexOf(least)] : compiled[0];
	}

	async #time(run: () => Promise<void>): Promise<number> {
		const start = performance.now();
		await run();
		await this.gpu.idle();
		return performance.now() - start;
	}

	/** Adds a choice to the current content of the store, which other processes may have changed. */
	#keep(productClass: string, tile: TileShape): void {
		const choices = readChoices(this.store) ?? { version: 1, adapters: {} };
		const own = choices.adapters[this.#adapter] ??= {};
		own[productClass] = tileName(tile);
		this.store.write(JSON.stringify(choices, undefined, 2) + "\n");
	}
}

/** The content of the store; undefined if it is empty or invalid. */
function readChoices(store: TextStore): Choices | undefined {
	const text = store.read();
	if (text === undefined) return undefined;
	try {
		const choices: unknown = JSON.parse(text);
		return isChoices(choices) ? choices : undefined;
	} catch {
		return undefined; // damaged: measured and written again
	}
}

function isChoices(value: unknown): value is Choices {
	return isRecord(value) && value.version === 1 && isRecord(value.adapters) &&
		Object.values(value.adapters).every((classes) =>
			isRecord(classes) && Object.values(classes).every((name) => typeof name === "string")
		);
}
