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

/** Opens models in folders of the disk. */
export const ModelFiles = {
  /**
   * Opens a folder as transformers writes it, or a packed one.
   *
   * @param name What messages call the model; the folder if absent.
   * @throws {UserError} If something is missing, damaged or not supported.
   */
  open(path: string, name?: string): FolderFiles {
    return FolderFiles.open(denoFolder(path), name);
  },
};
