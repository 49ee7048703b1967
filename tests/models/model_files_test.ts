import assert from "node:assert/strict";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { Fields } from "~/models/architectures/fields.ts";
import { addArchitecture, ARCHITECTURES } from "~/models/architectures/mod.ts";
import { TOKENIZER_FILES } from "~/models/tokenizers/tokenizer.ts";
import { denoFile } from "~/storage/deno_folder.ts";
import { readJson } from "~/storage/json.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { openModel, openSafetensors } from "../open.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { modelFolder, randomModel, TINY_LLAMA, TINY_OPT, writeModel } from "./random_model.ts";

/** The supported model types, as messages list them. */
const MODEL_TYPES = Object.keys(ARCHITECTURES).sort().join(", ");

const EXAMPLES = join(import.meta.dirname!, "../../examples/models");

for (const name of ["tiny-llama", "tiny-opt"]) {
	Deno.test(`the example ${name} opens, with its tokenizer`, () => {
		using model = openModel(join(EXAMPLES, name));
		const { architecture, checkpoint, config, tokenizer } = model;
		assert.equal(architecture.layers, 6);
		assert.equal(architecture.modelType, config.model_type);
		assert.equal(model.quantization, undefined);
		const { embedding } = architecture.names;
		const { vocabularySize, embeddingSize } = architecture;
		assert.deepEqual(checkpoint.get(`${embedding}.weight`).shape, [vocabularySize, embeddingSize]);
		assert.equal(tokenizer.decode(tokenizer.encode("A study in scarlet")), "A study in scarlet");
		assert.equal(model.tokenizer, tokenizer); // loaded once
	});
}

Deno.test("files lists what a model is made of and is there, the weights last", () => {
	using folder = new TemporaryFolder();
	const list = () => {
		using model = openModel(folder.path);
		return model.files.map((path) => path.slice(folder.path.length + 1));
	};
	writeModel(folder.path, randomModel(TINY_LLAMA, 1));
	assert.deepEqual(list(), ["config.json", "model.safetensors"]);
	for (const name of [...TOKENIZER_FILES, "generation_config.json", "README.md"]) {
		Deno.writeTextFileSync(folder.file(name), "{}");
	}
	assert.deepEqual(list(), [
		"config.json",
		"generation_config.json",
		"tokenizer.json",
		"tokenizer_config.json",
		"special_tokens_map.json",
		"added_tokens.json",
		"vocab.json",
		"merges.txt",
		"tokenizer.model",
		"chat_template.jinja",
		"model.safetensors",
	]);
	for (const { name } of Deno.readDirSync(folder.path)) Deno.removeSync(folder.file(name));
	writeModel(folder.path, randomModel(TINY_OPT, 2), 2);
	assert.deepEqual(list(), [
		"config.json",
		"model.safetensors.index.json",
		"model-00001-of-00002.safetensors",
		"model-00002-of-00002.safetensors",
	]);
});

Deno.test("packedConfig() tells the columns of layers that differ apart, and what is fused", () => {
	using _ = addArchitecture("wide", {
		read(fields) {
			const read = (config: object) =>
				ARCHITECTURES.llama.read(new Fields({ ...fields.json, ...config }, fields.file));
			const [narrow, wide] = [read({}), read({ intermediate_size: 104 })];
			return { ...narrow, steps: (layer) => (layer === 1 ? wide : narrow).steps(layer) };
		},
	});
	using folder = modelFolder({
		...randomModel(TINY_LLAMA, 5),
		config: { ...TINY_LLAMA, model_type: "wide" },
	});
	using model = openModel(folder.path);
	const { columns, fused } = model.packedConfig(64);
	assert.deepEqual(columns, {
		"self_attn.q_proj": 40,
		"self_attn.k_proj": 40,
		"self_attn.v_proj": 40,
		"self_attn.o_proj": 40,
		"mlp.gate_proj": 40,
		"mlp.up_proj": 40,
		"mlp.down_proj": 52,
		"model.layers.1.mlp.down_proj": 104,
	});
	assert.equal(fused, undefined);
});

