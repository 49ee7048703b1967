import { embeddingLayout, GpuEmbedding, isPackedEmbedding } from "../codecs/embedding/embedding.ts";
import type { Gpu } from "../gpu/device.ts";
import { embed } from "../gpu/kernels/elementwise/embed.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import { matvec } from "../gpu/kernels/matmul/matvec.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Place } from "./places.ts";
import type { StoredTensors } from "./stored_tensors.ts";

/** Default number of bytes of a matrix outside the layers that are on the GPU at a time. */
export const PART_BYTES = 64 << 20;

/**
 * A matrix with a row per token id or position, plain or quantized: embedding, positions or head. It may
 * be too large for the GPU, so it is uploaded in parts unless it is resident.
 */
export class LookupMatrix implements Disposable {
	readonly #gpu: Gpu;
	/** Whether the whole matrix was found to be finite. */
	#isFinite = false;
	/** Its quantized form, if it is resident. */
	#keptTable?: GpuEmbedding;

	/** @param partBytes Bytes that are on the GPU at a time. */
	constructor(
		readonly stored: StoredTensors,
		readonly place: Place,
		readonly partBytes: number,
	) {
		this.#gpu = stored.gpu;
	}

	get rows(): number {
		return this.place.shape[0];
	}

	get cols(): number {
		return this.place.shape[1];
	}

	/** The name without ".weight", which the quantized form uses. */
	get #name(): string {
		return this.place.name.slice(0, -".weight".length);
	}

	/** Rows of a part, for a row size in bytes. */
	rowsPerPart(rowBytes = 4 * this.cols): number {
		return Math.max(1, Math.floor(Math.min(this.partBytes, this.#gpu.maxBinding) / rowBytes));
	}

	/**
	 * Makes the matrix resident on the GPU, as stored.
	 *
	 * @throws {UserError} If it is missing, has another shape than config.json states, or holds NaN or
	 *   infinite values.
	 */
	async keep(): Promise<void> {
		const { checkpoint } = this.stored.model;
		if (isPackedEmbedding(checkpoint, this.#name)) {
			this.#keptTable = GpuEmbedding.upload(this.#gpu, checkpoint, this.#name);
		} else await this.stored.keep(this.place, "stored");
		await this.parts("stored", async () => {}); // checks it
	}

	/**
	 * Calls `use` with the matrix part by part; each part is freed after the call. The first use checks
	 * for NaN and infinities.
	 *
	 * @param as The format of the parts: f32, or the stored format; f32 if the matrix is quantized.
	 * @param isWanted Whether some rows are needed; all are if absent.
	 */
	async parts(
		as: "stored" | "f32",
		use: (part: Tensor, first: number) => Promise<void>,
		isWanted?: (first: number, count: number) => boolean,
	): Promise<void> {
		const { rows, cols, stored, place } = this;
		const gpu = this.#gpu;
		const { checkpoint } = stored.model;
		const keptTable = this.#keptTable;
		const isPacked = isPackedEmbedding(checkpoint, this.#name);
		let rowBytes = 4 * cols;
		if (isPacked) {
			const layout = embeddingLayout(checkpoint, this.#name);
			stored.checkShape(place.name, [layout.rows, layout.cols], place.shape);
		} else {
			const { shape, bytes } = checkpoint.get(place.name);
			stored.checkShape(place.name, shape, place.shape);
			await stored.model.fetchTensors([place.name]);
			if (as === "stored") rowBytes = bytes / rows;
		}
		const isFinite = this.#isFinite;
		let rowsPerPart = this.rowsPerPart(rowBytes);
		if (keptTable || stored.kept(place.name)) {
			// Views begin at multiples of 256 bytes; if nothing is widened, they may be large.
			const isWhole = isFinite && as === "stored" && !keptTable;
			const most = isWhole ? gpu.maxBinding / rowBytes : rowsPerPart;
			rowsPerPart = Math.max(256, Math.floor(most / 256) * 256);
		}
		for (let first = 0; first < rows; first += rowsPerPart) {
			const count = Math.min(rowsPerPart, rows - first);
			if (isFinite && isWanted && !isWanted(first, count)) continue;
			using uploaded = isPacked && !keptTable
				? GpuEmbedding.upload(gpu, checkpoint, this.#name, first, count)
				: undefined;
			using part = await (keptTable?.dequantized(first, count) ??
				uploaded?.dequantized(0, count) ??
				stored.upload({ ...place, part: { first, rows: count } }));
			if (isFinite && as === "stored") {
				await use(part, first);
				continue;
			}
			using wide = part.dtype === "f32" ? part.view(0, part.shape) : await widen(gpu, part);
			if (!isFinite) await stored.checkFinite([{ name: place.name, tensor: wide }]);
			await use(as === "f32" ? wide : part, first);
		}
		this.#isFinite = true;
	}

	/**
	 * Looks up the rows of batches of ids.
	 *
	 * @param out f32 `[ids, cols]` for each batch.
	 * @param accumulate Whether to add to `out`.
	 */
	async lookUp(
		ids: readonly Uint32Array[],
		out: readonly Tensor[],
		accumulate: boolean,
	): Promise<void> {
		const gpu = this.#gpu;
		const rows = ids.map((ids) => gpu.upload(ids, [ids.length]));
		if (this.#keptTable) { // checked
			for (const [i, batch] of rows.entries()) {
				await this.#keptTable.lookUp(batch, out[i], accumulate);
			}
			gpu.free(...rows);
			return;
		}
		const isWanted = (first: number, count: number) =>
			ids.some((batch) => batch.some((id) => id >= first && id < first + count));
		await this.parts("stored", async (part, first) => {
			for (const [i, batch] of rows.entries()) {
				await embed(gpu, batch, part, first, out[i], accumulate);
			}
		}, isWanted);
		gpu.free(...rows);
	}

	/**
	 * Looks up an id that is in GPU memory; requires {@link keep}.
	 *
	 * @param id u32 `[1]`.
	 * @param out f32 `[1, cols]`.
	 * @param from The row of id 0; if given, the row is added to `out`.
	 */
	async lookUpToken(id: Tensor, out: Tensor, from?: number): Promise<void> {
		const accumulate = from !== undefined;
		if (this.#keptTable) return await this.#keptTable.lookUp(id, out, accumulate, from);
		const kept = this.stored.kept(this.place.name);
		if (!kept) throw new Error(`"${this.place.name}" is not on the GPU`);
		const [rows, cols] = kept.shape;
		// Views begin at multiples of 256 bytes.
		const most = Math.max(256, Math.floor(this.#gpu.maxBinding / (kept.bytes / rows) / 256) * 256);
		for (let first = 0; first < rows; first += most) {
			const part = kept.view(first * cols, [Math.min(most, rows - first), cols]);
			await embed(this.#gpu, id, part, first - (from ?? 0), out, accumulate, accumulate);
		}
	}

	/** The product of one vector with it, f32 `[1, rows]`, owned by the caller. */
	async multiplyVector(x: Tensor): Promise<Tensor> {
		const out = this.#gpu.empty([1, this.rows]);
		if (this.#keptTable) await this.#keptTable.multiply(x, out); // checked
		else {
			await this.parts("stored", async (weight, start) => {
				await matvec(this.#gpu, { x, weight, out, start });
			});
		}
		return out;
	}

	[Symbol.dispose](): void {
		this.#keptTable?.[Symbol.dispose]();
		this.#keptTable = undefined;
	}
}
