import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { UserError } from "../../base/errors.ts";
import { workingBytes } from "../../models/memory_plan.ts";
import { ModelFiles } from "../../models/model_files.ts";
import type { RunEvent } from "../../pipeline/run/events.ts";
import type { RunOptions } from "../../pipeline/run/run.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { contents, type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";

const MOD = JSON.stringify(import.meta.resolve("../../mod.ts"));
const SAMPLES = 6;
const LENGTH = 32;
const BATCH = 64;

/** Reports the hashes of the inputs that it observes, quantized and original, and of the weights. */
const WATCH = `
import { z } from ${MOD};

const hash = async (gpu, tensor) => {
  const values = await gpu.read(tensor);
  return Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", values)).slice(0, 6)).join();
};

export default {
  name: "watch", scope: "group", summary: "Report what passes by", needs: ["calibration"], gives: [],
  options: z.strictObject({}),
  original: true,
  async observe({ gpu, layer, linears, emit }, _options, input, original) {
    const name = layer.index + " " + linears[0].module;
    const text = await hash(gpu, input) + " " + await hash(gpu, original);
    emit({ type: "metric", stage: "watch", name, value: Number(input === original), text });
  },
  async run({ gpu, linears, emit }) {
    for (const { name, original } of linears) {
      emit({ type: "metric", stage: "watch", name, value: 0, text: await hash(gpu, original) });
    }
  },
};
`;

/** Quantizes without loss. */
const LOSSLESS = `
import { z } from ${MOD};
export default {
  name: "lossless", scope: "linear", summary: "Keep the weights", needs: [], gives: [],
  options: z.strictObject({}),
  async run({ gpu, linear }) { gpu.copy(linear.weight, linear.quantized); },
};
`;

class StreamPlace extends Workplace {
	constructor(options: MicroModelOptions = {}) {
		super({ layers: 3, ...options });
		writeFileSync(this.path("watch.ts"), WATCH);
		writeFileSync(this.path("lossless.ts"), LOSSLESS);
	}

	calibrateIn(options: Record<string, unknown>): StageItem {
		return this.calibrateWith({ "samples": SAMPLES, "batch-tokens": BATCH, ...options });
	}

	/** The whole method with the correction, of the weights and of the final norm. */
	corrected(
		options: Record<string, unknown>,
		correction: StageItem = "propagate-error",
	): StageItem[] {
		const chain = this.method.with(1, this.calibrateIn(options));
		chain.splice(3, 0, correction);
		chain.splice(chain.indexOf("pack"), 0, "refit-norm");
		return chain.slice(0, -1); // what evaluate keeps in memory has no order
	}

	/** Enough memory for everything; for the streams and some inputs; for half a stream each; none. */
	budgets(order: "layer" | "module") {
		using model = ModelFiles.open(denoFolder(this.model));
		const working = workingBytes(model, { batchTokens: BATCH, order, original: true });
		const stream = 4 * SAMPLES * LENGTH * model.architecture.hiddenSize;
		return [Infinity, 2.7, 1, 0].map((streams) => {
			const bytes = working + streams * stream;
			const fields = streams < Infinity ? { gpu: { memory: `${bytes / 1e6}MB` } } : {};
			return { name: `${streams}`, fields, bytes };
		});
	}
}

const watched = (events: RunEvent[]) =>
	events.filter((event) => event.type === "metric").map(({ name, value, text }) => ({
		name,
		value,
		texts: text.split(" "),
	}));

for (const [order, activations] of [["module", "f32"], ["layer", "f32"], ["module", "f16"]]) {
	const what = `order ${order}, ${activations}`;

	Deno.test(`what is quantized without loss is not corrected: ${what}`, async () => {
		using place = new StreamPlace({ layers: 2 });
		const calibrate = place.calibrateIn({ order, activations });
		const run = async (...inner: StageItem[]) => {
			const stages = ["download", calibrate, ...inner, { use: "lossless.ts" }];
			return (await place.run({ stages }, { overwrite: true })).events;
		};
		const watch = { use: "watch.ts" };
		const plain = watched(await run(watch));
		const corrected = watched(
			await run("hessian", { "propagate-error": { strength: 1 } }, watch, "refit-norm"),
		);
		assert.deepEqual(corrected, plain, "the same inputs and weights");
		const inputs = plain.filter(({ texts }) => texts.length === 2);
		assert.equal(inputs.length, 2 * 4 * SAMPLES * LENGTH / BATCH);
		for (const { name, texts: [input, original] } of inputs) assert.equal(input, original, name);
		const equal = inputs.filter(({ value }) => value === 1).map(({ name }) => name);
		const all = order === "layer" ? 4 : 1;
		assert.equal(new Set(equal).size, all, "groups of the first layer with one stream");
	});

	Deno.test(`the original stream is that of the original model: ${what}`, async () => {
		using place = new StreamPlace({ layers: 2 });
		const head = ["download", place.calibrateIn({ order, activations })];
		const inputsOf = async (fields: Record<string, unknown>, ...tail: StageItem[]) => {
			const { events } = await place.run({ stages: [...head, ...tail], ...fields }, {
				overwrite: true,
			});
			return watched(events).filter(({ texts }) => texts.length === 2);
		};
		const watch = { use: "watch.ts" };
		const full = await inputsOf({}, watch, { use: "lossless.ts" });
		const runs = await Promise.all(
			place.budgets(order as "layer" | "module").map(({ fields, name }) =>
				inputsOf(
					{ ...fields, output: place.path(name) },
					"hessian",
					"propagate-error",
					watch,
					"sign",
				)
			),
		);
		for (const quantized of runs) {
			assert.deepEqual(quantized, runs[0], "the memory does not matter");
			assert.deepEqual(
				quantized.map(({ texts }) => texts[1]),
				full.map(({ texts }) => texts[1]),
			);
		}
		const differ = runs[0].filter(({ texts }) => texts[0] !== texts[1]).map(({ name }) => name);
		assert.equal(new Set(differ).size, order === "layer" ? 4 : 7, "groups behind quantized ones");
	});
}