Deno.test("withWeights() is the same model with other weights", () => {
	using folder = modelFolder(randomModel(TINY_LLAMA, 3));
	using model = openModel(folder.path);
	const path = folder.file("part.safetensors");
	writeSafetensors(path, [{
		name: "a.signs",
		dtype: "U32",
		shape: [0, 0],
		data: new Uint8Array(),
	}]);
	using part = openSafetensors(path);
	const quantization = {
		quant_method: "billm" as const,
		format_version: 1,
		block_size: 128,
		columns: {},
	};
	using other = model.withWeights(part, quantization);
	assert.equal(other.architecture, model.architecture);
	assert.equal(other.config, model.config);
	assert.equal(other.folder, model.folder);
	assert.equal(other.checkpoint, part);
	assert.equal(other.quantization, quantization);
	assert.equal(model.quantization, undefined);
});

/** Opens a folder and expects it to be refused; FOLDER in `text` stands for its path. */
function expectRefusal(folder: string, text: string): void {
	assert.throws(() => openModel(folder), new UserError(text.replaceAll("FOLDER", folder)));
}

Deno.test("a folder without a model is refused with what is missing", () => {
	using folder = new TemporaryFolder();
	const noFolder = 'Cannot open the model "FOLDER": there is no such folder; ' +
		"give the folder that holds config.json and the weights, " +
		"or a name on the hub such as facebook/opt-125m";
	expectRefusal(folder.file("x"), noFolder);
	const config = folder.file("config.json");
	expectRefusal(folder.path, 'Cannot read "FOLDER/config.json": no such file or folder');
	Deno.writeTextFileSync(config, JSON.stringify(TINY_LLAMA));
	expectRefusal(config, noFolder);
	expectRefusal(
		folder.path,
		'Cannot open "FOLDER": it has no weights as "model.safetensors" or "pytorch_model.bin", ' +
			"nor an index of such files",
	);
	Deno.writeTextFileSync(folder.file("pytorch_model.bin"), "");
	expectRefusal(
		folder.path,
		'Cannot read "FOLDER/pytorch_model.bin": it has 0 bytes that do not start as a file of ' +
			"torch.save(); download it again",
	);
});

Deno.test("a config.json that cannot be used is refused with its place", () => {
	using folder = modelFolder(randomModel(TINY_LLAMA, 4));
	const write = (config: unknown) =>
		Deno.writeTextFileSync(folder.file("config.json"), JSON.stringify(config));
	write({ ...TINY_LLAMA, model_type: "bert" });
	expectRefusal(
		folder.path,
		`"FOLDER/config.json": model_type must be a supported one (${MODEL_TYPES}), found "bert": ` +
			"it is an encoder",
	);
	write({ ...TINY_LLAMA, quantization_config: { quant_method: "awq" } });
	expectRefusal(
		folder.path,
		'"FOLDER/config.json": the model is quantized with "awq", which cannot be read; ' +
			"use the original model",
	);
	write([]);
	expectRefusal(folder.path, 'Cannot read "FOLDER/config.json": it does not hold a JSON object');
});

Deno.test("readJson() gives an object or says what is wrong", () => {
	using folder = new TemporaryFolder();
	const path = folder.file("x.json");
	const write = (text: string) => Deno.writeTextFileSync(path, text);
	write('{"a": [1, null]}');
	assert.deepEqual(readJson(denoFile(path)), { a: [1, null] });
	for (const text of ["[]", "null", '"a"', "1"]) {
		write(text);
		assert.throws(
			() => readJson(denoFile(path)),
			new UserError(`Cannot read "${path}": it does not hold a JSON object`),
		);
	}
	write('{"a": 1,}');
	assert.throws(
		() => readJson(denoFile(path)),
		new UserError(`Cannot read "${path}": it is not JSON; download it again`),
	);
	write("<!DOCTYPE html><p>Not found");
	assert.throws(
		() => readJson(denoFile(path)),
		new UserError(
			`Cannot read "${path}": it is an HTML page, perhaps an error message; download it again`,
		),
	);
	assert.throws(
		() => readJson(denoFile(path + "x")),
		new UserError(`Cannot read "${path}x": no such file or folder`),
	);
	assert.throws(() => readJson(denoFile(folder.path)), (error: Error) => {
		assert.ok(error instanceof UserError);
		assert.ok(error.message.startsWith(`Cannot read "${folder.path}": `), error.message);
		return true;
	});
});
