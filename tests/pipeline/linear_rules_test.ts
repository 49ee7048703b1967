import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { codecOf, loadLinear } from "../../codecs/mod.ts";
import { readLlama } from "../../models/architectures/llama.ts";
import { addArchitecture } from "../../models/architectures/mod.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { PlainWeights } from "../../models/plain_weights.ts";
import { loadPipeline } from "../../pipeline/config/config.ts";
import { PipelineFileError } from "../../pipeline/config/errors.ts";
import type { LinearRecord } from "../../pipeline/run/events.ts";
import { STAGES } from "../../stages/mod.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { contents, type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

const RULES = {
	bits: 2,
	"group-size": 64,
	overrides: {
		"*.mlp.*": { bits: 3 },
		"*.down_proj": { bits: 4, zeros: "symmetric" },
		"*.v_proj": { "group-size": "row", order: "falling" },
	},
	skip: ["model.layers.0.self_attn.?_proj", "*.1.mlp.up_proj"],
};

const stages = (place: Workplace, options: Record<string, unknown>): StageItem[] => [
	"download",
	place.calibrate,
	{ rotate: { block: 32 } },
	"hessian",
	"propagate-error",
	{ gptq: options },
	"pack",
	place.evaluate,
];

Deno.test("overrides and skip: each linear layer is stored by its own rule", async (t) => {
	using place = new Workplace({ layers: 2 });
	const { record } = await place.run({ stages: stages(place, RULES) });
	const linears = record.layers!.flatMap(({ linears }) => linears);
	const folder = record.packed!.folder;

	await t.step("bits, zeros and groups are those of the last pattern that fits", () => {
		using model = ModelFiles.open(denoFolder(folder));
		for (const { name, rows, cols, dense } of linears) {
			const isDense = name.startsWith("model.layers.0.self_attn") || name.endsWith("1.mlp.up_proj");
			assert.equal(dense, isDense ? true : undefined, name);
			if (isDense) {
				assert.equal(codecOf(model.checkpoint, name), undefined, name);
				assert.deepEqual(model.checkpoint.get(`${name}.weight`).shape, [rows, cols]);
				continue;
			}
			const { host } = loadLinear(model.checkpoint, model.quantization!, name)!;
			const { bits, zeros, groupSize, order } = host as unknown as Record<string, unknown>;
			const isDown = name.endsWith("down_proj");
			const isValue = name.endsWith("v_proj");
			assert.equal(bits, isDown ? 4 : name.includes(".mlp.") ? 3 : 2, name);
			assert.equal(zeros, isDown ? "symmetric" : "free", name);
			assert.equal(groupSize, isValue ? cols : 64, name);
			assert.equal(order !== undefined, isValue, name);
		}
	});

	await t.step("skipped ones keep the bytes of the original", () => {
		using before = ModelFiles.open(denoFolder(place.model));
		using after = ModelFiles.open(denoFolder(folder));
		const skipped = linears.filter(({ dense }) => dense);
		assert.equal(skipped.length, 5);
		for (const { name, rotation, correction, relativeOutputError } of skipped) {
			const [a, b] = [before, after].map(({ checkpoint }) =>
				checkpoint.readBytes(`${name}.weight`)
			);
			assert.deepEqual(a, b, name);
			assert.deepEqual([rotation, correction, relativeOutputError], [
				undefined,
				undefined,
				undefined,
			]);
		}
	});

	await t.step("the output errors are those of the linear layers that have one", () => {
		for (const { name, relativeOutputError, dense } of linears) {
			assert.equal(typeof relativeOutputError, dense ? "undefined" : "number", name);
		}
		const errorOf = (end: string) =>
			linears.find(({ name }) => name.endsWith(end))!.relativeOutputError!;
		assert.ok(errorOf("1.mlp.down_proj") < 0.5 * errorOf("1.self_attn.q_proj"));
	});

	await t.step("stored bits count dense weights", () => {
		const { storedBits, storedBitsByPart, weights } = record.packed!;
		const size = ({ rows, cols }: LinearRecord) => rows * cols;
		const total = linears.reduce((sum, linear) => sum + size(linear), 0);
		const dense = linears.filter(({ dense }) => dense)
			.reduce((sum, linear) => sum + size(linear), 0);
		assert.equal(weights, total);
		assert.equal(storedBitsByPart.dense, 16 * dense / total);
		const parts = Object.values(storedBitsByPart).reduce((a, b) => a + b);
		assert.ok(Math.abs(storedBits - parts) < 1e-9);
	});

	await t.step("later layers see the original weights of skipped ones", () => {
		const { original, packed } = record.evaluation!;
		assert.ok(packed![0].perplexity < 4 * original[0].perplexity);
	});

	await t.step("inspect lists them apart", async () => {
		const { stdout } = await startTask("inspect", [folder, "--json"]);
		const report = JSON.parse(stdout);
		assert.equal(report.linears.length, 9);
		assert.equal(report.dense.length, 5);
		assert.equal(report.weights, record.packed!.weights);
		const text = (await startTask("inspect", [folder])).stdout;
		assert.match(text, /0\.self_attn\.q_proj +\[64, 64\] +F16 +16\.000/);
	});

	await t.step("dequantize and generate read such models", async () => {
		const plain = place.path("plain");
		assert.equal((await startTask("dequantize", [folder, plain])).code, 0);
		using weights = PlainWeights.open(denoFolder(plain));
		assert.deepEqual(
			[...weights.tensors.keys()].sort(),
			[...ModelFiles.open(denoFolder(place.model)).checkpoint.tensors.keys()].sort(),
		);
		const args = [folder, "--prompt", "The city", "--max-tokens", "3", "--json"];
		const { code, stderr } = await startTask("generate", args);
		assert.equal(code, 0, stderr);
	});
});

