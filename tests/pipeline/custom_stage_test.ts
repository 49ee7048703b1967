import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { dequantizeBillm, salientColumns } from "../../codecs/billm/host.ts";
import { loadBillm } from "../../codecs/billm/store.ts";
import { ModelFiles } from "../../models/model_files.ts";
import type { RunEvent } from "../../pipeline/run/events.ts";
import type { RunRecord } from "../../pipeline/run/record.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { contents, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

const MOD = JSON.stringify(import.meta.resolve("../../mod.ts"));

/** Marks columns by a hash of where they are, in the place of salient-select. */
const RANDOM_SALIENT = `
import { type BlockContext, defineStage, z } from ${MOD};

export default defineStage({
  name: "random-salient",
  scope: "block",
  summary: "Mark columns at random",
  options: z.strictObject({
    share: z.number().min(0).max(1).default(0.25).describe("Fraction of the columns"),
  }),
  needs: [],
  gives: ["salient-columns"],

  async run(context: BlockContext, { share }) {
    const { gpu, linear, block, layer } = context;
    const marks = Uint32Array.from({ length: block.cols }, (_, i) => {
      const hash = (linear.rows * 31 + layer.index * 17 + (block.first + i) * 101) % 97;
      return Number(hash < 97 * share);
    });
    context.set("salient-columns", gpu.upload(marks, [block.cols]));
  },
});
`;
const expectedColumns = (rows: number, cols: number, layer: number, share: number) =>
	Array.from({ length: cols }, (_, col) => col)
		.filter((col) => (rows * 31 + layer * 17 + col * 101) % 97 < 97 * share);

/** The packed linear layers by name, with the layer's number. */
function packedLinears({ packed, layers }: RunRecord) {
	using model = ModelFiles.open(denoFolder(packed!.folder));
	const { columns, block_size } = model.quantization!;
	return layers!.flatMap(({ linears, layer }) =>
		linears.map(({ name }) => {
			const module = Object.keys(columns).find((module) => name.endsWith(`.${module}`))!;
			return {
				name,
				layer,
				host: loadBillm(model.checkpoint, name, { cols: columns[module], blockSize: block_size }),
			};
		})
	);
}

Deno.test("a user's block stage takes the place of salient-select", async (t) => {
	using place = new Workplace({ layers: 2 });
	writeFileSync(place.path("random_salient.ts"), RANDOM_SALIENT);
	const stages = place.method.with(3, { use: "./random_salient.ts", share: 0.3 });
	const { record } = await place.run({ stages });
	const { options } = record.stages[3];
	assert.deepEqual([record.stages[3].name, options], ["random-salient", { share: 0.3 }]);
	assert.ok("random-salient" in record.secondsByStage!);

	await t.step("its columns are those that are packed", () => {
		const linears = packedLinears(record);
		assert.equal(linears.length, 14);
		for (const { name, layer, host } of linears) {
			const { rows, cols, zones, planes } = host;
			assert.deepEqual([zones, planes], [2, 2]);
			assert.deepEqual(salientColumns(host), expectedColumns(rows, cols, layer, 0.3), name);
		}
	});

	await t.step("an interrupted run of it goes on and ends in the same bytes", async () => {
		const controller = new AbortController();
		const report = (event: RunEvent) => event.type === "layer" && controller.abort();
		const output = place.path("again");
		await assert.rejects(
			place.run({ stages, output }, { emit: report, signal: controller.signal }),
			{
				name: "AbortError",
			},
		);
		const { events } = await place.run({ stages, output });
		assert.equal(events.find((event) => event.type === "start")!.resumedLayers, 1);
		assert.deepEqual(contents(join(output, "model")), contents(place.path("out/model")));
	});

	await t.step("the command runs it as well, from any folder", async () => {
		const output = place.path("by-command");
		const { code, stdout, stderr } = await startTask("quantize", [
			place.pipeline({ stages, output }),
			"--set",
			"stages.random_salient.share=0.3",
		], { cwd: place.path("model") });
		assert.equal(code, 0, stderr);
		assert.match(stdout, /^Done in /m);
		assert.deepEqual(contents(join(output, "model")), contents(place.path("out/model")));
	});

	await t.step("changed code, wherever in its module, makes a different run", async () => {
		writeFileSync(place.path("random_salient.ts"), `${RANDOM_SALIENT}\nexport const more = 1;\n`);
		await assert.rejects(
			place.run({ stages }),
			new UserError(
				`The output folder "${place.path("out")}" holds a different run: the code of a stage has ` +
					`changed; choose another output, or give --overwrite to replace it`,
			),
		);
	});
});

