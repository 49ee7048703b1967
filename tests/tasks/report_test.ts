import assert from "node:assert/strict";
import {
	cpSync,
	existsSync,
	lstatSync,
	readFileSync,
	rmSync,
	symlinkSync,
	writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Workplace } from "../micro_model.ts";
import { elements, parseHtml, tableOf, textOf } from "../report/parse_html.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

/** A finished run, for tests that only read it. */
const place = new Workplace({ layers: 2 });
await place.run();
const out = place.path("out");
globalThis.addEventListener("unload", () => place[Symbol.dispose]());

/** Copies of the run in a grid's folder, as cells 1 and 2 of `cells`. */
function makeGrid(folder: string, cells: number): string {
	const grid = join(folder, "grid");
	for (const index of [1, 2]) {
		const cell = join(grid, `c${index}`);
		cpSync(out, cell, { recursive: true });
		const record = { grid: "g", cell: `c${index}`, index, cells, values: {}, status: "done" };
		writeFileSync(join(cell, "cell.json"), JSON.stringify(record));
	}
	return grid;
}

function readJson(...names: string[]) {
	return JSON.parse(readFileSync(join(...names), "utf8"));
}

Deno.test("a run leaves its report, which tells what it measured", () => {
	const record = readJson(out, "run.json");
	const page = parseHtml(readFileSync(join(out, "report.html"), "utf8"));
	const [, [text, , before, after]] = tableOf(page, "Perplexity before and after");
	const { original: [original], packed: [packed] } = record.evaluation;
	assert.equal(text, place.evaluation);
	const shown = (value: number) =>
		value.toFixed(value < 1000 ? 2 : 0).replace(/\B(?=(\d{3})+$)/, " ");
	assert.deepEqual([before, after], [original, packed].map((p) => shown(p.perplexity)));
	const head = tableOf(page, "Time and GPU memory by stage");
	const hessian = head.find(([name]) => name === "hessian")!;
	assert.match(hessian[3], /^[\d.]+ (kB|MB)$/);
	assert.deepEqual(elements(page, "h3").map(textOf), ["Layer 1", "Layer 2"]);
	for (const [stage, bytes] of Object.entries<number>(record.peakGpuBytesByStage)) {
		assert.ok(bytes >= 0 && bytes <= record.peakGpuBytes, `${stage}: ${bytes}`);
	}
	// H of the widest input, f32 [100, 100], is on the GPU together with its factor.
	assert.ok(record.peakGpuBytesByStage.hessian >= 2 * 4 * 100 * 100);
});

Deno.test("a finished run whose report is gone gets it again, the same", async () => {
	const names = ["report.html", "histograms.json"];
	const before = names.map((name) => readFileSync(join(out, name), "utf8"));
	for (const missing of [names, names.slice(0, 1), names.slice(1)]) {
		for (const name of missing) rmSync(join(out, name));
		const { events } = await place.run();
		assert.equal(events.at(-1)!.type, "already-done");
		assert.deepEqual(names.map((name) => readFileSync(join(out, name), "utf8")), before);
	}
});

