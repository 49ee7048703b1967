import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { bytesText } from "../../base/units.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { workingBytes } from "../../models/memory_plan.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { fillDiskFor } from "../full_disk.ts";
import { contents, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

const SAMPLES = 12;
const TOKENS = SAMPLES * 32;

for (const family of ["llama", "opt"] as const) {
	for (
		const [order, activations] of [["module", "f32"], ["layer", "f32"], ["module", "f16"]] as const
	) {
		const what = `${family}, order ${order}, ${activations}`;
		Deno.test(`any budget of GPU memory gives the same model: ${what}`, async () => {
			using place = new Workplace({ family, layers: 2 });
			using model = ModelFiles.open(denoFolder(place.model));
			const working = workingBytes(model, { batchTokens: 64, order });
			const stream = 4 * TOKENS * model.architecture.hiddenSize;
			const outcomes: Record<string, string>[] = [];
			// Everything; the stream and some inputs of linear layers; half of the stream; nothing.
			for (const kept of [Infinity, 1.5 * stream, 0.5 * stream, 0]) {
				const output = place.path(`out-${kept}`);
				const options = { order, activations, samples: SAMPLES, "batch-tokens": 64 };
				const stages = place.method.with(1, place.calibrateWith(options));
				if (order === "layer") stages.pop(); // what evaluate keeps in memory has no order
				const memory = kept < Infinity && { gpu: { memory: `${(working + kept) / 1e6}MB` } };
				const { record } = await place.run({ stages, output, ...memory });
				assert.equal(record.status, "done");
				outcomes.push(contents(place.path(`out-${kept}/model`)));
			}
			for (const outcome of outcomes.slice(1)) assert.deepEqual(outcome, outcomes[0]);
		});
	}
}

/** The names of temporary files in the folder of a run. */
function spilled(output: string): string[] {
	return existsSync(output)
		? readdirSync(output).filter((name) => /^activations\..*\.tmp$/.test(name))
		: [];
}

for (
	const [what, options, more] of [
		["llama, order module", { order: "module" }, []],
		["opt, order layer", { order: "layer" }, []],
		["llama, f16", { order: "module", activations: "f16" }, []],
		["two streams", { order: "module" }, ["propagate-error"]],
	] as const
) {
	Deno.test(`any budget of host memory gives the same model: ${what}`, async () => {
		const family = what.startsWith("opt") ? "opt" : "llama";
		using place = new Workplace({ family, layers: 2 });
		const stages = place.method.with(
			1,
			place.calibrateWith({ ...options, samples: SAMPLES, "batch-tokens": 64 }),
		);
		stages.splice(3, 0, ...more);
		const outcomes: Record<string, string>[] = [];
		const losses: unknown[] = [];
		using model = ModelFiles.open(denoFolder(place.model));
		const original = more.length > 0;
		const working = workingBytes(model, { batchTokens: 64, order: options.order, original });
		const memory = `${(working + 100) / 1e6}MB`;
		// All in host memory; a part of a stream; nothing.
		for (const host of ["1GB", `${TOKENS * 64 / 1e6}MB`, "0MB"]) {
			const output = place.path(`out-${host}`);
			let most = 0;
			const { record, events } = await place.run(
				{ stages, output, gpu: { memory, "host-memory": host } },
				{ emit: () => most = Math.max(most, spilled(output).length) },
			);
			assert.equal(most, host === "1GB" ? 0 : 1, host);
			const told = events.flatMap((event) =>
				event.type === "stage" && event.stage === "memory" ? [event.text] : []
			);
			assert.equal(told.length > 0, host !== "1GB");
			for (const text of told) {
				assert.match(text, /^of activations, [\d.]+ k?B in host memory and [\d.]+ [kM]B in ".*"$/);
			}
			assert.deepEqual(spilled(output), []);
			outcomes.push(contents(join(output, "model")));
			losses.push(record.evaluation);
		}
		for (const outcome of outcomes.slice(1)) assert.deepEqual(outcome, outcomes[0]);
		for (const loss of losses.slice(1)) assert.deepEqual(loss, losses[0]);
	});
}

Deno.test("a run that is killed leaves a file of activations, and the next one removes it", async () => {
	using place = new Workplace({ layers: 3 });
	using model = ModelFiles.open(denoFolder(place.model));
	const working = workingBytes(model, { batchTokens: 128, order: "module" });
	await place.run({ output: place.path("whole") });
	const output = place.path("killed");
	const gpu = { memory: `${working / 1e6}MB`, "host-memory": "0MB" };
	const file = place.pipeline({ output, gpu });
	const { code, stdout } = await startTask("quantize", [file], {
		onOutput(text, child) {
			if (text.includes("layer 1/3")) child.kill("SIGKILL");
		},
	});
	assert.equal(code, 137);
	assert.match(stdout, /^memory {5}of activations, /m);
	const [left] = spilled(output);
	assert.ok(left, "the file is there");
	const controller = new AbortController();
	await assert.rejects(
		place.run({ output: place.path("interrupted"), gpu }, {
			signal: controller.signal,
			emit(event) {
				if (event.type !== "linear") return;
				assert.equal(spilled(place.path("interrupted")).length, 1);
				controller.abort();
			},
		}),
		{ name: "AbortError" },
	);
	assert.deepEqual(spilled(place.path("interrupted")), [], "one that is interrupted leaves none");
	const foreign = ["activations.tmp.txt", "activations.bin", `x${left}`];
	for (const name of foreign) writeFileSync(join(output, name), "not ours");

	const again = await startTask("quantize", [file]);
	assert.deepEqual([again.code, again.stderr], [0, ""]);
	assert.match(again.stdout, /; resumes after layer 1, the last complete one/);
	assert.deepEqual(contents(join(output, "model")), contents(place.path("whole/model")));
	assert.deepEqual(spilled(output), []);
	for (const name of foreign) assert.ok(existsSync(join(output, name)), name);
});

Deno.test({
	name: "a disk without room for activations is a clear error, and the same command goes on",
	ignore: !existsSync("/dev/full"),
	fn: async () => {
		using place = new Workplace({ layers: 2 });
		using model = ModelFiles.open(denoFolder(place.model));
		const working = workingBytes(model, { batchTokens: 128, order: "module" });
		await place.run({ output: place.path("whole") });
		const fields = { gpu: { memory: `${working / 1e6}MB`, "host-memory": "0MB" } };
		const path = place.path("out", "activations");
		{
			using _full = fillDiskFor(path);
			await assert.rejects(place.run(fields), ({ name, message }: Error) => {
				assert.equal(name, "UserError");
				assert.match(
					message,
					/^Cannot write ".*out.activations\..*\.tmp": no space left on the device; make room, or choose as output a folder on a larger disk, and run the same command again: it resumes after the last complete layer$/,
				);
				return true;
			});
		}
		await place.run(fields);
		assert.deepEqual(contents(place.path("out/model")), contents(place.path("whole/model")));
	},
});

Deno.test("a search over rows stays within the memory that is planned for it", async () => {
	using place = new Workplace({ layers: 1, intermediate: 512 });
	using model = ModelFiles.open(denoFolder(place.model));
	const work = { batchTokens: 32, order: "module" } as const;
	const working = workingBytes(model, { ...work, search: true });
	assert.ok(working > workingBytes(model, work));
	const calibrate = place.calibrateWith({ "batch-tokens": 32 });
	const stages = [
		...place.method.with(1, calibrate).slice(0, 7),
		{ "row-search": { rounds: 1, moves: 0.1 } },
		"pack",
	];
	const { record } = await place.run({ stages, gpu: { memory: `${working / 1e6}MB` } });
	const { peakGpuBytes } = record.layers![0];
	assert.ok(peakGpuBytes <= working, `${peakGpuBytes} of ${working} bytes`);
});

Deno.test("activations in f16 change the result a little", async () => {
	using place = new Workplace({ layers: 2 });
	const run = async (activations: string) => {
		const options = { samples: 24, activations };
		const stages = place.method.with(1, place.calibrateWith(options));
		const { record } = await place.run({ stages, output: place.path(activations) });
		return record.evaluation!.packed![0].loss;
	};
	const [full, half] = [await run("f32"), await run("f16")];
	assert.notEqual(half, full);
	assert.ok(Math.abs(half / full - 1) < 0.02, `${half} and ${full}`);
});

Deno.test("too little memory for a layer is an error that says what would do", async () => {
	using place = new Workplace({ layers: 1 });
	using model = ModelFiles.open(denoFolder(place.model));
	const working = workingBytes(model, { batchTokens: 128, order: "module" });
	await assert.rejects(
		() => place.run({ gpu: { memory: "0.1MB" } }),
		new UserError(
			`100.0 kB of GPU memory is too little for "${place.model}": a decoder layer takes ` +
				`${bytesText(working)}; use a smaller batch-tokens, or give more memory`,
		),
	);
});

Deno.test("the memory that there is bounds what is asked for", async () => {
	await using gpu = await openGpu({ memory: 1000 });
	assert.deepEqual([await gpu.memoryFor(10), await gpu.memoryFor(1e12)], [10, 1000]);
	await using free = await openGpu();
	assert.equal(await free.memoryFor(1000), 1000);
	const found = await free.memoryFor(1e15);
	assert.ok(found > 1e8 && found < 1e13, `${found} bytes`);
	assert.equal(await free.memoryFor(2e15), found, "it is a budget from then on");
});