Deno.test("a run with rules goes on after an interruption and ends in the same bytes", async () => {
	using place = new Workplace({ layers: 2 });
	const fields = { stages: stages(place, RULES) };
	await place.run(fields);
	assert.deepEqual(await place.resumed(fields), contents(place.path("out", "model")));
});

Deno.test("all linear layers skipped: a packed model without codes", async () => {
	using place = new Workplace({ layers: 2 });
	const { record } = await place.run({ stages: stages(place, { skip: ["*"] }) });
	assert.equal(record.packed!.storedBitsByPart.dense, 16);
	const { original, packed } = record.evaluation!;
	const ratio = packed![0].perplexity / original[0].perplexity;
	assert.ok(Math.abs(ratio - 1) < 0.01, `${ratio}`);
});

Deno.test("rtn without calibration has rules too", async () => {
	using place = new Workplace({ layers: 2 });
	const rtn = { bits: 8, overrides: { "*.1.*": { bits: 2 } }, skip: ["*.0.mlp.down_proj"] };
	const { record } = await place.run({ stages: ["download", { rtn }, "pack"] });
	const linears = record.layers!.map(({ linears }) => linears.map(({ paperBits }) => paperBits));
	assert.deepEqual(linears, [[8, 8, 8, 8, 8, 8, 16], [2, 2, 2, 2, 2, 2, 2]]);
});

