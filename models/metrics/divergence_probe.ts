import type { Gpu } from "../../gpu/device.ts";
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { matvec } from "../../gpu/kernels/matmul/matvec.ts";
import { KL_STATE, klDivergence } from "../../gpu/kernels/reduce/kl_divergence.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Decoder } from "../decoder.ts";

/** The original's head inputs of some windows, with which those of changed models are compared. */
interface Original {
	/** f32 `[tokens, width]`. */
	states: Tensor;
	/** One over all predictions at the divergence of each prediction in the state, f32 `[1, tokens * 8]`. */
	mean: Tensor;
	/** Logits of slices of tokens and parts of the head, in their order; empty if they are not kept. */
	logits: Tensor[];
}

/**
 * Measures how far the predictions of changed models are from those of the original on the same windows,
 * where only decoder layers differ: the mean KL(original || changed) of the next token's distribution, in
 * nats. It reads nothing back.
 */
export class DivergenceProbe implements Disposable {
	readonly #gpu: Gpu;
	readonly #originals: Original[];
	/** Bytes of a slice of logits. */
	readonly #sliceBytes: number;

	/**
	 * @param decoder The original, whose ends are kept on the GPU; see {@link Decoder.keepEnds}.
	 * @param states The head's inputs of each batch of windows, f32 `[windows * length, width]`, which the
	 *   probe owns from now on.
	 * @param length Tokens of a window.
	 */
	constructor(readonly decoder: Decoder, states: readonly Tensor[], length: number) {
		this.#gpu = decoder.gpu;
		const tokens = states.reduce((sum, { shape }) => sum + shape[0], 0);
		const predictions = tokens / length * (length - 1);
		this.#originals = states.map((states) => {
			const mean = new Float32Array(states.shape[0] * KL_STATE.columns);
			for (let token = 0; token < states.shape[0]; token++) {
				if ((token + 1) % length === 0) continue; // predicts what is not in the window
				mean[token * KL_STATE.columns + KL_STATE.divergence] = 1 / predictions;
			}
			return { states, mean: this.#gpu.upload(mean, [1, mean.length]), logits: [] };
		});
		this.#sliceBytes = decoder.head.matrix.partBytes;
	}

	/** The number of batches. */
	get batches(): number {
		return this.#originals.length;
	}

	/** Keeps the original's logits, f32 of all tokens and the vocabulary, which are else computed each time. */
	async keepLogits(): Promise<void> {
		for (const original of this.#originals) {
			await this.#slices(original, async (part, start, m) => {
				original.logits.push(await this.#logits(original.states, part, start, m));
			});
		}
	}

	/**
	 * Queues the measurement of a batch.
	 *
	 * @param states The head's inputs in the changed model, f32 `[windows * length, width]`.
	 * @param out Receives the batch's part of the mean, f32.
	 * @param at The element of `out`.
	 */
	async measure(batch: number, states: Tensor, out: Tensor, at: number): Promise<void> {
		const gpu = this.#gpu;
		const original = this.#originals[batch];
		const { columns } = KL_STATE;
		using state = gpu.empty([states.shape[0], columns]);
		let slice = 0;
		await this.#slices(original, async (part, start, m, first) => {
			const kept = original.logits[slice++];
			using before = kept
				? kept.view(0, kept.shape)
				: await this.#logits(original.states, part, start, m);
			using after = await this.#logits(states, part, start, m);
			await klDivergence(gpu, before, after, first, state.view(start * columns, [m, columns]));
		});
		await matvec(gpu, { x: original.mean, weight: state.view(0, [1, state.size]), out, start: at });
	}

	/** Calls `use` for each part of the head and each slice of a batch's tokens. */
	async #slices(
		{ states: { shape: [tokens] } }: Original,
		use: (part: Tensor, start: number, count: number, firstId: number) => Promise<void>,
	): Promise<void> {
		await this.decoder.head.matrix.parts("f32", async (part, firstId) => {
			// Multiples of 64 tokens keep all bindings aligned.
			const most = Math.max(64, Math.floor(this.#sliceBytes / 4 / part.shape[0] / 64) * 64);
			for (let start = 0; start < tokens; start += most) {
				await use(part, start, Math.min(most, tokens - start), firstId);
			}
		});
	}

	async #logits(states: Tensor, part: Tensor, start: number, m: number): Promise<Tensor> {
		const [[n, k], [, width]] = [part.shape, states.shape];
		const c = this.#gpu.empty([m, n]);
		const a = { tensor: states, start: start * width };
		await gemm(this.#gpu, { layout: "NT", m, n, k, a, b: part, c });
		await this.decoder.head.cap(c);
		return c;
	}

	[Symbol.dispose](): void {
		for (const { states, mean, logits } of this.#originals) {
			this.#gpu.free(states, mean, ...logits);
		}
	}
}
