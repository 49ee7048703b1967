import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { plural } from "../base/figures.ts";
import { writeTokenIds } from "../data/windows.ts";
import { activationStreams } from "../models/activations.ts";
import { batchWindows } from "../models/calibration.ts";
import { Decoder } from "../models/decoder.ts";
import { activationBytes, leanWidth, nearWidth } from "../models/memory_plan.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { readHeader } from "../storage/safetensors.ts";
import { calibrationWindows, datasetOption } from "./data.ts";

/** The token ids, in the folder of a run. */
const CALIBRATION = "calibration.safetensors";

/**
 * The stage that tokenizes text into windows and embeds them. The runner then passes the windows through
 * the decoder layers, so that each layer is calibrated on the output of the quantized layers before it.
 */
export const calibrate = defineStage({
	name: "calibrate",
	scope: "model",
	summary: "Tokenize text into calibration windows",
	options: z.strictObject({
		"dataset": datasetOption,
		"samples": z.int().min(1).max(65536).default(128).describe("Number of windows"),
		"sequence-length": z.int().min(1).max(65535).default(2048).describe("Tokens per window"),
		"order": z.enum(["layer", "module"]).default("module").describe(
			"layer: Hessians of a whole decoder layer, then its quantization (two passes); " +
				"module: each group of linear layers sees the quantized ones before it (one pass)",
		),
		"batch-tokens": z.int().min(1).max(65535).default(8192).describe(
			"Tokens per batch",
		),
		"activations": z.enum(["f32", "f16"]).default("f32").describe(
			"Type of stored activations; f16 halves their memory",
		),
	}),
	presets: { reference: { order: "layer" } },
	needs: ["model-files"],
	gives: ["calibration"],
	inputs: async (context, { dataset }) => (await context.dataset(dataset, "calibration")).files,

	async check(context, options) {
		await windowsOf(context, options);
	},

	async restore(context, options) {
		const path = join(context.folder.path, CALIBRATION);
		if (existsSync(path) && isWhole(path, [options.samples, options["sequence-length"]])) return;
		const windows = await windowsOf(context, options);
		context.checkInputs();
		context.folder.lock();
		writeTokenIds(path, windows);
	},

	async run(context, options) {
		const model = context.get("model-files");
		const length = options["sequence-length"];
		const windows = await windowsOf(context, options);
		context.checkInputs();
		writeTokenIds(join(context.folder.path, CALIBRATION), windows);
		context.emit({
			type: "stage",
			stage: "calibrate",
			text: `${windows.length} ${plural(windows.length, "window")} of ${length} tokens ` +
				`of ${options.dataset}`,
		});
		const batches = batchWindows(windows, options["batch-tokens"]);
		const { order } = options;
		const { gpu } = context;
		const original = context.originalFor !== undefined;
		const search = context.isNeeded("block-error"); // by a stage that sees all blocks
		const work = { batchTokens: batches[0].length * length, order, original, search };
		const gpuBytes = await activationBytes(gpu, model, windows.length * length, work);
		const streams = activationStreams(gpu, {
			tokens: batches.map((windows) => windows.length * length),
			width: model.architecture.hiddenSize,
			...(order === "module" && { nearWidth: nearWidth(model), leanWidth: leanWidth(model) }),
			dtype: options.activations,
			gpuBytes,
		}, original ? 2 : 1);
		context.set("calibration", {
			batches,
			activations: streams[0],
			original: streams[1],
			length,
			sequences: windows.length,
			order,
		});
		using decoder = new Decoder(gpu, model);
		for (const stream of streams) await decoder.embedding.embedInto(stream, batches);
	},
});

/** Whether a file holds token ids of that shape. */
function isWhole(path: string, shape: number[]): boolean {
	try {
		const { tensors } = readHeader(denoFile(path));
		return JSON.stringify(tensors.get("input_ids")?.shape) === JSON.stringify(shape);
	} catch (error) {
		if (error instanceof UserError) return false;
		throw error;
	}
}

function windowsOf(
	context: ModelContext,
	options: { "dataset": string; "samples": number; "sequence-length": number },
): Promise<Int32Array[]> {
	const { dataset, samples } = options;
	return calibrationWindows(context, dataset, samples, options["sequence-length"]);
}
