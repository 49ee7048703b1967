// A run with the stage export, and the command: weights decoded from each format are those of the packed
// model.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ModelFiles } from "../../models/model_files.ts";
import { layerPlaces } from "../../models/places.ts";
import { PlainWeights } from "../../models/plain_weights.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { PROJECT } from "../checkout.ts";
import { Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";
import { decodeBlocks, field, readGguf } from "./decoders.ts";

const LAYERS = 2;
const HEAD = 16;

/** The example of the documentation, with another model. */
function example(place: Workplace): string {
	const text = readFileSync(join(PROJECT, "docs/export.md"), "utf8");
	const [, yaml] = /```yaml\n(name:[^`]+)```/.exec(text)!;
	return yaml
		.replace(/^model: .*$/m, `model: ${JSON.stringify(place.model)}`)
		.replace(/^name: .*$/m, (line) => `${line}\noutput: ${JSON.stringify(place.path("out"))}`);
}

const place = new Workplace({ hidden: 64, intermediate: 128, layers: LAYERS });
addEventListener("unload", () => place[Symbol.dispose]());
const file = place.path("example.yaml");
Deno.writeTextFileSync(file, example(place));
const quantized = await startTask("quantize", [file]);
const model = place.path("out/model");
const exports = (...names: string[]) => place.path("out/exports", ...names);

/** The dequantized weights of the packed linear layers, by name. */
function weights(): Map<string, { rows: number; cols: number; values: Float32Array }> {
	using files = ModelFiles.open(denoFolder(model));
	using plain = PlainWeights.open(denoFolder(model));
	const { architecture } = files;
	return new Map(
		Array.from({ length: LAYERS }, (_, layer) => [...layerPlaces(architecture, layer)]).flat()
			.flatMap(({ linear, name, shape: [rows, cols] }) =>
				linear ? [[linear, { rows, cols, values: plain.rowsOf(name)(0, rows) }] as const] : []
			),
	);
}

/** A function that reads the words of a tensor. */
function wordsOf(checkpoint: Checkpoint) {
	return (name: string) => new Uint32Array(checkpoint.readBytes(name).buffer);
}

Deno.test("the example of docs/export.md writes all formats", () => {
	assert.equal(quantized.code, 0, quantized.stderr);
	assert.deepEqual(readdirSync(exports()).sort(), [
		"compressed-tensors",
		"gptq",
		"mlx",
		"model.gguf",
	]);
});

Deno.test("gguf: metadata, names and weights, rows of q and k in the order of llama.cpp", () => {
	const { metadata, tensors } = readGguf(readFileSync(exports("model.gguf")));
	const expected: Record<string, unknown> = {
		"general.architecture": "llama",
		"general.file_type": 2,
		"llama.block_count": LAYERS,
		"llama.attention.head_count": 4,
		"llama.attention.head_count_kv": 2,
		"llama.rope.dimension_count": HEAD,
		"tokenizer.ggml.model": "gpt2",
		"tokenizer.ggml.pre": "gpt-2",
		"tokenizer.ggml.add_bos_token": true,
		"tokenizer.ggml.bos_token_id": 3,
		"tokenizer.ggml.eos_token_id": 2,
	};
	for (const [key, value] of Object.entries(expected)) {
		assert.deepEqual(metadata.get(key), value, key);
	}
	assert.equal((metadata.get("tokenizer.ggml.tokens") as string[]).length, 4096);
	const names: Record<string, string> = {
		"self_attn.q_proj": "attn_q",
		"self_attn.k_proj": "attn_k",
		"self_attn.v_proj": "attn_v",
		"self_attn.o_proj": "attn_output",
		"mlp.gate_proj": "ffn_gate",
		"mlp.up_proj": "ffn_up",
		"mlp.down_proj": "ffn_down",
	};
	for (const [linear, { rows, cols, values }] of weights()) {
		const [, layer, module] = /layers\.(\d)\.(.*)$/.exec(linear)!;
		const { type, bytes, shape } = tensors.get(`blk.${layer}.${names[module]}.weight`)!;
		assert.deepEqual([type, ...shape], [2, rows, cols]);
		const found = decodeBlocks(type, bytes, rows * cols);
		for (let row = 0; row < rows; row++) {
			// Row 2i of a head is row i, row 2i + 1 is row i + half a head.
			const at = row % HEAD;
			const from = /[qk]_proj/.test(module)
				? row - at + (at % 2) * HEAD / 2 + Math.floor(at / 2)
				: row;
			assert.deepEqual(
				found.subarray(row * cols, (row + 1) * cols).map((value) => value + 0),
				values.subarray(from * cols, (from + 1) * cols).map((value) => value + 0),
				`${linear}, row ${row}`,
			);
		}
	}
});

Deno.test("compressed-tensors: codes, scales and config.json", () => {
	using checkpoint = Checkpoint.open(denoFolder(exports("compressed-tensors")));
	const words = wordsOf(checkpoint);
	for (const [name, { rows, cols, values }] of weights()) {
		const packed = words(`${name}.weight_packed`);
		const scales = checkpoint.readFloat32(`${name}.weight_scale`);
		assert.deepEqual(
			new BigInt64Array(checkpoint.readBytes(`${name}.weight_shape`).buffer),
			BigInt64Array.of(BigInt(rows), BigInt(cols)),
		);
		const found = values.map((_, i) => scales[Math.floor(i / 32)] * (field(packed, 4, i) - 8));
		assert.deepEqual(found.map((value) => value + 0), values.map((value) => value + 0), name);
	}
	const config = JSON.parse(readFileSync(exports("compressed-tensors/config.json"), "utf8"));
	const { quant_method: method, format, config_groups: groups } = config.quantization_config;
	assert.deepEqual([method, format], ["compressed-tensors", "pack-quantized"]);
	const { num_bits: bits, symmetric, group_size: size } = groups.group_0.weights;
	assert.deepEqual([bits, symmetric, size, groups.group_0.targets], [4, true, 32, ["Linear"]]);
});

Deno.test("gptq: codes along the columns, zeros along the rows, the group of each column", () => {
	using checkpoint = Checkpoint.open(denoFolder(exports("gptq")));
	const words = wordsOf(checkpoint);
	for (const [name, { rows, cols, values }] of weights()) {
		const [codes, zeros, groupOf] = ["qweight", "qzeros", "g_idx"].map((part) =>
			words(`${name}.${part}`)
		);
		const scales = checkpoint.readFloat32(`${name}.scales`);
		const found = values.map((_, i) => {
			const [row, col] = [Math.floor(i / cols), i % cols];
			const code = codes[Math.floor(col / 8) * rows + row] >>> (col % 8 * 4) & 15;
			const zero = zeros[groupOf[col] * rows / 8 + Math.floor(row / 8)] >>> (row % 8 * 4) & 15;
			return scales[groupOf[col] * rows + row] * (code - zero);
		});
		assert.deepEqual(found.map((value) => value + 0), values.map((value) => value + 0), name);
	}
	const { quantization_config: config } = JSON.parse(
		readFileSync(exports("gptq/config.json"), "utf8"),
	);
	const { bits, group_size: size, sym, desc_act: ordered, checkpoint_format: format } = config;
	assert.deepEqual([bits, size, sym, ordered, format], [4, 32, true, false, "gptq_v2"]);
});

Deno.test("mlx: codes, scales and biases", () => {
	using checkpoint = Checkpoint.open(denoFolder(exports("mlx")));
	const words = wordsOf(checkpoint);
	for (const [name, { values }] of weights()) {
		const codes = words(`${name}.weight`);
		const [scales, biases] = ["scales", "biases"].map((part) =>
			checkpoint.readFloat32(`${name}.${part}`)
		);
		const found = values.map((_, i) => {
			const group = Math.floor(i / 32);
			return Math.fround(scales[group] * field(codes, 4, i)) + biases[group];
		});
		assert.deepEqual(found.map((value) => value + 0), values.map((value) => value + 0), name);
	}
});

Deno.test("the same command writes again what is gone; no file is half-written or replaced", async () => {
	rmSync(exports("model.gguf"));
	const { code, stderr } = await startTask("quantize", [file]);
	assert.equal(code, 0, stderr);
	assert.ok(existsSync(exports("model.gguf")));
	const again = await startTask("export", [place.path("out"), "--to", "mlx", exports("mlx")]);
	assert.equal(again.code, 1);
	assert.match(again.stderr, /is not empty; give another, or --overwrite/);
	const odd = await startTask("export", [model, "--to", "ggfu", exports("x.gguf")]);
	assert.equal(odd.code, 2);
	assert.match(odd.stderr, /did you mean "gguf"\?/);
});

Deno.test("types that do not fit are refused with their reason; allow: lossy approximates", async () => {
	const out = place.path("other.gguf");
	const args = [place.path("out"), "--to", "gguf", out, "--types", "q2_k,Q1_0"];
	const refused = await startTask("export", args);
	assert.equal(refused.code, 1);
	assert.match(refused.stderr, /Q1_0 holds -1 and 1 times a scale, not the multiples -8 to 7/);
	assert.ok(!existsSync(out));
	const lossy = await startTask("export", [...args, "--allow", "lossy"]);
	assert.equal(lossy.code, 0, lossy.stderr);
	assert.match(
		lossy.stderr,
		/Approximated as F16, dequantized: "model\.layers\.0\.self_attn\.q_proj" and 13 others/,
	);
	assert.match(lossy.stdout, /15 F16/);
});

Deno.test("a rotation, BiLLM's zones and unknown families are refused", async () => {
	const stages = ["download", "rotate", { rtn: { bits: 4 } }, "pack", { export: ["gguf"] }];
	await assert.rejects(place.run({ output: place.path("turned"), stages }), /leave rotate out/);
	const unknown = place.pipeline({ stages: ["download", "sign", "pack", { export: ["ggml"] }] });
	const { code, stderr } = await startTask("quantize", [unknown]);
	assert.equal(code, 2);
	assert.match(stderr, /found "ggml"; did you mean "gguf"\?/);
	const opt = join(PROJECT, "examples/models/tiny-opt");
	const family = await startTask("export", [opt, "--to", "gguf", place.path("opt.gguf")]);
	assert.match(family.stderr, /llama\.cpp has no "opt" models; it has llama,/);
	const plain = await startTask("export", [place.model, "--to", "gptq", place.path("plain")]);
	assert.match(plain.stderr, /it is not packed/);
});