for (const family of ["llama", "opt"] as const) {
	const order = family === "opt" ? "layer" : "module";
	for (const activations of family === "opt" ? ["f32"] : ["f32", "f16"]) {
		const what = `${family}, order ${order}, ${activations}`;
		Deno.test(`any memory and any interruption give the same corrected model: ${what}`, async () => {
			using place = new StreamPlace({ family });
			const stages = place.corrected({ order, activations });
			let expected: Record<string, string> | undefined;
			for (const { name, fields } of place.budgets(order)) {
				const output = place.path(name);
				const run = (options: RunOptions) => place.run({ stages, output, ...fields }, options);
				// The first run is undisturbed, the others stop behind each layer but the last.
				for (let layers = 0; expected && layers < 2; layers++) {
					const controller = new AbortController();
					const emit = (event: RunEvent) => {
						if (event.type === "start") assert.equal(event.resumedLayers, layers);
						if (event.type === "layer") controller.abort();
					};
					await assert.rejects(run({ signal: controller.signal, emit }), { name: "AbortError" });
				}
				await run({});
				const found = contents(place.path(`${name}/model`));
				assert.deepEqual(found, expected ??= found, name);
			}
		});
	}
}

Deno.test("the layers take no more memory than they may", async () => {
	// So wide that what the plan leaves out, such as constants and rotations, hardly counts.
	using place = new StreamPlace({ layers: 1, hidden: 192, intermediate: 384 });
	for (const order of ["module", "layer"] as const) {
		for (const { name, fields, bytes } of place.budgets(order).slice(1)) {
			const { record } = await place.run({ stages: place.corrected({ order }), ...fields }, {
				overwrite: true,
			});
			const [{ peakGpuBytes }] = record.layers!;
			assert.ok(peakGpuBytes <= bytes, `${peakGpuBytes} of ${bytes} bytes: ${order}, ${name}`);
		}
	}
});

Deno.test("the correction and its time are on the record", async () => {
	using place = new StreamPlace({ layers: 2 });
	const { record } = await place.run({ stages: place.corrected({}) });
	const corrections = record.layers!.flatMap(({ linears }) =>
		linears.map(({ correction }) => correction)
	);
	assert.deepEqual(corrections.slice(0, 3), [undefined, undefined, undefined]);
	for (const correction of corrections.slice(3)) {
		assert.ok(correction! > 1e-3 && correction! < 1, `${correction}`);
	}
	const [, second] = record.layers!;
	assert.ok(second.secondsByStage["propagate-error"] > 0);
	assert.ok(record.secondsByStage!["refit-norm"] > 0);
	const report = readFileSync(place.path("out/report.html"), "utf8");
	assert.match(report, /Relative change of the weights by decoder layer and module/);
});

Deno.test("the final norm of the packed model is new, in the type of the original", async () => {
	for (const dtype of ["F16", "BF16", "F32"] as const) {
		using place = new StreamPlace({ layers: 1, dtype, family: dtype === "F32" ? "opt" : "llama" });
		// From all batches: a share of so few overfits.
		const stages = place.corrected({}, { "propagate-error": { share: 1 } });
		const { record } = await place.run({ stages });
		using original = ModelFiles.open(denoFolder(place.model));
		using packed = ModelFiles.open(denoFolder(record.packed!.folder));
		const { module, kind } = original.architecture.finalNorm!;
		for (const name of kind === "rms" ? ["weight"] : ["weight", "bias"]) {
			const [before, after] = [original, packed].map(({ checkpoint }) => {
				assert.equal(checkpoint.get(`${module}.${name}`).dtype, dtype);
				return checkpoint.readFloat32(`${module}.${name}`);
			});
			const change = Math.hypot(...after.map((value, i) => value - before[i]));
			const share = change / Math.hypot(...before);
			assert.ok(share > 1e-3 && share < 1.5, `${module}.${name} changed by ${share}`);
		}
	}
});

Deno.test("what cannot be corrected is an error that says what would do", async () => {
	using place = new StreamPlace({ layers: 1 });
	const base = ["download", place.calibrateIn({})];
	await assert.rejects(
		place.run({ stages: [...base, "hessian", "sign", "propagate-error", "pack"] }),
		/Stage "propagate-error" makes no use of "block-error", which stage "sign" gives; put propagate-error before it/,
	);
	await assert.rejects(
		place.run({ stages: [...base, "propagate-error", "sign", "pack"] }),
		/Stage "propagate-error" needs "hessian"/,
	);
	await assert.rejects(
		place.run({ stages: [...base, "sign", "pack", "refit-norm"] }),
		/put refit-norm before it/,
	);
	using plain = new StreamPlace({
		family: "opt",
		layers: 1,
		config: { do_layer_norm_before: false },
	});
	await assert.rejects(
		plain.run({ stages: ["download", plain.calibrateIn({}), "sign", "refit-norm", "pack"] }),
		new UserError(
			`Cannot refit the final norm of "${plain.model}": the model has none; leave refit-norm out`,
		),
	);
});
