import { ModelFiles } from "../models/model_files.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { denoFile, denoFolder } from "../storage/deno_folder.ts";

export const openCheckpoint = (folder: string) => Checkpoint.open(denoFolder(folder));
/** The checkpoint of a single safetensors file. */
export const openSafetensors = (path: string) => Checkpoint.openFile(denoFile(path));
export const openModel = (folder: string) => ModelFiles.open(denoFolder(folder));
