import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeTokenIds } from "../data/windows.ts";
import { syntheticShards, uniforms } from "../models/synthetic.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";

/**
 * Writes a model with random weights: config.json, and in safetensors what {@link syntheticShards}
 * gives.
 *
 * @param config What config.json is to say.
 * @param seed An integer of 32 bits.
 */
export function writeSyntheticModel(
	folder: string,
	config: Record<string, unknown>,
	seed: number,
): void {
	mkdirSync(folder, { recursive: true });
	writeFileSync(join(folder, "config.json"), JSON.stringify(config, null, 2) + "\n");
	const weightMap: Record<string, string> = {};
	for (const { file, tensors } of syntheticShards(config, seed)) {
		for (const { name } of tensors) weightMap[name] = file;
		writeSafetensors(join(folder, file), tensors, { format: "pt" });
	}
	const index = { metadata: {}, weight_map: weightMap };
	writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify(index, null, 2));
}

/** Writes random token ids to calibrate on, `[samples, length]`. */
export function writeSyntheticTokens(
	path: string,
	{ samples, length, vocabulary, seed }: {
		samples: number;
		length: number;
		vocabulary: number;
		seed: number;
	},
): void {
	const random = uniforms(seed);
	const window = () => Int32Array.from({ length }, () => Math.floor(random() * vocabulary));
	writeTokenIds(path, Array.from({ length: samples }, window));
}
