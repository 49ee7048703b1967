import assert from "node:assert/strict";
import { stripVTControlCharacters } from "node:util";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { showJson, showProgress } from "../../tasks/progress.ts";

/** What is printed while `work` runs, on a screen of 80 columns. */
function printed(work: () => void): string {
	const { log } = console;
	const { writeSync } = Deno.stdout;
	const { consoleSize } = Deno;
	let text = "";
	console.log = (line: string) => text += `${line}\n`;
	Deno.consoleSize = () => ({ columns: 80, rows: 24 });
	Deno.stdout.writeSync = (bytes) => {
		text += new TextDecoder().decode(bytes);
		return bytes.length;
	};
	try {
		work();
	} finally {
		console.log = log;
		Deno.stdout.writeSync = writeSync;
		Deno.consoleSize = consoleSize;
	}
	return text;
}

const linear = {
	name: "model.layers.0.mlp.up_proj",
	rows: 2,
	cols: 2,
	salientColumns: [1],
	highFraction: 0.5,
	paperBits: 1.1,
	storedBytes: {},
};
const progress = (done: number, total: number, text = "packed model, a.txt"): RunEvent => ({
	type: "progress",
	stage: "evaluate",
	done,
	total,
	text,
});
const events: RunEvent[] = [
	{ type: "stage", stage: "download", text: "models/tiny: llama, 2 layers, 64 wide" },
	{
		type: "start",
		name: "tiny",
		output: "out/tiny",
		adapter: "llvmpipe",
		software: true,
		resumedLayers: 0,
	},
	{ type: "progress", stage: "layers", done: 0, total: 2, text: "layer 0" },
	{ type: "linear", ...linear, relativeOutputError: 0.1 },
	{
		type: "layer",
		layers: 2,
		layer: 0,
		seconds: 1.26,
		secondsByStage: { hessian: 0.5 },
		peakGpuBytes: 5e6,
		file: "model-00002-of-00003.safetensors",
		bytes: 26256,
		sha256: "",
		linears: [
			{ ...linear, relativeOutputError: 0.1 },
			{ ...linear, relativeOutputError: 0.2 },
		],
	},
	{
		type: "metric",
		stage: "evaluate",
		name: "perplexity of the packed model",
		value: 30.5,
		text: "30.50 on a.txt, 4 windows of 32 tokens",
	},
	{ type: "warning", message: "take care" },
	{ type: "end", output: "out/tiny", seconds: 62.4 },
];
const lines = [
	"download   models/tiny: llama, 2 layers, 64 wide",
	'Run "tiny" on llvmpipe, into out/tiny',
	"  A software adapter: everything works, but slowly",
	"layer 1/2  output error 15.0 %, 26.3 kB, 1.3 s",
	"evaluate   perplexity of the packed model: 30.50 on a.txt, 4 windows of 32 tokens",
	"Warning: take care",
	"Done in 1:02: out/tiny",
];

Deno.test("plain lines: one for each event that stays", () => {
	const text = printed(() => events.forEach(showProgress(false)));
	assert.deepEqual(text.split("\n"), [...lines, ""]);
});

Deno.test("plain lines: what an earlier run left, and a layer without a Hessian", () => {
	const text = printed(() => {
		const report = showProgress(false);
		report({ ...events[1], software: false, resumedLayers: 3 } as RunEvent);
		report({ ...events[4], linears: [linear] } as RunEvent);
		report({ type: "already-done", output: "out/tiny" });
	});
	assert.deepEqual(text.split("\n"), [
		'Run "tiny" on llvmpipe, into out/tiny; resumes after layer 3, the last complete one',
		"layer 1/2  26.3 kB, 1.3 s",
		"Nothing to do: out/tiny holds the finished run with the same options and inputs " +
		"(--overwrite runs it again)",
		"",
	]);
});

Deno.test("plain lines: progress in steps of a tenth", () => {
	const text = printed(() => {
		const report = showProgress(false);
		for (let done = 1; done <= 40; done++) report(progress(done, 40));
		for (let done = 1; done <= 3; done++) report(progress(done, 3, "original model, a.txt"));
	});
	const found = text.trimEnd().split("\n").map((line) => line.replace(/, \d:\d\d left/, ""));
	assert.deepEqual(found, [
		...[2, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100].map((percent) =>
			`evaluate   ${percent} %  packed model, a.txt`
		),
		...[33, 66, 100].map((percent) => `evaluate   ${percent} %  original model, a.txt`),
	]);
});

