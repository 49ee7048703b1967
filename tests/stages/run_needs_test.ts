import assert from "node:assert/strict";
import { mkdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { UserError } from "~/base/errors.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { workingBytes } from "~/models/memory_plan.ts";
import { loadPipeline } from "~/pipeline/config/config.ts";
import { RECIPES, STAGES } from "~/stages/mod.ts";
import { checkNeeds, needsText, type RunNeeds, runNeeds } from "~/stages/run_needs.ts";
import { folderBytes } from "~/storage/files.ts";
import { type PipelineFields, Workplace } from "../micro_model.ts";
import { openModel } from "../open.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const gpu = await openGpu();

async function needsFor(place: Workplace, fields: PipelineFields = {}, device?: typeof gpu) {
	const file = place.pipeline(fields);
	const { stages } = await loadPipeline(file, { stages: STAGES, recipes: RECIPES });
	using model = openModel(place.model);
	return await runNeeds(model, stages, device);
}

Deno.test("a run takes no more disk than it says, and says it once", async () => {
	using place = new Workplace({ layers: 2, hidden: 128, intermediate: 256 });
	const needs = await needsFor(place);
	const { record: { packed }, events } = await place.run();
	const bytes = folderBytes(place.path("out/model")) +
		statSync(place.path("out/calibration.safetensors")).size;
	assert.ok(bytes > packed!.bytes);
	assert.ok(bytes <= needs.diskBytes!, `${bytes} of ${needs.diskBytes} bytes`);
	assert.ok(needs.diskBytes! < 2 * bytes);
	const lines = events.filter((event) => event.type === "stage" && event.stage === "needs");
	assert.equal(lines.length, 1);
});

Deno.test("memory follows from the stages and the calibration data", async () => {
	using place = new Workplace({ layers: 2 });
	const recipe = (recipe: string, samples = 4) => {
		const { calibrate } = place.calibrateWith({ samples, "batch-tokens": 64 }) as {
			calibrate: unknown;
		};
		return needsFor(place, { recipe, stages: { calibrate } });
	};
	const light = await recipe("light");
	using model = openModel(place.model);
	const work = { batchTokens: 64, order: "module" } as const;
	assert.equal(light.gpuBytes[0], workingBytes(model, work));
	const both = { ...work, original: true, search: true };
	const withSearch = await recipe("default");
	assert.equal(withSearch.gpuBytes[0], workingBytes(model, both));
	const more = await recipe("light", 12);
	assert.equal(more.gpuBytes[0], light.gpuBytes[0]);
	const activations = ({ gpuBytes: [least, most] }: RunNeeds) => most - least;
	assert.equal(activations(more), 3 * activations(light));
	assert.equal(light.seconds, undefined, "no time without a device");
});

Deno.test("the time grows with the data and with searches", async () => {
	using place = new Workplace({ layers: 2 });
	const seconds = async (search: Record<string, unknown>, samples: number) => {
		const { calibrate } = place.calibrateWith({ samples }) as { calibrate: unknown };
		const stages = { calibrate, "row-search": search };
		return (await needsFor(place, { recipe: "default", stages }, gpu)).seconds!;
	};
	const short = await seconds({ moves: 0 }, 4);
	assert.ok(short > 0);
	assert.ok(await seconds({ moves: 0 }, 4096) > 5 * short);
	assert.ok(await seconds({ rounds: 20, moves: 8 }, 4) > 5 * short);
});

const PLACE = { name: "m", output: "no/such/folder" };
const NEEDS: RunNeeds = { gpuBytes: [3e9, 5e9], hostBytes: 2e9, diskBytes: 1e9, seconds: 100 };

Deno.test("the needs are said in a line", () => {
	assert.equal(
		needsText(NEEDS),
		"GPU memory 3.0 GB at least, 5.0 GB with all activations; host memory 2.0 GB; " +
			"disk 1.0 GB at most; about 1:40 to quantize",
	);
	assert.equal(
		needsText({ gpuBytes: [3e9, 3e9], hostBytes: 1e6 }),
		"GPU memory 3.0 GB; host memory 1.0 MB",
	);
	assert.match(needsText({ ...NEEDS, seconds: 0.2 }), /; about 0:01 to quantize$/);
});

Deno.test("what cannot fit is refused, with what would do", async () => {
	await using small = await openGpu({ memory: 2e9 });
	await assert.rejects(checkNeeds(NEEDS, small, PLACE), {
		name: "UserError",
		message: '2.0 GB of GPU memory is too little for "m": a decoder layer takes 3.0 GB; ' +
			"use a smaller batch-tokens, or give more memory",
	});
	const huge = { ...NEEDS, gpuBytes: [1, 1] as [number, number], diskBytes: 1e18 };
	await assert.rejects(checkNeeds(huge, gpu, PLACE), (error: Error) => {
		assert.ok(error instanceof UserError);
		assert.match(
			error.message,
			/^The run writes up to 1.0 EB, but "no\/such\/folder" has room for .*; make room, or set /,
		);
		return true;
	});
	await checkNeeds({ ...NEEDS, gpuBytes: [1e6, 1e18], diskBytes: 1 }, small, PLACE);
});

Deno.test("what the output folder has of a model counts as room for it", async () => {
	using folder = new TemporaryFolder();
	const needs = { ...NEEDS, gpuBytes: [1, 1] as [number, number], diskBytes: 1e14 };
	const place = { name: "m", output: folder.path };
	writeFileSync(folder.file("model"), "a file");
	await assert.rejects(checkNeeds(needs, gpu, place), /^UserError: The run writes up to /);
	rmSync(folder.file("model"));
	mkdirSync(folder.file("model"));
	await assert.rejects(checkNeeds(needs, gpu, place), /^UserError: The run writes up to /);
	// Sparse, so that the disk has as much room as before.
	const files = Array.from({ length: 20 }, (_, i) => folder.file("model", `${i}.safetensors`));
	for (const path of files) {
		writeFileSync(path, "");
		truncateSync(path, 5e12);
	}
	await checkNeeds(needs, gpu, place);
});

Deno.test("--check says what a run takes, and refuses what cannot fit", async () => {
	using place = new Workplace({ layers: 1 });
	const fits = await startTask("quantize", [place.pipeline(), "--check"]);
	assert.equal(fits.code, 0, fits.stderr);
	assert.match(fits.stdout, /^Needs: GPU memory .* to quantize$/m);
	const tight = place.pipeline({ gpu: { memory: "0.1MB" } });
	const refused = await startTask("quantize", [tight, "--check"]);
	assert.equal(refused.code, 1);
	assert.match(
		refused.stderr,
		/100.0 kB of GPU memory is too little for .*: a decoder layer takes/,
	);
	const run = await startTask("quantize", [tight]);
	assert.equal(run.code, 1);
	assert.match(run.stderr, /100.0 kB of GPU memory is too little/);
});
