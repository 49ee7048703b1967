import type { Gpu } from "../gpu/device.ts";
import { embed } from "../gpu/kernels/elementwise/embed.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { PromptBatchOnGpu } from "./metrics/prompt_batch.ts";
import {
	type Rotary,
	rotaryFrequencies,
	rotaryLength,
	rotaryMagnitude,
	rotaryPairs,
} from "./rotary.ts";

/**
 * The format that rotary frequencies are rounded to. "f32" matches a model as transformers loads it; a
 * model that is cast as a whole with `.half()` or `.to(bfloat16)` rounds its frequencies too.
 *
 * @internal
 */
export type FrequencyDtype = "f32" | "f16" | "bf16";

/**
 * Lookup tables of (cos, sin) by position and frequency, with the f32 rounding of transformers: one for
 * each range of text lengths with the same frequencies.
 */
export class RopeTable implements Disposable {
	/** The tables of the longest windows so far, by {@link rotaryLength}. */
	readonly #longest = new Map<number, Tensor>();
	/** Earlier, shorter tables, which recordings may still read. */
	readonly #shorter: Tensor[] = [];

	/** @param maxLength The model's maximum length in tokens. */
	constructor(
		readonly gpu: Gpu,
		readonly rotary: Rotary,
		readonly maxLength: number,
		readonly dtype: FrequencyDtype,
	) {}

	/**
	 * The rows of positions `0 .. length - 1`, f32 `[length, pairs, 2]`, as a view.
	 *
	 * @param textLength The tokens of the text, which dynamic scalings depend on; `length` if absent.
	 */
	rows(length: number, textLength = length): Tensor {
		const { rotary } = this;
		const key = rotaryLength(rotary, textLength);
		const half = rotaryPairs(rotary);
		// Every length has other frequencies: no recording and no later text uses the table of the last one.
		if (rotary.scaling?.type === "dynamic" && !this.#longest.has(key)) {
			for (const [other, table] of this.#longest) {
				if (other <= rotary.scaling.originalLength) continue;
				this.gpu.free(table);
				this.#longest.delete(other);
			}
		}
		const longest = this.#longest.get(key);
		if (longest && longest.shape[0] >= length) return longest.view(0, [length, half, 2]);
		if (longest) this.#shorter.push(longest);
		const twice = Math.min(2 * (longest?.shape[0] ?? 0), this.maxLength);
		const rows = Math.max(length, twice); // doubles, so that there are few tables
		const table = new Float32Array(rows * half * 2);
		const frequencies = rotaryFrequencies(rotary, textLength).map(ROUNDED[this.dtype]);
		const magnitude = rotaryMagnitude(rotary);
		for (let i = 0; i < half; i++) {
			for (let position = 0; position < rows; position++) {
				const angle = Math.fround(position * frequencies[i]);
				table[(position * half + i) * 2] = magnitude * Math.cos(angle);
				table[(position * half + i) * 2 + 1] = magnitude * Math.sin(angle);
			}
		}
		const uploaded = this.gpu.upload(table, [rows, half, 2]);
		this.#longest.set(key, uploaded);
		return uploaded.view(0, [length, half, 2]);
	}

	/**
	 * The rows of the positions of prompts, f32 `[tokens, pairs, 2]`, owned by the caller. The prompts of a
	 * batch must have the same {@link rotaryLength}.
	 */
	async rowsOf({ positions, length }: PromptBatchOnGpu): Promise<Tensor> {
		const half = rotaryPairs(this.rotary);
		const rows = this.gpu.empty([positions.size, half, 2]);
		const table = this.rows(length).view(0, [length, 2 * half]);
		await embed(this.gpu, positions, table, 0, rows);
		return rows;
	}

	[Symbol.dispose](): void {
		this.gpu.free(...this.#shorter.splice(0), ...this.#longest.values());
		this.#longest.clear();
	}
}

/** The rope tables of a model, one per distinct {@link Rotary} of its layers. */
export class RopeTables implements Disposable {
	readonly #tables = new Map<Rotary, RopeTable>();

	constructor(readonly gpu: Gpu, readonly maxLength: number, readonly dtype: FrequencyDtype) {}

	of(rotary: Rotary): RopeTable {
		let table = this.#tables.get(rotary);
		if (!table) {
			table = new RopeTable(this.gpu, rotary, this.maxLength, this.dtype);
			this.#tables.set(rotary, table);
		}
		return table;
	}

	[Symbol.dispose](): void {
		for (const table of this.#tables.values()) table[Symbol.dispose]();
		this.#tables.clear();
	}
}

const ROUNDED = { f32: Math.fround, f16: Math.f16round, bf16: bf16Round };

/** The nearest bf16, ties to even, of a finite f32. */
function bf16Round(value: number): number {
	const [bits] = new Uint32Array(Float32Array.of(value).buffer);
	const rounded = bits + 0x7fff + ((bits >>> 16) & 1) & 0xffff0000;
	return new Float32Array(Uint32Array.of(rounded).buffer)[0];
}