Deno.test("the cells of a grid are told apart, also in the time left", () => {
	for (const terminal of [false, true]) {
		const { now } = performance;
		let seconds = 0;
		performance.now = () => 1000 * seconds;
		try {
			const text = printed(() => {
				const report = showProgress(terminal);
				for (const [i, cell] of ["a,x", "b,x"].entries()) {
					report({ type: "cell", cell, index: i + 1, cells: 2 });
					report(progress(1, 4));
					seconds += 10;
					report(progress(2, 4));
					seconds += 3600;
				}
				report({ type: "cell-failed", cell: "b,x", error: "no space" });
			});
			const found = stripVTControlCharacters(text).split(/[\r\n]+/)
				.map((line) => line.replace(/^[█░]+/, "evaluate  ")).filter((line) => line !== "");
			const steps = [
				"evaluate   25 %  packed model, a.txt",
				"evaluate   50 %, 0:20 left  packed model, a.txt",
			];
			assert.deepEqual(found, [
				"Cell 1/2  a,x",
				...steps,
				"Cell 2/2  b,x",
				...steps,
				"Failed: no space",
			]);
		} finally {
			performance.now = now;
		}
	}
});

Deno.test("a terminal: the same lines, and a bar that is overwritten", () => {
	const text = printed(() => {
		const report = showProgress(true);
		events.forEach(report);
		report(progress(1, 4));
		report(progress(3, 4));
		report(progress(4, 4));
	});
	const screen = stripVTControlCharacters(text);
	const kept = screen.split("\n").slice(0, -1).map((line) =>
		line.slice(line.lastIndexOf("\r") + 1)
	);
	assert.deepEqual(kept, lines);
	const bars = screen.split("\n").at(-1)!.split("\r").slice(1);
	assert.deepEqual(bars.map((bar) => bar.replace(/, \d:\d\d left/, "")), [
		`${"█".repeat(6)}${"░".repeat(18)} 25 %  packed model, a.txt`,
		`${"█".repeat(18)}${"░".repeat(6)} 75 %  packed model, a.txt`,
		`${"█".repeat(24)} 100 %  packed model, a.txt`,
	]);
	assert.ok(text.includes("\r\x1b[K"), "the rest of the line before is erased");
	assert.ok(bars[1].includes("left"), "the time left is estimated from the second step on");
});

Deno.test("a terminal: a long text does not go over the end of the line", () => {
	const text = printed(() => showProgress(true)(progress(1, 4, "a/very/long/name/".repeat(30))));
	const [, bar] = stripVTControlCharacters(text).split("\r");
	assert.equal(bar.length, 79);
});

Deno.test("a terminal: the time left is that of the whole run, corrected by what steps take", () => {
	const { now } = performance;
	let seconds = 0;
	performance.now = () => 1000 * seconds;
	try {
		const text = printed(() => {
			const report = showProgress(true);
			report(events[1]);
			const text = "original model, a.txt";
			const steps = [
				{ stage: "layers", seconds: 40 },
				{ stage: "evaluate", text, seconds: 10 },
				{ stage: "evaluate", text: "packed model, a.txt", seconds: 10 },
			];
			report({ type: "plan", steps });
			const layer = (done: number) =>
				report({ type: "progress", stage: "layers", done, total: 4, text: `layer ${done}` });
			layer(0);
			seconds = 20; // twice as long as expected
			layer(1);
			seconds = 80;
			report(progress(0, 4, text));
			seconds = 85; // likewise
			report(progress(1, 4, text));
			seconds = 100;
			report(progress(4, 4, text));
			report(progress(0, 4));
			seconds = 115;
			report(progress(3, 4));
		});
		const bars = stripVTControlCharacters(text).split("\r").filter((line) => line.includes("%"));
		assert.deepEqual(bars.map((bar) => bar.replace(/^.* (?=\d+ %)/, "").replace(/ {2}.*/, "")), [
			"0 %, 1:00 left",
			"20 %, 1:20 left",
			"80 %, 0:20 left",
			"80 %, 0:35 left",
			"83 %, 0:20 left",
			"83 %, 0:20 left",
			"95 %, 0:05 left",
		]);
	} finally {
		performance.now = now;
	}
});

Deno.test("JSON: one event to a line", () => {
	const text = printed(() => events.forEach(showJson()));
	assert.deepEqual(text.trimEnd().split("\n").map((line) => JSON.parse(line)), events);
});