Deno.test("report FOLDER writes the page of a run anew, and Markdown", async () => {
	using folder = new TemporaryFolder();
	const run = join(folder.path, "run");
	cpSync(out, run, { recursive: true });
	const before = readFileSync(join(run, "report.html"), "utf8");
	rmSync(join(run, "report.html"));
	const markdown = join(folder.path, "summary.md");
	const { code, stdout, stderr } = await startTask("report", [run, "--markdown", markdown]);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.equal(stdout, `Wrote ${join(run, "report.html")}\nWrote ${markdown}\n`);
	assert.equal(readFileSync(join(run, "report.html"), "utf8"), before);
	assert.match(readFileSync(markdown, "utf8"), /^## micro\n\n- \*\*Perplexity\*\*: /);
	assert.ok(!existsSync(`${markdown}.tmp`));
});

Deno.test({
	name: "report writes where a link points to, and prints Markdown",
	ignore: Deno.build.os === "windows",
	async fn() {
		using folder = new TemporaryFolder();
		const link = join(folder.path, "link");
		symlinkSync(join(folder.path, "target.md"), link);
		writeFileSync(join(folder.path, "target.md"), "");
		const output = join(folder.path, "page.html");
		const { code, stderr } = await startTask("report", [
			out,
			"--output",
			output,
			"--markdown",
			link,
		]);
		assert.deepEqual([code, stderr], [0, ""]);
		assert.ok(!lstatSync(link).isSymbolicLink());
		assert.equal(readFileSync(join(folder.path, "target.md"), "utf8"), "");
		const text = readFileSync(link, "utf8");
		assert.match(text, /^## micro/);
		const printed = await startTask("report", [out, "--output", output, "--markdown", "-"]);
		assert.deepEqual([printed.code, printed.stdout], [0, text]);
		assert.equal(printed.stderr, `Wrote ${output}\n`);
	},
});

Deno.test("report --layers counts the weights of other layers", async () => {
	using folder = new TemporaryFolder();
	const run = join(folder.path, "run");
	cpSync(out, run, { recursive: true });
	const { code, stderr } = await startTask("report", [run, "--layers", "2"]);
	assert.deepEqual([code, stderr], [0, ""]);
	const layers = readJson(run, "histograms.json").histograms.map(({ layer }: { layer: number }) =>
		layer
	);
	assert.deepEqual([...new Set(layers)], [1]);
	const page = parseHtml(readFileSync(join(run, "report.html"), "utf8"));
	assert.deepEqual(elements(page, "h3").map(textOf), ["Layer 2"]);

	const record = readJson(run, "run.json");
	writeFileSync(join(run, "run.json"), JSON.stringify({ ...record, model: "gone/model" }));
	const refused = await startTask("report", [run, "--layers", "1"]);
	assert.equal(refused.code, 1);
	assert.equal(
		refused.stderr,
		'Error: There is no original model in "gone/model"; give its folder with --model FOLDER\n',
	);
	const found = await startTask("report", [run, "--layers", "1", "--model", place.model]);
	assert.deepEqual([found.code, found.stderr], [0, ""]);
});

Deno.test("report of a grid: 0 if all cells are done, 1 and a page if not", async () => {
	using folder = new TemporaryFolder();
	const grid = makeGrid(folder.path, 2);
	const svg = join(folder.path, "pareto.svg");
	const whole = await startTask("report", [grid, "--svg", svg]);
	assert.deepEqual([whole.code, whole.stderr], [0, ""]);
	assert.equal(whole.stdout, `Wrote ${join(grid, "report.html")}\nWrote ${svg}\n`);
	assert.equal(elements(parseHtml(readFileSync(svg, "utf8")), "circle").length, 2);
	const peers = await startTask("report", [grid, "--peers", "examples/peers/smollm2.json"]);
	assert.deepEqual([peers.code, peers.stderr], [0, ""]);
	assert.match(
		readFileSync(join(grid, "report.html"), "utf8"),
		/Diamonds are results of llama\.cpp/,
	);
	const wrong = join(folder.path, "peers.json");
	writeFileSync(wrong, '{"program": "x", "results": [{"name": "a", "bytes": "1 MB"}]}');
	const refused = await startTask("report", [grid, "--peers", wrong]);
	assert.equal(refused.code, 1);
	assert.match(
		refused.stderr,
		/^Error: Cannot read the peers ".*": results\.0\.bytes: .*\{ name, bytes, perplexity \}/,
	);
	const page = parseHtml(readFileSync(join(grid, "report.html"), "utf8"));
	const links = elements(page, "a").map(({ attributes }) => attributes.href);
	assert.deepEqual(links.filter((link) => !link.startsWith("#")), [
		"c1/report.html",
		"c2/report.html",
	]);

	const cell = readJson(grid, "c2", "cell.json");
	writeFileSync(
		join(grid, "c2", "cell.json"),
		JSON.stringify({ ...cell, cells: 3, status: "failed", error: "It burst" }),
	);
	const output = join(folder.path, "page.html");
	const alone = await startTask("report", [join(grid, "c1"), "--output", output]);
	assert.equal(alone.code, 1);
	assert.equal(alone.stderr, "Cell 2 of 2 of g is missing\n");
	const cells = [join(grid, "c1"), join(grid, "c2"), join(grid, "report.html")];
	const broken = await startTask("report", [...cells, "--output", output]);
	assert.deepEqual([broken.code, broken.stdout], [1, `Wrote ${output}\n`]);
	assert.equal(broken.stderr, "c2: It burst\nCell 3 of 3 of g is missing\n");
	assert.deepEqual(tableOf(parseHtml(readFileSync(output, "utf8")), "Unfinished runs"), [
		["Run", "Why"],
		["c2 (2 of 3)", "It burst"],
		["cell 3 of 3 of g", "missing: no folder has this cell"],
	]);
});

Deno.test("report --help prints the usage; several runs have no --layers", async () => {
	using folder = new TemporaryFolder();
	const help = await startTask("report", ["--help"]);
	assert.deepEqual([help.code, help.stderr], [0, ""]);
	assert.match(help.stdout, /^Usage: deno task report /);
	const grid = makeGrid(folder.path, 2);
	const several = await startTask("report", [grid, "--layers", "1"]);
	assert.equal(
		several.stderr,
		"deno task report: --layers needs the folder of a single run, found 2\n",
	);
});

Deno.test("a run that is not finished has no report yet", async () => {
	using folder = new TemporaryFolder();
	cpSync(out, join(folder.path, "run"), { recursive: true });
	const run = join(folder.path, "run");
	writeFileSync(
		join(run, "run.json"),
		JSON.stringify({ ...readJson(out, "run.json"), status: "running" }),
	);
	const { code, stderr } = await startTask("report", [run]);
	assert.equal(code, 1);
	assert.equal(
		stderr,
		`Error: Cannot report on "${run}": the run is not finished; the same command resumes it\n`,
	);
});
