import assert from "node:assert/strict";
import { type FinishedRun, runMarkdown, runReport } from "../../report/run_report.ts";
import { elements, type HtmlElement, parseHtml, tableOf, textOf } from "./parse_html.ts";
import { finishedRun, runRecord } from "./runs.ts";

/** Everything in a page that could make a browser fetch something. */
function addresses(page: HtmlElement): string[] {
	const all = (node: HtmlElement): HtmlElement[] => [
		node,
		...node.children.filter((child) => typeof child !== "string").flatMap(all),
	];
	return all(page).flatMap(({ tag, attributes }) => {
		const names = ["src", "href", "xlink:href", "action", "data", "poster", "srcset", "style"];
		const found = names.map((name) => attributes[name]).filter((value) => value !== undefined)
			.filter((value) => !/^[\w-]+: [\w()-]+(px)?$/.test(value)); // plain style
		return ["script", "link", "iframe", "object", "img", "base"].includes(tag)
			? [tag, ...found]
			: found;
	});
}

Deno.test("a report is well-formed, needs nothing from elsewhere and has no script", () => {
	for (const layers of [1, 6, 40]) {
		const text = runReport(finishedRun({ layers }));
		const page = parseHtml(text);
		const ids = elements(page, "section").map(({ attributes }) => attributes.id).filter(Boolean);
		assert.deepEqual(addresses(page), ids.map((id) => `#${id}`), "each section is linked");
		assert.equal(new Set(ids).size, ids.length);
		assert.doesNotMatch(text, /https?:|@import|url\(|\/\/[a-z]/i);
		assert.doesNotMatch(text, /NaN|undefined|Infinity|\[object/);
	}
});

Deno.test("the headings are one h1 and sections below it", () => {
	const page = parseHtml(runReport(finishedRun()));
	assert.deepEqual(elements(page, "h1").map(textOf), ["tiny"]);
	assert.deepEqual(elements(page, "h2").map(textOf), [
		"Sample text",
		"Zero-shot tasks",
		"Bits by part",
		"Output error by layer and module",
		"Salient columns by layer and module",
		"Distribution of the weights",
		"Time and memory",
		"Reproducing this run",
	]);
	assert.deepEqual(elements(page, "h3").map(textOf), ["Layer 1", "Layer 6"]);
	for (const chart of elements(page, "svg")) {
		const { role, "aria-label": label, "aria-hidden": hidden } = chart.attributes;
		const isInner = chart.attributes.viewBox !== undefined;
		assert.ok(isInner || hidden === "true" || (role === "img" && label), "a chart has a text");
	}
});

Deno.test("the tables hold the figures of the record", () => {
	const run = finishedRun();
	const { record } = run;
	const page = parseHtml(runReport(run));
	assert.deepEqual(tableOf(page, "Perplexity before and after"), [
		["Text", "Windows", "Original", "Packed", "Ratio", "Δ loss"],
		["text/evaluation.txt", "101 × 256", "24.63", "33.67", "× 1.37", "+0.313"],
	]);
	assert.deepEqual(tableOf(page, "Zero-shot accuracy in percent, with standard errors"), [
		[
			"Task (version)",
			"Questions",
			"acc original",
			"acc packed",
			"acc_norm original",
			"acc_norm packed",
		],
		["piqa (1.0)", "200", "55.5 ± 3.5", "50.8 ± 3.5", "54.5 ± 3.5", "49.8 ± 3.5"],
		["boolq (2.0)", "150", "62.0 ± 4.0", "57.3 ± 4.0", "–", "–"],
		["mean (normalized where there is one)", "", "58.8", "54.0", "58.3", "53.5"],
	]);
	const parts = tableOf(page, "Bits of the linear layers by part");
	assert.deepEqual(parts.map((row) => row.slice(0, 3)), [
		["Part", "Bits per weight", "Share"],
		["flags", "1.000", "38.6 %"],
		["signs", "1.000", "38.6 %"],
		["scales", "0.542", "20.9 %"],
		["headers", "0.043", "1.7 %"],
		["salient-columns", "0.003", "0.1 %"],
		["all", "2.588", "100.0 %"],
	]);
	const errors = tableOf(page, "Relative output error by decoder layer and module");
	const salient = tableOf(page, "Salient columns by decoder layer and module");
	record.layers!.forEach(({ layer, linears }, i) => {
		const percents = linears.map((l) => `${(100 * l.relativeOutputError!).toFixed(2)} %`);
		assert.deepEqual(errors[i + 1], [`${layer + 1}`, ...percents]);
		const counts = linears.map(({ salientColumns, cols }) =>
			`${salientColumns.reduce((sum, count) => sum + count, 0)} of ${cols}`
		);
		assert.deepEqual(salient[i + 1], [`${layer + 1}`, ...counts]);
	});
	const stages = tableOf(page, "Time and GPU memory by stage");
	assert.deepEqual(stages, [
		["Stage", "Time", "Share", "Peak GPU memory"],
		["download", "0.01 s", "0.0 %", "–"],
		["calibrate", "19.3 s", "14.2 %", "181.0 MB"],
		["hessian", "9.92 s", "7.3 %", "122.0 MB"],
		["compensate", "3.78 s", "2.8 %", "60.5 MB"],
		["pack", "0.64 s", "0.5 %", "–"],
		["evaluate", "1:14", "54.3 %", "99.0 MB"],
		["factor", "9.24 s", "6.8 %", "–"],
		["other", "19.2 s", "14.1 %", "–"],
		["all", "2:16", "", "247.6 MB"],
	]);
	const modules = tableOf(page, "Bits per weight by module and part");
	assert.deepEqual(modules[0], [
		"Module",
		"flags",
		"signs",
		"scales",
		"headers",
		"salient-columns",
		"sum",
	]);
	// 256 x 256: 2 blocks of 7 codes and two factors of 2 bytes in a row; a bit for each column.
	assert.deepEqual(modules[1], [
		"self_attn.q_proj",
		"1.000",
		"1.000",
		(8 * (2 * 7 + 4) / 256).toFixed(3),
		"0.000",
		(1 / 256).toFixed(3),
		(2 + 8 * 18 / 256 + 1 / 256).toFixed(3),
	]);
	assert.deepEqual(textOf(elements(page, "pre")[1]), run.pipeline.replace(/\s+/g, " ").trim());
	const versions = new Map(tableOf(page, "Versions").map(([name, value]) => [name, value]));
	assert.equal(versions.get("Deno"), "2.9.6");
	assert.equal(versions.get("Identity"), "ab".repeat(32));
	const hashes = tableOf(page, "SHA-256 of the inputs and of the packed model");
	assert.deepEqual(hashes.at(-1), ["model/model-1.safetensors", "ef".repeat(32)]);
});

Deno.test("the bars of the parts are as long as the parts are large", () => {
	const run = finishedRun();
	const page = parseHtml(runReport(run));
	const chart = elements(page, "svg").find(({ attributes }) =>
		attributes["aria-label"]?.startsWith("Stored bits per weight by part")
	)!;
	const ofAll = elements(chart, "rect").filter((bar) => textOf(bar).startsWith("all, "));
	const bits = run.record.packed!.storedBitsByPart;
	assert.equal(ofAll.length, 5);
	let end = 0;
	for (const bar of ofAll) {
		const [, part] = textOf(bar).match(/^all, ([\w-]+):/)!;
		const [x, width] = [bar.attributes.x, bar.attributes.width].map(parseFloat);
		assert.ok(Math.abs(x - end) < 0.01, `${part} begins at ${x}, the one before ends at ${end}`);
		assert.ok(
			Math.abs(width - 100 * bits[part] / 3) < 0.01,
			`${part} is ${width} % of 3 bits long`,
		);
		end = x + width;
	}
});

Deno.test("what a record says is shown as it is, never as HTML", () => {
	const evil = `<script>alert("1")</script>&amp;'`;
	const run = finishedRun();
	const record = runRecord({ name: evil, model: evil, layers: 2 });
	record.adapter = evil;
	record.evaluation!.packed![0].dataset = evil;
	record.evaluation!.sample = { prompt: evil, original: "", packed: evil };
	record.inputs = { [evil]: evil };
	record.stages.push({ name: evil, options: { [evil]: evil } });
	record.layers![0].linears[0].name = `model.layers.0.${evil}`;
	const report: FinishedRun = { ...run, record, pipeline: `name: "${evil}"` };
	const page = parseHtml(runReport(report));
	assert.deepEqual(elements(page, "script"), []);
	assert.deepEqual(elements(page, "h1").map(textOf), [evil]);
	const [command, pipeline] = elements(page, "pre").map(textOf);
	assert.equal(command, "deno task quantize out/tiny/pipeline.yaml --set output=out/tiny-again");
	assert.equal(pipeline, `name: "${evil}"`);
	const samples = elements(page, "blockquote").map(textOf);
	assert.deepEqual(samples, [evil, evil + evil]);
	const markdown = runMarkdown(report);
	assert.doesNotMatch(markdown, /(?<!\\)<script/);
	assert.match(markdown, /^## \\<script\\>/);
});

Deno.test("what a run has not measured is left out, and nothing else", () => {
	const run = finishedRun({ zeroShot: false });
	const headings = (run: FinishedRun) => elements(parseHtml(runReport(run)), "h2").map(textOf);
	assert.ok(!headings(run).includes("Zero-shot tasks"));
	assert.deepEqual(
		headings({ ...run, histograms: undefined }).includes("Distribution of the weights"),
		false,
	);

	const bare = runRecord();
	for (const key of ["layers", "packed", "evaluation", "secondsByStage", "peakGpuBytes"] as const) {
		delete bare[key];
	}
	const report: FinishedRun = { record: bare, pipeline: "" };
	assert.deepEqual(headings(report), ["Reproducing this run"]);
	assert.match(runReport(report), /nothing was measured/);
	assert.match(runMarkdown(report), /\*\*Time\*\*: 2:16/);

	const unknown = runRecord({ perplexity: null });
	for (const { linears } of unknown.layers!) {
		for (const linear of linears) {
			delete linear.relativeOutputError;
			linear.salientColumns = [];
		}
	}
	unknown.evaluation!.original = [];
	const page = parseHtml(runReport({ record: unknown, pipeline: "" }));
	assert.ok(!elements(page, "h2").some((heading) => /error|Salient/.test(textOf(heading))));
	assert.deepEqual(tableOf(page, "Perplexity before and after")[1].slice(2), [
		"–",
		"not finite",
		"–",
		"–",
	]);
});

Deno.test("a record with divergences shows them, with what they mean", () => {
	const record = runRecord({ divergence: { windows: 16, kl: 0.31234, agreement: 0.7654 } });
	const page = parseHtml(runReport({ record, pipeline: "" }));
	const [head, row] = tableOf(page, "Perplexity before and after");
	assert.deepEqual(head.slice(5), ["Δ loss", "KL, nats", "Same top token", "Windows for KL"]);
	assert.deepEqual(row.slice(5), ["+0.313", "0.3123", "76.5 %", "16 windows"]);
	const hints = elements(page, "th").filter(({ attributes }) => attributes.title)
		.map((cell) => [textOf(cell), cell.attributes.title]);
	assert.deepEqual(hints.map(([text]) => text), [
		"Ratio",
		...["Δ loss", "KL, nats", "Same top token", "Windows for KL"],
	]);
	assert.match(hints[2][1], /KL divergence of the packed model's next-token distribution/);
	const [tile] = elements(page, "dd").map(textOf);
	assert.match(tile, /, Δ loss \+0\.313, KL 0\.312 nats$/);
	assert.doesNotMatch(textOf(page), /Warning:/);
});

Deno.test("a broken model is warned of, in the page and in Markdown", () => {
	const record = runRecord({ perplexity: 4102.3 });
	const warning =
		/Warning: The perplexity on text\/evaluation\.txt is 4102\.30 after 24\.63 of the/;
	assert.match(textOf(parseHtml(runReport({ record, pipeline: "" }))), warning);
	assert.match(runMarkdown({ record, pipeline: "" }), warning);
});

Deno.test("parts and stages that no one knows yet are shown like the others", () => {
	const record = runRecord();
	record.packed!.storedBitsByPart = { "grid-codes": 2, zeros: 0.25 };
	record.packed!.storedBits = 2.25;
	for (const { linears } of record.layers!) {
		for (const linear of linears) {
			linear.salientColumns = [];
			Object.assign(linear, { salientFraction: 0.125 });
			linear.storedBytes = { "grid-codes": linear.rows * linear.cols / 4 };
		}
	}
	const page = parseHtml(runReport({ record, pipeline: "" }));
	const parts = tableOf(page, "Bits of the linear layers by part");
	assert.deepEqual(parts.slice(1).map(([part, bits]) => [part, bits]), [
		["grid-codes", "2.000"],
		["zeros", "0.250"],
		["all", "2.250"],
	]);
	const salient = tableOf(page, "Salient weights by decoder layer and module");
	assert.deepEqual(salient[1].slice(0, 3), ["1", "12.50 %", "12.50 %"]);
	const chart = elements(page, "svg").find(({ attributes }) =>
		attributes["aria-label"]?.startsWith("Salient weights")
	)!;
	const shades = elements(chart, "rect").map(({ attributes }) => attributes.class);
	assert.deepEqual([...new Set(shades)], ["shade-1 cell"], "equal numbers have one shade");
});

Deno.test("the summary says what was lost, what it takes and where cached figures come from", () => {
	const run = finishedRun();
	const cached = { measured: "2025-12-31T23:59:00Z", adapter: "another machine" };
	Object.assign(run.record.evaluation!.original[0], { cached });
	const page = parseHtml(runReport(run));
	const tiles = elements(page, "dl")[0].children.filter((child) => typeof child !== "string")
		.map((tile) => [...elements(tile, "dt"), ...elements(tile, "dd")].map(textOf));
	assert.deepEqual(tiles, [
		["Perplexity", "24.63 → 33.67 × 1.37 on text/evaluation.txt, Δ loss +0.313"],
		["Zero-shot accuracy", "58.3 % → 53.5 % mean of 2 tasks"],
		["Stored bits per weight", "2.588 of the linear layers; the paper counts 1.055"],
		["Weight files", "2.6 MB 22.6 % of 11.5 MB"],
		["Time", "2:16 6 decoder layers"],
		["Peak GPU memory", "247.6 MB"],
	]);
	const note = "Figures of the original were measured 2025-12-31 23:59 UTC on another machine.";
	assert.deepEqual(elements(page, "p").map(textOf).filter((text) => text.startsWith("Figures")), [
		note,
	]);
});
