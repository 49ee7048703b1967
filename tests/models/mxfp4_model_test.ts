import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { continueTokens, ResidentModel } from "~/models/generation/generation.ts";
import { syntheticShards } from "~/models/synthetic.ts";
import { fromFloat32, toFloat32 } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { contents, type MicroTensor, Workplace } from "../micro_model.ts";
import { openCheckpoint, openModel } from "../open.ts";
import { uniforms } from "../reference/random.ts";

const CONFIG = {
	model_type: "gpt_oss",
	vocab_size: 4096,
	hidden_size: 64,
	intermediate_size: 32,
	num_hidden_layers: 2,
	num_attention_heads: 4,
	num_key_value_heads: 2,
	head_dim: 16,
	num_local_experts: 3,
	num_experts_per_tok: 2,
	sliding_window: 8,
	max_position_embeddings: 64,
	tie_word_embeddings: false,
};

/** A model whose experts are stored in MXFP4, as GPT-OSS is published. */
function mxfp4Model(): Workplace {
	const alter = (tensors: Map<string, MicroTensor>) => {
		tensors.clear();
		for (const { tensors: shard } of syntheticShards(CONFIG, 3)) {
			for (const { name, shape, data } of shard) {
				const bytes = Uint8Array.from(
					[...data as Iterable<Uint8Array>].flatMap((chunk) => [...chunk]),
				);
				tensors.set(name, { shape: [...shape], values: toFloat32(bytes, "F16") });
			}
		}
	};
	const place = new Workplace({ config: CONFIG, alter });
	const file = join(place.model, "model.safetensors");
	const toWrite = [];
	{
		using checkpoint = openCheckpoint(place.model);
		for (const { name, shape, dtype } of checkpoint.tensors.values()) {
			if (!/experts\.\w+_proj$/.test(name)) {
				toWrite.push({ name, shape, dtype, data: checkpoint.readBytes(name) });
				continue;
			}
			const [experts, cols, rows] = shape;
			const groups = [experts, rows, cols / 32];
			const count = experts * rows * cols / 32;
			const bytes = (count: number, from: number, to: number) =>
				Uint8Array.from(uniforms(count, toWrite.length, from, to), Math.floor);
			toWrite.push(
				{
					...{ name: `${name}_blocks`, shape: [...groups, 16], dtype: "U8" as const },
					data: bytes(16 * count, 0, 256),
				},
				{
					...{ name: `${name}_scales`, shape: groups, dtype: "U8" as const },
					data: bytes(count, 121, 125),
				},
			);
		}
	}
	writeSafetensors(file, toWrite);
	return place;
}

/** Puts the values in the place of codes, so that the model is a plain one. */
function makePlain({ model }: Workplace): void {
	const toWrite = [];
	{
		using checkpoint = openCheckpoint(model);
		for (const { name, shape, dtype } of checkpoint.tensors.values()) {
			const own = /experts\.\w+_proj$/.test(name);
			const data = own
				? fromFloat32(checkpoint.readFloat32(name), "BF16")
				: checkpoint.readBytes(name);
			toWrite.push({ name, shape, dtype: own ? "BF16" as const : dtype, data });
		}
	}
	writeSafetensors(join(model, "model.safetensors"), toWrite);
}

async function generated(model: string): Promise<number[]> {
	await using gpu = await openGpu();
	using files = openModel(model);
	assert.deepEqual(files.warnings, []);
	using resident = await ResidentModel.load(gpu, files);
	const ids: number[] = [];
	for await (const { id } of continueTokens(resident, [5, 9, 77], { maxTokens: 8 })) ids.push(id);
	return ids;
}

Deno.test("a model with experts in MXFP4 is the plain one that it stands for", async () => {
	using place = mxfp4Model();
	const config = join(place.model, "config.json");
	const plain = readFileSync(config, "utf8");
	const quantization_config = { quant_method: "mxfp4", modules_to_not_convert: ["lm_head"] };
	writeFileSync(config, JSON.stringify({ ...JSON.parse(plain), quantization_config }));
	const run = async (output: string) => {
		await place.run({
			recipe: "rtn",
			output: place.path(output),
			gpu: { adapter: "software" },
			stages: { rtn: { bits: 2 } },
		});
		return [await generated(place.model), contents(place.path(output, "model"))];
	};
	const first = await run("coded");
	writeFileSync(config, plain);
	makePlain(place);
	assert.deepEqual(await run("plain"), first);
});
