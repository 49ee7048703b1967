import type { Gpu as DeviceGpu } from "../gpu/device.ts";
import { ModelFiles as FolderFiles } from "../models/model_files.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { openGpu } from "./deno_gpu.ts";

/** A WebGPU device; see `gpu/device.ts`. */
export type Gpu = DeviceGpu;

/** Opens Deno's WebGPU. */
export const Gpu = { open: openGpu };

/** A model in a folder: its configuration, weights and tokenizer. */
export type ModelFiles = FolderFiles;

/** Opens models in folders on disk. */
export const ModelFiles: { open(path: string, name?: string): FolderFiles } = {
	/**
	 * Opens a model folder in the layout of transformers, plain or packed.
	 *
	 * @param name The model's name in messages; the folder if absent.
	 * @throws {UserError} If a file is missing, damaged or not supported.
	 */
	open(path: string, name?: string): FolderFiles {
		return FolderFiles.open(denoFolder(path), name);
	},
};