const INPUT_STATISTICS = `
import { type LayerContext, type Tensor, z } from ${MOD};

const seen = new Map<LayerContext, { calls: number; tokens: number; squares: number }>();

export default {
  name: "input-statistics",
  scope: "layer",
  summary: "Report how large the inputs of the linear layers are",
  options: z.strictObject({ unit: z.string().default("") }),
  needs: ["calibration"],
  gives: [],

  async observe(context: LayerContext, _options: unknown, input: Tensor) {
    const [tokens, width] = input.shape;
    if (width !== context.linears[0].cols) throw new Error("the input is not that of the layers");
    const values = await context.gpu.read(input);
    const sum = seen.get(context) ?? { calls: 0, tokens: 0, squares: 0 };
    sum.calls++;
    sum.tokens += tokens;
    sum.squares += values.reduce((total, value) => total + value * value, 0) / width;
    seen.set(context, sum);
  },

  async run(context: LayerContext, { unit }: { unit: string }) {
    const { calls, tokens, squares } = seen.get(context)!;
    context.report({
      type: "metric",
      stage: "input-statistics",
      name: context.layer.index + " " + context.linears.map(({ module }) => module).join(" "),
      value: Math.sqrt(squares / tokens),
      text: calls + " batches, " + tokens + " tokens" + unit,
    });
  },
};
`;

Deno.test("a user's layer stage observes the inputs of each group of linear layers", async () => {
	using place = new Workplace({ layers: 2 });
	writeFileSync(place.path("input_statistics.ts"), INPUT_STATISTICS);
	const { events } = await place.run({
		stages: [
			"download",
			place.calibrateWith({ samples: 5, "batch-tokens": 64 }),
			{ use: "./input_statistics.ts", unit: " in all" },
		],
	});
	const metrics = events.filter((event) => event.type === "metric");
	const groups = [
		"self_attn.q_proj self_attn.k_proj self_attn.v_proj",
		"self_attn.o_proj",
		"mlp.gate_proj mlp.up_proj",
		"mlp.down_proj",
	];
	assert.deepEqual(
		metrics.map(({ name, text }) => [name, text]),
		[0, 1].flatMap((layer) =>
			groups.map((group) => [`${layer} ${group}`, "3 batches, 160 tokens in all"])
		),
	);
	const [normed, , normedToo] = metrics;
	for (const { value } of [normed, normedToo]) {
		assert.ok(Math.abs(value - 1) < 0.2, "what comes out of an RMS norm with weights near 1");
	}
});

const NOTHING = `
import { z } from ${MOD};
export default {
  name: "nothing", scope: "block", summary: "Leave the plainest fit", needs: [], gives: [],
  options: z.strictObject({ "block-size": z.int().default(32) }),
  blockSize: (options: { "block-size": number }) => options["block-size"],
  async run() {},
};
`;

Deno.test("a block stage that does nothing leaves one mean and one scale for each row", async () => {
	using place = new Workplace({ layers: 1, dtype: "F32" });
	writeFileSync(place.path("nothing.ts"), NOTHING);
	const { record } = await place.run({
		stages: ["download", place.calibrate, { use: "nothing.ts" }, { pack: { scales: "f16" } }],
	});
	using original = ModelFiles.open(denoFolder(place.model));
	for (const { name, host } of packedLinears(record)) {
		const { rows, cols, blockSize, zones, planes } = host;
		assert.deepEqual([blockSize, zones, planes], [32, 1, 0]);
		const weight = original.checkpoint.readFloat32(`${name}.weight`);
		const found = dequantizeBillm(host);
		for (let row = 0; row < rows; row++) {
			for (let first = 0; first < cols; first += 32) {
				const at = row * cols + first;
				const block = weight.subarray(at, at + Math.min(32, cols - first));
				const mean = block.reduce((sum, w) => sum + w, 0) / block.length;
				const scale = block.reduce((sum, w) => sum + Math.abs(w - mean), 0) / block.length;
				block.forEach((w, i) => {
					const expected = mean + (w >= mean ? scale : -scale);
					const off = Math.abs(found[at + i] - expected);
					assert.ok(off < 2e-4, `${name}[${row}, ${first + i}] is off by ${off}`); // f16 near 0.1
				});
			}
		}
	}
});

Deno.test("a block stage of the user's own may set the block size, to one that there is", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(place.path("nothing.ts"), NOTHING);
	const stages = [
		"download",
		place.calibrate,
		{ use: "nothing.ts", "block-size": 100 },
		"pack",
	];
	await assert.rejects(place.run({ stages }), {
		name: "PipelineFileError",
		message: `${place.path("pipeline0.yaml")}:7:12: Stage "nothing" sets blocks of 100 columns; ` +
			"32, 64, 128, 256 are possible",
	});
});

const SUMMARY = `
import { type ModelContext, z } from ${MOD};
export default {
  name: "summary", scope: "model", summary: "Write a note", needs: ["packed-model"], gives: [],
  options: z.strictObject({ note: z.string() }),
  async run(context: ModelContext, { note }: { note: string }) {
    const { files } = context.get("packed-model");
    const path = context.folder.path + "/note.txt";
    await Deno.writeTextFile(path, note + ": " + files.length + " files\\n");
  },
};
`;

