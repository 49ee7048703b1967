import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { openCheckpoint } from "../open.ts";

/**
 * The files of a model folder as a repository has them: sharded, and beside them what nobody needs.
 *
 * @param shardOf The index of the shard of a tensor; by default one after the other.
 */
export function shardedFiles(
	folder: string,
	shards = 3,
	shardOf: (name: string, index: number) => number = (_, i) => i % shards,
): Record<string, Uint8Array | string> {
	using checkpoint = openCheckpoint(folder);
	const names = [...checkpoint.tensors.keys()];
	const weightMap: Record<string, string> = {};
	const files: Record<string, Uint8Array | string> = {
		"README.md": "# A model",
		"model.onnx": "no safetensors",
	};
	for (let shard = 0; shard < shards; shard++) {
		const file = shardFile(shard, shards);
		const part = names.filter((name, i) => shardOf(name, i) === shard);
		for (const name of part) weightMap[name] = file;
		const path = join(folder, file);
		const tensors = part.map((name) => {
			const { dtype, shape } = checkpoint.get(name);
			return { name, dtype, shape, data: checkpoint.readBytes(name) };
		});
		writeSafetensors(path, tensors, { format: "pt" });
		files[file] = new Uint8Array(readFileSync(path));
		rmSync(path);
	}
	const index = { metadata: {}, weight_map: weightMap };
	files["model.safetensors.index.json"] = JSON.stringify(index);
	for (const name of readdirSync(folder)) {
		if (name !== "model.safetensors") {
			files[name] = new Uint8Array(readFileSync(join(folder, name)));
		}
	}
	return files;
}

export function shardFile(shard: number, shards: number): string {
	return `model-0000${shard + 1}-of-0000${shards}.safetensors`;
}
