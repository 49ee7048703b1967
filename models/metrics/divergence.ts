import { UserError } from "../../base/errors.ts";
import type { Gpu } from "../../gpu/device.ts";
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { KL_STATE, klDivergence } from "../../gpu/kernels/reduce/kl_divergence.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { paceBatches } from "../calibration.ts";
import { Decoder, type DecoderOptions } from "../decoder.ts";
import type { Head } from "../head.ts";
import type { ModelFiles } from "../model_files.ts";
import type { Divergence } from "./figures.ts";
import type { FinalStates } from "./final_states.ts";

/** A model and what its layers made of the windows. */
export interface Finished {
	model: ModelFiles;
	states: FinalStates;
}

/** The options of {@link divergence}. */
export interface DivergenceOptions extends Pick<DecoderOptions, "partBytes"> {
	/** Name of the data, for messages. */
	dataset: string;
	/** Called after each batch of each part of the head. */
	onProgress?(done: number, total: number): Promise<void>;
}

/**
 * How far a model's predictions are from those of the original on the same windows: the mean over all
 * predictions of KL(original || model) of the next token's distribution, in nats, and the fraction with
 * the same most likely token. Logits exist for a slice of the tokens and a part of the head at a time;
 * each model uses its own head.
 *
 * @throws {UserError} If a model cannot be read or the result is NaN or infinite.
 */
export async function divergence(
	gpu: Gpu,
	original: Finished,
	model: Finished,
	{ dataset, partBytes, onProgress }: DivergenceOptions,
): Promise<Divergence> {
	using one = new Decoder(gpu, original.model, { partBytes });
	using other = new Decoder(gpu, model.model, { partBytes });
	const { head } = one;
	const { rows, cols } = head.matrix;
	const most = head.matrix.partBytes / 2; // for each model
	if (rows !== other.head.matrix.rows || cols !== other.head.matrix.cols) {
		throw new Error(
			`The heads of "${original.model.name}" and "${model.model.name}" differ in shape`,
		);
	}
	// Batches of windows; their states, like their logits, take about as much as half a part of the head.
	const { predictions, windows } = original.states;
	const perBatch = Math.max(1, Math.floor(most / 4 / cols / predictions));
	const starts = Array.from(
		{ length: Math.ceil(windows.length / perBatch) },
		(_, batch) => batch * perBatch,
	);
	const counts = starts.map((start) => Math.min(perBatch, windows.length - start));
	const results = counts.map((count) => gpu.empty([count * predictions, KL_STATE.columns]));
	const total = results.length * head.parts;
	let done = 0;
	await partsOfBoth(head, other.head, async (parts, first) => {
		const [n] = parts[0].shape;
		// Multiples of 64 rows keep all bindings aligned.
		const slice = Math.max(64, Math.floor(most / 4 / n / 64) * 64);
		for (const [batch, result] of results.entries()) {
			const [tokens] = result.shape;
			using a = original.states.upload(gpu, starts[batch], counts[batch]);
			using b = model.states.upload(gpu, starts[batch], counts[batch]);
			for (let start = 0; start < tokens; start += slice) {
				const m = Math.min(slice, tokens - start);
				using logits = gpu.empty([m, n]);
				using others = gpu.empty([m, n]);
				for (
					const [x, part, c, own] of [
						[a, parts[0], logits, head],
						[b, parts[1], others, other.head],
					] as const
				) {
					const rows = { tensor: x, start: start * cols };
					await gemm(gpu, { layout: "NT", m, n, k: cols, a: rows, b: part, c, mayRound: true });
					await own.cap(c);
				}
				const state = result.view(start * KL_STATE.columns, [m, KL_STATE.columns]);
				await klDivergence(gpu, logits, others, first, state);
			}
			await paceBatches(gpu, ++done);
			await onProgress?.(done, total);
		}
	});
	let [nats, equal] = [0, 0];
	for (const result of results) {
		const found = await gpu.read(result);
		for (let at = 0; at < found.length; at += KL_STATE.columns) {
			nats += found[at + KL_STATE.divergence];
			equal += Number(found[at + KL_STATE.id] === found[at + KL_STATE.otherId]);
		}
		gpu.free(result);
	}
	const count = windows.length * predictions;
	if (!Number.isFinite(nats)) {
		throw new UserError(
			`The KL divergence of "${model.model.name}" from the original on "${dataset}" is not a ` +
				`number: logits exceed what f32 holds`,
		);
	}
	return { windows: windows.length, kl: nats / count, agreement: equal / count };
}

/** Calls `use` with the same rows of both heads, in f32, part by part. */
async function partsOfBoth(
	{ matrix }: Head,
	{ matrix: other }: Head,
	use: (parts: [Tensor, Tensor], first: number) => Promise<void>,
): Promise<void> {
	await matrix.parts("f32", async (part, first) => {
		// The first pass reads every part to check it.
		await other.parts("f32", async (otherPart, otherFirst) => {
			if (otherFirst === first) await use([part, otherPart], first);
		}, (otherFirst) => otherFirst === first);
	});
}
