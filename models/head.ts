import type { Gpu } from "../gpu/device.ts";
import { scale } from "../gpu/kernels/elementwise/scale.ts";
import { gemm } from "../gpu/kernels/matmul/gemm.ts";
import { crossEntropy } from "../gpu/kernels/reduce/cross_entropy.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { LookupMatrix } from "./lookup_matrix.ts";
import { applyNorm } from "./ops/norm.ts";
import type { OutsidePlaces } from "./places.ts";
import { project } from "./project.ts";
import type { StoredTensors } from "./stored_tensors.ts";

/** The head: computes logits or losses from the output of the last decoder layer. */
export class Head {
	readonly #gpu: Gpu;

	/** @param matrix f32, f16 or bf16 `[vocabulary, embedding]`; tied to the embedding in many models. */
	constructor(
		readonly stored: StoredTensors,
		readonly places: OutsidePlaces,
		readonly matrix: LookupMatrix,
	) {
		this.#gpu = stored.gpu;
	}

	/** The head's input: the last layer's output after the final norm, projection and logit factor. */
	async finish(hidden: Tensor): Promise<Tensor> {
		const gpu = this.#gpu;
		const { stored, places } = this;
		const { finalNorm } = stored.model.architecture;
		let x = hidden.view(0, hidden.shape);
		if (finalNorm) {
			const tensors = new Map<string, Tensor>();
			for (const place of places.finalNorm) {
				tensors.set(place.name, await stored.checked(place));
			}
			x = await applyNorm(gpu, finalNorm, x, (name) => tensors.get(name)!);
			gpu.free(...tensors.values());
		}
		x = await project(stored, places.projectOut, x);
		const finished = x.owned ? x : gpu.clone(x);
		const { logitFactor } = stored.model.architecture;
		if (logitFactor) await scale(gpu, finished, logitFactor);
		return finished;
	}

	/** Bounds the logits of a product with the matrix in place, if the model does. */
	async cap(logits: Tensor): Promise<void> {
		const { logitCap } = this.stored.model.architecture;
		if (logitCap) await scale(this.#gpu, logits, 1, logitCap);
	}

	/** Logits of every token, f32 `[tokens, vocabulary]`, owned by the caller; for short texts. */
	async logits(hidden: Tensor): Promise<Tensor> {
		const gpu = this.#gpu;
		using x = await this.finish(hidden);
		const [tokens, width] = x.shape;
		if (tokens === 1) {
			const logits = await this.matrix.multiplyVector(x);
			await this.cap(logits);
			return logits;
		}
		const { rows: vocabulary } = this.matrix;
		const logits = gpu.empty([tokens, vocabulary]);
		await this.matrix.parts("f32", async (part, first) => {
			const c = { tensor: logits, start: first, stride: vocabulary };
			const [n] = part.shape;
			await gemm(gpu, { layout: "NT", m: tokens, n, k: width, a: x, b: part, c, mayRound: true });
		});
		await this.cap(logits);
		return logits;
	}

	/**
	 * The cross-entropy of each token's prediction of the next, in nats, for several batches; the head is
	 * read once.
	 *
	 * @param finished Returns the result of {@link finish} for a batch; called once per part of the head.
	 *   The tensor is freed.
	 * @param batches The windows of each batch.
	 * @param onBatch Called after each batch of each part of the head.
	 * @returns f32 `[windows * length]` on the host for each batch; the entry of a window's last token is
	 *   meaningless.
	 */
	async losses(
		finished: (batch: number) => Promise<Tensor>,
		batches: readonly (readonly Int32Array[])[],
		onBatch?: () => Promise<void>,
	): Promise<Float32Array[]> {
		const length = batches[0][0].length;
		const next = batches.map((windows) => {
			const next = new Uint32Array(windows.length * length);
			windows.forEach((window, w) => next.set(window.subarray(1), w * length));
			return next;
		});
		return await this.targetLosses(finished, next, onBatch);
	}

	/**
	 * The cross-entropy of each row's prediction, in nats, for several batches; the head is read once.
	 *
	 * @param finished As for {@link losses}; the tensors have a row per target.
	 * @param targets The id that each row should predict.
	 * @param onBatch Called after each batch of each part of the head.
	 * @returns On the host, for each batch.
	 */
	async targetLosses(
		finished: (batch: number) => Promise<Tensor>,
		targets: readonly Uint32Array[],
		onBatch?: () => Promise<void>,
	): Promise<Float32Array[]> {
		const gpu = this.#gpu;
		const states = targets.map(({ length }) => gpu.empty([length, 4]));
		await this.matrix.parts("f32", async (part, first) => {
			const [n] = part.shape;
			// Multiples of 64 tokens keep all bindings aligned.
			const slice = Math.max(64, Math.floor(this.matrix.partBytes / 4 / n / 64) * 64);
			for (let i = 0; i < targets.length; i++) {
				using x = await finished(i);
				const [tokens, width] = x.shape;
				for (let start = 0; start < tokens; start += slice) {
					const m = Math.min(slice, tokens - start);
					using logits = gpu.empty([m, n]);
					using wanted = gpu.upload(targets[i].subarray(start, start + m), [m]);
					const a = { tensor: x, start: start * width };
					await gemm(gpu, { layout: "NT", m, n, k: width, a, b: part, c: logits, mayRound: true });
					await this.cap(logits);
					await crossEntropy(gpu, logits, wanted, first, states[i].view(start * 4, [m, 4]));
				}
				await onBatch?.();
			}
		});
		const losses: Float32Array[] = [];
		for (const state of states) {
			const all = await gpu.read(state);
			losses.push(Float32Array.from({ length: all.length / 4 }, (_, token) => all[token * 4 + 3]));
			gpu.free(state);
		}
		return losses;
	}

	/** The number of parts in which the head is read. */
	get parts(): number {
		return Math.ceil(this.matrix.rows / this.matrix.rowsPerPart());
	}
}
