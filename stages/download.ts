import { existsSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { counted, plural } from "../base/figures.ts";
import { bytesText } from "../base/units.ts";
import { ModelFiles, readConfig } from "../models/model_files.ts";
import { requireTensors } from "../models/required_tensors.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { refuseOtherThanModel } from "../storage/model_folder.ts";
import { perRun } from "./per_run.ts";
import {
	checkNeeds,
	modelBytes,
	needsText,
	quantizes,
	requireOriginal,
	type RunNeeds,
	runNeeds,
} from "./run_needs.ts";

const once = perRun<RunNeeds>();

/** What the run takes, with the speed of its device. */
const needsOnce = (context: ModelContext) =>
	once(context, [], () => runNeeds(context.get("model-files"), context.stages, context.gpu));

/** The stage that finds the model, a folder or a name on the hub, and checks its files. */
export const download = defineStage({
	name: "download",
	scope: "model",
	summary: "Find or download the model's files and check them",
	options: z.strictObject({
		"revision": z.string().min(1).optional().describe(
			"Branch, tag or commit of a model on the hub; default main",
		),
		"keep": z.boolean().optional().describe(
			"false: shards of a model on the hub are downloaded into the run's folder when they are needed, and " +
				"removed when they no longer are; default true",
		),
	}),
	needs: [],
	gives: ["model-files"],

	/** Says what the run takes, and refuses what cannot fit. */
	async check(context) {
		const { gpu, stages, hub: { shards } } = context;
		const model = context.get("model-files");
		const output = context.folder.path;
		let left = 0;
		if (quantizes(stages)) {
			const needs = await needsOnce(context);
			left = Math.max(0, (needs.diskBytes ?? 0) - modelBytes(output));
			gpu.resetPeak(); // that of the measurement
			context.emit({ type: "stage", stage: "needs", text: needsText(needs) });
			await checkNeeds(needs, gpu, { name: model.name, output });
		}
		if (!shards) return;
		const most = shards.mostBytes(model.fetchedTogether);
		shards.requireRoom(most, left);
		context.emit({
			type: "stage",
			stage: "download",
			text: `${model.name}: ${bytesText(shards.bytes)} in ${counted(shards.count, "shard")} come ` +
				`when they are needed, at most ${bytesText(most)} at a time, to ${shards.folder}`,
		});
	},

	async plan(context) {
		if (!quantizes(context.stages)) return [];
		const { seconds = 0 } = await needsOnce(context);
		return [{ stage: "layers", seconds }];
	},

	async run(context, { revision, keep = true }) {
		const { model: name } = context;
		let folder = denoFolder(name);
		let label = name;
		if (existsSync(name)) {
			refuseOtherThanModel(name);
			if (revision) {
				throw new UserError(
					`The model "${name}" is a folder, so it has no revision "${revision}"; ` +
						`leave download.revision out`,
				);
			}
			if (!keep) {
				throw new UserError(
					`The model "${name}" is a folder, of which nothing is downloaded or removed; leave ` +
						`download.keep out`,
				);
			}
		} else if (HUB_ID.test(name)) {
			const check = (folder: string) => void readConfig(denoFolder(folder), name);
			const snapshot = await context.hub.model(name, revision ?? "main", check, keep);
			folder = context.hub.shards?.over(snapshot.folder) ?? denoFolder(snapshot.folder);
			label = `${name}@${snapshot.commit.slice(0, 7)}`;
		}
		const model = ModelFiles.open(folder, name);
		requireTensors(model);
		if (model.quantization && folder.fetcher) {
			throw new UserError(
				`The model "${name}" is quantized already, so it is read as a whole; leave ` +
					`download.keep out`,
			);
		}
		if (quantizes(context.stages)) requireOriginal(model); // before data are fetched
		for (const message of model.warnings) context.emit({ type: "warning", message });
		const { modelType, layers, hiddenSize } = model.architecture;
		context.set("model-files", model);
		context.emit({
			type: "stage",
			stage: "download",
			text: `${label}: ${modelType}, ${layers} ${plural(layers, "layer")}, ${hiddenSize} wide`,
		});
	},
});
