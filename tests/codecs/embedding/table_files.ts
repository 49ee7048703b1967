import { join } from "node:path";
import { Checkpoint } from "~/storage/checkpoint.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { stored } from "../../models/random_model.ts";
import { openSafetensors } from "../../open.ts";

/** Writes tensors into a file and opens it. */
export function write(folder: string, file: string, tensors: TensorToWrite[]): Checkpoint {
	const path = join(folder, file);
	writeSafetensors(path, tensors);
	return openSafetensors(path);
}

/** The table "e" of f32 in a file of its own. */
export function plainTable(folder: string, values: Float32Array, cols: number): Checkpoint {
	const shape = [values.length / cols, cols];
	const data = stored(values, "F32");
	return write(folder, "plain", [{ name: "e.weight", dtype: "F32", shape, data }]);
}
