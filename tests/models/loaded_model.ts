import type { Gpu } from "~/gpu/device.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import { Decoder, type DecoderOptions } from "~/models/decoder.ts";
import type { LayerWeights } from "~/models/layer_weights.ts";
import { ModelFiles } from "~/models/model_files.ts";
import { openModel } from "../open.ts";

/** A model with all its layers on the GPU, for tests that run it several times. */
export class LoadedModel implements Disposable {
	private constructor(
		readonly model: ModelFiles,
		readonly decoder: Decoder,
		readonly layers: LayerWeights[],
	) {}

	static async open(
		gpu: Gpu,
		folder: string,
		{ packed = false, ...options }: DecoderOptions & { packed?: boolean } = {},
	): Promise<LoadedModel> {
		const model = openModel(folder);
		try {
			const decoder = new Decoder(gpu, model, options);
			const layers: LayerWeights[] = [];
			for (let i = 0; i < model.architecture.layers; i++) {
				layers.push(await decoder.loadLayer(i, { packed }));
			}
			return new LoadedModel(model, decoder, layers);
		} catch (error) {
			model[Symbol.dispose]();
			throw error;
		}
	}

	/**
	 * Runs windows through all layers, or the first few.
	 *
	 * @param use Gets the output of the last layer that ran, which is freed afterwards.
	 */
	async forward<Result>(
		windows: readonly Int32Array[],
		use: (hidden: Tensor) => Promise<Result>,
		layers = this.layers.length,
	): Promise<Result> {
		const registers = new Map([["hidden", (await this.decoder.embedding.embed([windows]))[0]]]);
		for (const weights of this.layers.slice(0, layers)) {
			await this.decoder.run(weights, registers, windows[0].length);
		}
		using hidden = registers.get("hidden")!;
		return await use(hidden);
	}

	async logits(windows: readonly Int32Array[]): Promise<Float32Array> {
		return await this.forward(windows, async (hidden) => {
			using logits = await this.decoder.head.logits(hidden);
			return await this.decoder.gpu.read(logits);
		});
	}

	async losses(windows: readonly Int32Array[]): Promise<Float32Array> {
		return await this.forward(windows, async (hidden) => {
			using finished = await this.decoder.head.finish(hidden);
			return (await this.decoder.head.losses(
				() => Promise.resolve(finished.view(0, finished.shape)),
				[windows],
			))[0];
		});
	}

	[Symbol.dispose](): void {
		for (const weights of this.layers) weights[Symbol.dispose]();
		this.decoder[Symbol.dispose]();
		this.model[Symbol.dispose]();
	}
}