/** A model whose checkpoint has q, k and v as one tensor, and gate and up. */
const FUSED: MicroModelOptions = {
	layers: 2,
	config: { model_type: "fused-llama" },
	alter(tensors) {
		const fuse = (prefix: string, parts: string[], whole: string) => {
			const found = parts.map((part) => tensors.get(`${prefix}${part}.weight`)!);
			const rows = found.reduce((sum, { shape }) => sum + shape[0], 0);
			const values = Float32Array.from(found.flatMap(({ values }) => [...values]));
			tensors.set(`${prefix}${whole}.weight`, { shape: [rows, found[0].shape[1]], values });
			for (const part of parts) tensors.delete(`${prefix}${part}.weight`);
		};
		for (let layer = 0; layer < 2; layer++) {
			const prefix = `model.layers.${layer}.`;
			fuse(
				prefix,
				["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
				"self_attn.qkv_proj",
			);
			fuse(prefix, ["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj");
		}
	},
};

Deno.test("linear layers that are one tensor in the checkpoint are skipped together", async () => {
	using _ = addArchitecture("fused-llama", {
		read: (fields) =>
			readLlama(fields, {
				intermediateSize: 100,
				maxLength: 128,
				fused: { qkv: "self_attn.qkv_proj", gateUp: "mlp.gate_up_proj" },
			}),
	});
	using place = new Workplace(FUSED);
	const skip = ["*.0.self_attn.?_proj", "*.1.mlp.gate*", "*.1.mlp.up*"];
	await assert.rejects(place.run({ stages: stages(place, { skip: ["*.1.mlp.up_proj"] }) }), {
		name: "UserError",
		message: 'gptq.skip leaves out "model.layers.1.mlp.up_proj", but in ' +
			`"${place.model}" it is a part of "model.layers.1.mlp.gate_up_proj"; skip all of ` +
			"model.layers.1.mlp.gate_proj, model.layers.1.mlp.up_proj, or none",
	});
	const { record, events } = await place.run({ stages: stages(place, { skip }) });
	const warnings = events.flatMap((event) => event.type === "warning" ? event.message : []);
	assert.ok(!warnings.some((message) => /report/.test(message)), `${warnings}`);
	const folder = record.packed!.folder;
	using before = ModelFiles.open(denoFolder(place.model));
	using after = ModelFiles.open(denoFolder(folder));
	for (const name of ["model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"]) {
		const [a, b] = [before, after].map(({ checkpoint }) => checkpoint.readBytes(`${name}.weight`));
		assert.deepEqual(a, b, name);
	}
	const dense = record.layers!.flatMap(({ linears }) => linears).filter(({ dense }) => dense);
	const size = dense.reduce((sum, { rows, cols }) => sum + 2 * rows * cols, 0);
	assert.equal(dense.length, 6); // with o_proj
	assert.equal(dense.reduce((sum, { storedBytes }) => sum + storedBytes.dense, 0), size);
	const plain = place.path("plain");
	const { code, stderr } = await startTask("dequantize", [folder, plain]);
	assert.equal(code, 0, stderr);
	using weights = PlainWeights.open(denoFolder(plain));
	assert.deepEqual(
		[...weights.tensors.keys()].sort(),
		[...before.checkpoint.tensors.keys()].sort(),
	);
});

const CUSTOM = `
import { DenseWeight, defineQuantizer, z } from ${
	JSON.stringify(import.meta.resolve("../../mod.ts"))
};
import { rtn } from ${JSON.stringify(import.meta.resolve("../../stages/rtn.ts"))};

export default defineQuantizer({
  name: "own",
  summary: "Round with an option of its own",
  options: z.strictObject({ width: z.literal([2, 4]).default(4).describe("Bits") }),
  needs: ["model-files"],
  gives: ["block-error"],
  run: (context, { width }) => rtn.run(context, { bits: width, "group-size": "row" }),
});
`;

Deno.test("a stage of one's own has rules by defineQuantizer", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(place.path("own.ts"), CUSTOM);
	const own = { use: "./own.ts", overrides: { "*.q_proj": { width: 2 } }, skip: ["*.k_proj"] };
	const { record } = await place.run({ stages: ["download", own, "pack"] });
	const bits = record.layers![0].linears.map(({ paperBits }) => paperBits);
	assert.deepEqual(bits, [2, 16, 4, 4, 4, 4, 4]);
});

/** The problems of a file with these options of gptq, without the file's name. */
async function problemsOf(options: string): Promise<string[]> {
	using place = new Workplace({ layers: 1 });
	const file = join(place.folder, "rules.yaml");
	const head = `name: rules\nmodel: ${place.model}\nstages:\n  - download\n` +
		`  - calibrate: { dataset: ./x }\n  - hessian\n  - gptq:\n`;
	writeFileSync(file, head + options.replaceAll(/^/gm, "      "));
	const error = await loadPipeline(file, { stages: STAGES }).then(() => undefined, (e) => e);
	if (error === undefined) return [];
	assert.ok(error instanceof PipelineFileError);
	return error.problems.map(({ where, message }) => `${where.slice(file.length + 1)} ${message}`);
}

Deno.test("rules are checked by the stage's own schema, each at its place", async () => {
	const checks: [options: string, ...problems: string[]][] = [
		['bits: 2\noverrides:\n  "*.v_proj": { bits: 3 }'],
		[
			'overrides:\n  "*.v_proj": { bits: 7 }',
			"9:29 gptq.overrides.*.v_proj.bits must be one of 1, 2, 3, 4, 8, found 7",
		],
		[
			'overrides:\n  "*.v_proj":\n    zero: free',
			'10:11 Unknown key "zero" in gptq.overrides.*.v_proj; did you mean "zeros"?',
		],
		[
			'overrides:\n  "*.v_proj": { overrides: {} }',
			'9:23 Unknown key "overrides" in gptq.overrides.*.v_proj; known keys: bits, group-size, ' +
			"grid, zeros, order, feedback, refit",
		],
		[
			'bits: 1\noverrides:\n  "*.v_proj": { grid: mean, zeros: free }',
			'10:42 gptq.overrides.*.v_proj.zeros must be absent without grid: search, found "free"',
		],
		[
			'zeros: half\noverrides:\n  "*.v_proj": { grid: range }',
			"10:21 gptq.overrides.*.v_proj does not fit the other options: zeros must be absent " +
			'without grid: search, found {"grid":"range"}',
		],
		[
			'group-size: 64\noverrides:\n  "*.v_proj": { group-size: 32 }',
			"10:21 gptq.overrides.*.v_proj sets blocks of 32 columns, but a model has blocks of one " +
			'size, 64 here, found {"group-size":32}',
		],
		["skip: model.layers.0.*", '8:13 gptq.skip must be a list, found "model.layers.0.*"'],
		["skip: []", "8:13 gptq.skip must not be empty, found []"],
	];
	for (const [options, ...problems] of checks) {
		assert.deepEqual(await problemsOf(options), problems, options);
	}
});

Deno.test("a pattern that fits nothing is refused with names near it", async () => {
	using place = new Workplace({ layers: 2 });
	const refused = async (options: Record<string, unknown>, message: string) =>
		await assert.rejects(place.run({ stages: stages(place, options) }), {
			name: "UserError",
			message: message.replaceAll("MODEL", place.model),
		});
	await refused(
		{ overrides: { "*.donw_proj": { bits: 3 } } },
		'"*.donw_proj" in gptq.overrides fits no linear layer of "MODEL"; near it: ' +
			"model.layers.0.mlp.down_proj, model.layers.0.self_attn.o_proj, " +
			"model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj",
	);
	await refused(
		{ skip: ["model.layer.0.self_attn.q_proj"] },
		'"model.layer.0.self_attn.q_proj" in gptq.skip fits no linear layer of "MODEL"; near it: ' +
			"model.layers.0.self_attn.q_proj, model.layers.0.self_attn.k_proj, " +
			"model.layers.0.self_attn.v_proj, model.layers.0.self_attn.o_proj",
	);
});

Deno.test("the needs of a stage are those of all its overrides", async () => {
	using place = new Workplace({ layers: 1 });
	const file = (order: string) =>
		place.pipeline({
			stages: ["download", place.calibrate, "hessian", {
				gptq: { order: "none", overrides: { "*.q_proj": { order } } },
			}, "pack"],
		});
	const needsOf = async (order: string) => {
		const { stages } = await loadPipeline(file(order), { stages: STAGES });
		const { stage, options } = stages[3];
		return (stage.needs as (options: unknown) => string[])(options);
	};
	assert.deepEqual(await needsOf("none"), ["factor"]);
	assert.deepEqual(await needsOf("static"), ["factor", "ordered-factor"]);
});