Deno.test("a user's model stage runs after pack and keeps its place in the run's folder", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(place.path("summary.ts"), SUMMARY);
	const stages = [...place.method, { use: "summary.ts", note: "Packed" }];
	await place.run({ stages });
	const note = () => readFileSync(place.path("out/note.txt"), "utf8");
	assert.equal(note(), "Packed: 7 files\n");
	const { events } = await place.run({ stages });
	assert.equal(events.at(-1)!.type, "already-done");
	assert.equal(note(), "Packed: 7 files\n");
});

const THROWS = `
import { defineStage, UserError, z } from ${MOD};
export default defineStage({
  name: "throws", scope: "block", summary: "Fail in the second layer", needs: [], gives: [],
  options: z.strictObject({ kindly: z.boolean().default(false) }),
  async run({ layer }, { kindly }) {
    if (layer.index === 0) return;
    throw kindly ? new UserError("Nothing of mine fits here") : new Error("my own mistake");
  },
});
`;

Deno.test("a user's stage that throws ends the run, which keeps its complete layers", async () => {
	using place = new Workplace({ layers: 2 });
	writeFileSync(place.path("throws.ts"), THROWS);
	const run = (kindly: boolean) =>
		startTask("quantize", [
			place.pipeline({
				output: place.path(`out-${kindly}`),
				stages: ["download", place.calibrate, { use: "throws.ts", kindly }, "pack"],
			}),
		]);
	const rude = await run(false);
	assert.equal(rude.code, 1);
	assert.match(
		rude.stderr,
		/^Error: the stage of ".*throws\.ts" has failed in layer 2, self_attn\.q_proj: Error: my own mistake\n/,
	);
	assert.match(rude.stderr, /throws\.ts:8:/, "the place in the user's own file");
	const kind = await run(true);
	assert.equal(kind.code, 1);
	assert.equal(
		kind.stderr,
		'Error: Stage "throws" in layer 2, self_attn.q_proj: Nothing of mine fits here\n',
	);
	for (const kindly of [false, true]) {
		assert.deepEqual(Object.keys(contents(place.path(`out-${kindly}`))), [
			"calibration.safetensors",
			"layers/00000.json",
			"model/model-00002-of-00003.safetensors",
			"pipeline.yaml",
			"run.json",
		]);
	}
});

const SOMETIMES = `
import { defineStage, z } from ${MOD};
export default defineStage({
  name: "sometimes", scope: "block", summary: "Mark columns in the second block only",
  needs: [], gives: ["salient-columns"],
  options: z.strictObject({ "block-size": z.int().default(32) }),
  blockSize: (options: { "block-size": number }) => options["block-size"],
  async run(context) {
    const { gpu, block } = context;
    if (block.first === 0) return;
    context.set("salient-columns", gpu.upload(new Uint32Array(block.cols).fill(1, 0, 2), [block.cols]));
  },
});
`;

Deno.test("a user's stage that treats blocks of a layer differently is refused", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(place.path("sometimes.ts"), SOMETIMES);
	const stages = ["download", place.calibrate, { use: "sometimes.ts" }, "pack"];
	await assert.rejects(
		place.run({ stages }),
		new UserError(
			'The block of "model.layers.0.self_attn.q_proj" from column 32 on has 1 zone and ' +
				"1 salient plane, the blocks before it 1 zone and 0 salient planes; " +
				"a stage must do the same in each block",
		),
	);
});

Deno.test("a stage module without a function to run is refused", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(place.path("idle.ts"), NOTHING.replace("async run() {},", ""));
	const file = place.pipeline({ stages: ["download", place.calibrate, { use: "./idle.ts" }] });
	const { code, stderr } = await startTask("quantize", [file, "--check"]);
	assert.equal(
		stderr,
		`${file}:7:12: Cannot load the stage "./idle.ts": stage lacks "run": ` +
			"the function that does the work\n",
	);
	assert.equal(code, 2);
});

Deno.test("a user's stage that throws is named, whatever its folder and file are called", async () => {
	using place = new Workplace({ layers: 1 });
	for (const name of ["a b", "ü", "p%20q", "h#x", "100%", "c(d)"]) {
		mkdirSync(place.path(name));
		writeFileSync(place.path(`${name}/${name}.ts`), THROWS.replace("layer.index === 0", "!layer"));
		const use = `${name}/${name}.ts`;
		const file = place.pipeline({
			stages: ["download", place.calibrate, { use, kindly: false }, "pack"],
		});
		const { code, stderr } = await startTask("quantize", [file]);
		assert.ok(
			stderr.startsWith(`Error: the stage of "${place.path(use)}" has failed in layer 1, `),
			stderr,
		);
		assert.equal(code, 1);
	}
});
