import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { foreignWeights, modelWeights, shardsOf, smallFiles } from "~/hub/model_selection.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

Deno.test("modelWeights() takes one format, safetensors if it can", () => {
	const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
	const bins = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
	const index = "model.safetensors.index.json";
	const binIndex = "pytorch_model.bin.index.json";
	const others = ["consolidated.safetensors", "tf_model.h5", "flax_model.msgpack", "model.onnx"];
	const cases: [string[], ReturnType<typeof modelWeights>][] = [
		[["model.safetensors", "pytorch_model.bin", ...others], { files: ["model.safetensors"] }],
		[[...shards, index, ...bins, binIndex, ...others], { index, files: shards }],
		[["pytorch_model.bin", ...others], { files: ["pytorch_model.bin"] }],
		[[...bins, binIndex, ...others], { index: binIndex, files: bins }],
		[["model.safetensors", index, ...shards], { files: ["model.safetensors"] }],
		[[index, ...shards], { index, files: shards }],
		[[...shards, "pytorch_model.bin"], { files: ["pytorch_model.bin"] }],
		[others, undefined],
	];
	for (const [names, expected] of cases) assert.deepEqual(modelWeights(names), expected);
});

Deno.test("foreignWeights() says what is there", () => {
	assert.equal(foreignWeights(["README.md", "config.json"]), undefined);
	assert.equal(
		foreignWeights(["a.Q4.gguf", "README.md", "b.gguf", "tf_model.h5", "c.gguf"]),
		'GGUF ("a.Q4.gguf" and 2 more), TensorFlow ("tf_model.h5")',
	);
});

Deno.test("smallFiles() takes the configuration and the tokenizer", () => {
	const names = ["README.md", "vocab.json", "config.json", "merges.txt", "training_args.bin"];
	assert.deepEqual(smallFiles(names), ["config.json", "vocab.json", "merges.txt"]);
});

Deno.test("shardsOf() lists each shard once and refuses paths", () => {
	using folder = new TemporaryFolder();
	const path = folder.file("index.json");
	const write = (value: unknown) => writeFileSync(path, JSON.stringify(value));
	write({ weight_map: { c: "2.safetensors", a: "1.safetensors", b: "2.safetensors" } });
	assert.deepEqual(shardsOf(path), ["1.safetensors", "2.safetensors"]);
	const refuses = (problem: string) =>
		assert.throws(() => shardsOf(path), {
			name: "UserError",
			message: `Cannot read "${path}": ${problem}`,
		});
	for (const none of [{}, { weight_map: null }]) {
		write(none);
		refuses(`it has no object "weight_map"`);
	}
	write({ weight_map: {} });
	refuses(`its "weight_map" is empty`);
	for (const name of ["../x", "a/b", "..", "", "c:x", "a\\b", 7]) {
		write({ weight_map: { a: name } });
		refuses(
			`it puts "a" in ${JSON.stringify(name)}, which is not the name of a file in its folder`,
		);
	}
});
