import { join } from "node:path";
import { ModelFiles } from "../models/model_files.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { denoFile, denoFolder } from "../storage/deno_folder.ts";
import type { TensorToWrite } from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";

export const openCheckpoint = (folder: string) => Checkpoint.open(denoFolder(folder));
/** The checkpoint of a single safetensors file. */
export const openSafetensors = (path: string) => Checkpoint.openFile(denoFile(path));
export const openModel = (folder: string) => ModelFiles.open(denoFolder(folder));

/** The checkpoint of a folder after some tensors are written there. */
export function written(
	folder: string,
	tensors: TensorToWrite[],
	metadata?: Record<string, string>,
): Checkpoint {
	writeSafetensors(join(folder, "model.safetensors"), tensors, metadata);
	return openCheckpoint(folder);
}
