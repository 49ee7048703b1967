import { existsSync } from "node:fs";
import { visibleText } from "../base/visible_text.ts";
import type { Gpu } from "../gpu/device.ts";
import { ResidentModel } from "../models/generation/generation.ts";
import { ModelFiles, readConfig } from "../models/model_files.ts";
import type { RunEvent } from "../pipeline/run/events.ts";
import { HUB_ID, HubAccess } from "../pipeline/run/hub_access.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { modelFolder } from "./task.ts";

/** Clears the progress line. */
const CLEAR = "\r\x1b[K";

/** A function that shows what is going on in a line on a terminal; an empty text clears it. */
export function terminalProgress(): (text: string) => void {
	if (!Deno.stderr.isTerminal()) return () => {};
	const encoder = new TextEncoder();
	return (text) => void Deno.stderr.writeSync(encoder.encode(CLEAR + visibleText(text)));
}

/** Opens a model: a packed or plain folder, the output folder of a run, or a name on the hub. */
export async function openModel(
	name: string,
	signal: AbortSignal,
	progress: (text: string) => void,
): Promise<ModelFiles> {
	if (existsSync(name) || !HUB_ID.test(name)) return ModelFiles.open(denoFolder(modelFolder(name)));
	const emit = (event: RunEvent) => {
		if (event.type === "progress") progress(`${event.text}: ${event.detail}`);
		else if (event.type === "warning") console.error(`Warning: ${event.message}`);
	};
	const hub = new HubAccess(emit, signal, async () => {});
	const check = (folder: string) => void readConfig(denoFolder(folder), name);
	try {
		return ModelFiles.open(denoFolder((await hub.model(name, "main", check)).folder), name);
	} finally {
		progress("");
	}
}

/** The model on the GPU. */
export async function loadModel(
	gpu: Gpu,
	files: ModelFiles,
	signal: AbortSignal,
	progress: (text: string) => void,
): Promise<ResidentModel> {
	try {
		return await ResidentModel.load(gpu, files, {
			signal,
			onProgress: (done, total) => progress(`Loading ${files.name}: layer ${done} of ${total}`),
		});
	} finally {
		progress("");
	}
}
