import assert from "node:assert/strict";
import { chmodSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { temporaryName } from "../../storage/files.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { seededRandom } from "../reference/random.ts";
import { startTask } from "../start_task.ts";
import { type Killer, killRuns, outcome, undisturbed } from "./kills.ts";

Deno.test("a run that is killed at any moment goes on and ends in the same bytes", async () => {
	using place = new Workplace();
	const { expected, duration } = await undisturbed(place, {});
	// One moment in each sixth of the duration; the first kill waits for a layer, the second
	// one for the record of the finished run.
	const random = seededRandom(20240204);
	const killers: Killer[] = [
		{ moment: "layer 1/4", signal: "SIGKILL" },
		{ moment: "Done in", signal: "SIGKILL" },
		...["SIGKILL", "SIGTERM", "SIGKILL", "SIGINT", "SIGKILL", "SIGKILL"].map((signal, i) => ({
			moment: (i * 5 % 6 + random()) / 6 * duration,
			signal: signal as Killer["signal"],
		})),
	];
	const { ended, resumed } = await killRuns(place, {}, expected, killers);
	assert.ok(ended >= 3, `${ended} kills came before the end`);
	assert.ok(resumed >= 1, `${resumed} runs went on after a layer`);
});

Deno.test("SIGINT and SIGTERM stop a run, and the same command goes on", async () => {
	using place = new Workplace();
	await place.run({ output: place.path("whole") });
	for (const signal of ["SIGINT", "SIGTERM"] as const) {
		const output = place.path(signal);
		const pipeline = place.pipeline({ output });
		let sent = false;
		const stopped = await startTask("quantize", [pipeline], {
			onOutput(text, child) {
				if (sent || !text.includes("layer 2/4")) return;
				sent = true;
				child.kill(signal);
			},
		});
		assert.equal(
			stopped.stderr,
			"\nInterrupted. The same command resumes where this one stopped.\n",
			signal,
		);
		assert.equal(stopped.code, 130, signal);
		const again = await startTask("quantize", [pipeline]);
		assert.equal(again.code, 0, again.stderr);
		assert.match(again.stdout, /; resumes after layer [1-4], the last complete one\n/);
		assert.deepEqual(outcome(output), outcome(place.path("whole")), signal);
	}
});

/** Runs until `isMoment` says of an event that the run is to be interrupted. */
async function interrupt(
	place: Workplace,
	isMoment: (event: RunEvent) => boolean,
	fields: { output?: string; stages?: StageItem[] } = {},
	overwrite = false,
): Promise<RunEvent[]> {
	const controller = new AbortController();
	const events: RunEvent[] = [];
	const report = (event: RunEvent) => {
		events.push(event);
		if (isMoment(event)) controller.abort();
	};
	const options = { signal: controller.signal, emit: report, overwrite };
	await assert.rejects(place.run(fields, options), { name: "AbortError" });
	return events;
}

const resumedLayers = (events: RunEvent[]) =>
	events.find((event) => event.type === "start")?.resumedLayers;

for (const [order, activations] of [["module", "f32"], ["layer", "f32"], ["module", "f16"]]) {
	Deno.test(`a run that is interrupted again and again, order ${order}, ${activations}`, async () => {
		using place = new Workplace({ family: order === "layer" ? "opt" : "llama", layers: 3 });
		const stages = place.method.with(
			1,
			place.calibrateWith({ order, activations, "batch-tokens": 64 }),
		);
		const whole = place.path("whole");
		await place.run({ output: whole, stages });

		// Each with the layers that the moments before have left complete.
		const moments: [(event: RunEvent) => boolean, number][] = [
			[(event) => event.type === "stage" && event.stage === "download", 0],
			[(event) => event.type === "start", 0],
			[(event) => event.type === "linear", 0],
			[(event) => event.type === "progress" && event.text === "layer 2", 1],
			[(event) => event.type === "layer" && event.layer === 1, 1],
			[(event) => event.type === "layer" && event.layer === 2, 2],
			[(event) => event.type === "progress" && event.stage === "evaluate", 3],
			[(event) => event.type === "metric" && event.name.includes("original"), 3],
		];
		// f16 differs only in what lies between layers: each number of complete layers once.
		const tried = activations === "f16" ? [2, 4, 5, 6].map((i) => moments[i]) : moments;
		for (const [isMoment, layers] of tried) {
			const events = await interrupt(place, isMoment, { stages });
			assert.equal(resumedLayers(events) ?? 0, layers);
		}
		const { events, record } = await place.run({ stages });
		assert.equal(resumedLayers(events), 3);
		assert.deepEqual(outcome(place.path("out")), outcome(whole));
		const { seconds = 0, layers = [], peakGpuBytes = 0 } = record;
		assert.ok(seconds > layers.reduce((sum, layer) => sum + layer.seconds, 0));
		assert.ok(layers.every((layer) => layer.peakGpuBytes <= peakGpuBytes));
	});
}

Deno.test("a run that was killed before it wrote its record begins anew", async () => {
	using place = new Workplace({ layers: 1 });
	for (const there of [[], ["model"], ["model", "layers"]]) {
		const out = place.path(`out-${there.length}`);
		mkdirSync(out);
		there.forEach((name) => mkdirSync(join(out, name)));
		if (there.length > 1) writeFileSync(join(out, "run.json.tmp"), '{ "status"');
		await place.run({ output: out });
		assert.equal(outcome(out).layers.length, 1);
	}
});

Deno.test("a run goes on from the last layer whose file is whole, and clears what is half written", async () => {
	using place = new Workplace({ layers: 3 });
	const out = place.path("out");
	const whole = place.path("whole");
	await place.run({ output: whole });
	await interrupt(place, (event) => event.type === "layer" && event.layer === 2);
	const damaged = join(out, "model/model-00003-of-00004.safetensors");
	writeFileSync(damaged, readFileSync(damaged).subarray(0, 1000));
	writeFileSync(temporaryName(join(out, "model/model-00004-of-00004.safetensors")), "half");
	writeFileSync(join(out, "model/config.json.tmp"), "half, of a version before");
	writeFileSync(temporaryName(join(out, "layers/00002.json")), "half");
	writeFileSync(join(out, "run.json.tmp"), "half, of a version before");
	rmSync(join(out, "pipeline.yaml"));
	const { events } = await place.run();
	assert.equal(resumedLayers(events), 1);
	assert.deepEqual(outcome(out), outcome(whole));
	assert.deepEqual(
		readFileSync(join(out, "pipeline.yaml"), "utf8"),
		readFileSync(place.path("pipeline1.yaml"), "utf8"),
	);
});

Deno.test("a run that packs nothing begins anew", async () => {
	using place = new Workplace({ layers: 2 });
	const stages = ["download", place.calibrate, "hessian", "salient-select", place.evaluate];
	await interrupt(place, (event) => event.type === "layer", { stages });
	const { events } = await place.run({ stages });
	assert.equal(resumedLayers(events), 0);
	assert.equal(events.at(-1)!.type, "end");
});

Deno.test("an interrupted run is not that of other options", async () => {
	using place = new Workplace({ layers: 2 });
	await interrupt(place, (event) => event.type === "layer");
	await assert.rejects(
		place.run({ seed: 1 }),
		new UserError(
			`The output folder "${place.path("out")}" holds a different run: seed was 0 and is 1 now; ` +
				`choose another output, or give --overwrite to replace it`,
		),
	);
	const { events } = await place.run();
	assert.equal(resumedLayers(events), 1);
});

Deno.test("overwrite begins a finished run anew, and goes on with an interrupted one", async () => {
	using place = new Workplace({ layers: 2 });
	await place.run();
	const atLayer = (event: RunEvent) => event.type === "layer";
	assert.equal(resumedLayers(await interrupt(place, atLayer, {}, true)), 0);
	const { events } = await place.run({}, { overwrite: true });
	assert.equal(resumedLayers(events), 1);
});

Deno.test("a run that goes on with another adapter warns", async () => {
	using place = new Workplace({ layers: 2 });
	await interrupt(place, (event) => event.type === "layer");
	const file = place.path("out/run.json");
	const record = JSON.parse(readFileSync(file, "utf8"));
	const { adapter } = record;
	writeFileSync(file, JSON.stringify({ ...record, adapter: "Some GPU" }));
	const { events } = await place.run();
	assert.deepEqual(events.filter(({ type }) => type === "warning"), [{
		type: "warning",
		message: `The run began on "Some GPU" and resumed on "${adapter}"; ` +
			`adapters round differently, so the result may differ in some bits`,
	}]);
});

Deno.test("--overwrite keeps a finished run until the new one is known to be able to run", async () => {
	using place = new Workplace({ layers: 1 });
	await place.run();
	const before = contents(place.path("out"));
	writeFileSync(place.path("short.txt"), "too short");
	const evaluate = place.evaluateWith({ dataset: place.path("short.txt") });
	const stages = place.method.with(-1, evaluate);
	await assert.rejects(place.run({ stages }, { overwrite: true }), { name: "UserError" });
	assert.deepEqual(contents(place.path("out")), before);
});

Deno.test("a run without a complete layer gives way to a different one", async () => {
	using place = new Workplace({ layers: 1 });
	await interrupt(place, ({ type }) => type === "start");
	const { record } = await place.run({ seed: 7 });
	assert.deepEqual([record.status, record.seed], ["done", 7]);
});

Deno.test("the packed model's files can be written to even if the original's cannot", async () => {
	using place = new Workplace({ layers: 1 });
	chmodSync(join(place.model, "tokenizer.json"), 0o444);
	await place.run();
	assert.equal(statSync(place.path("out/model/tokenizer.json")).mode & 0o200, 0o200);
});

Deno.test("a different run is refused with what is different", async () => {
	using place = new Workplace({ layers: 1 });
	await place.run();
	const out = place.path("out");
	const refused = (what: string) => ({
		name: "UserError",
		message: `The output folder "${out}" holds a different run: ${what}; choose another output, ` +
			"or give --overwrite to replace it",
	});
	const stages = place.method.with(1, place.calibrateWith({ samples: 3 }));
	await assert.rejects(
		place.run({ stages }),
		refused("calibrate.samples was 4 and is 3 now"),
	);
	await assert.rejects(
		place.run({ mode: "reference" }),
		refused('mode was "default" and is "reference" now'),
	);
	const shorter = place.method.slice(0, -1);
	await assert.rejects(place.run({ stages: shorter }), {
		name: "UserError",
		message: /: the list of stages was \["download",.*\] and is \[.*"pack"\] now; choose/,
	});
	writeFileSync(place.evaluation, readFileSync(place.calibration));
	await assert.rejects(place.run(), refused(`"${place.evaluation}" has changed`));
});
