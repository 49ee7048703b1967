import assert from "node:assert/strict";
import { mkdirSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { commonFolder, findRuns, readRuns } from "../../report/cells.ts";
import { MergedReport } from "../../report/merged_report.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { elements, parseHtml, tableOf, textOf } from "./parse_html.ts";
import { comparison, runRecord } from "./runs.ts";

/** Writes files below a folder, by path. */
function write(folder: string, files: Record<string, unknown>): void {
	for (const [path, content] of Object.entries(files)) {
		const full = join(folder, path);
		mkdirSync(join(full, ".."), { recursive: true });
		writeFileSync(full, typeof content === "string" ? content : JSON.stringify(content));
	}
}

function cell(index: number, fields: Record<string, unknown> = {}) {
	return { grid: "g", cell: `c${index}`, index, cells: 5, values: {}, status: "done", ...fields };
}

Deno.test("runs are found at and below folders, each once; files are passed over", () => {
	using place = new TemporaryFolder();
	const at = (...names: string[]) => join(place.path, ...names);
	write(place.path, {
		"report.html": "",
		"alone/run.json": {},
		"alone/model/run.json": {},
		"grid/a/run.json": {},
		"grid/b/cell.json": {},
		"grid/empty/notes.txt": "",
		"1/2/3/4/run.json": {},
	});
	symlinkSync(at("alone"), at("link"));
	const found = (...paths: string[]) => findRuns(paths.map((path) => at(path))).sort();
	assert.deepEqual(found("grid"), [at("grid/a"), at("grid/b")]);
	assert.deepEqual(found("alone", "link", "alone"), [at("alone")]);
	assert.deepEqual(found("report.html"), []);
	assert.deepEqual(found("."), [at("alone"), at("grid/a"), at("grid/b")]);
	assert.throws(() => found("nothing"), { message: `There is no folder "${at("nothing")}"` });
	const common = (...names: string[]) => commonFolder(names.map((name) => at(name)));
	assert.equal(common("grid/a", "grid/b"), realpathSync(at("grid")));
	assert.equal(common("grid/a", "alone"), realpathSync(place.path));
	assert.equal(common("alone"), realpathSync(place.path));
});

Deno.test("what is done, failed, not finished and missing is told apart", () => {
	using place = new TemporaryFolder();
	const record = runRecord({ layers: 1 });
	write(place.path, {
		"c2/run.json": record,
		"c2/cell.json": cell(2),
		"c1/run.json": { ...record, status: "running" },
		"c1/cell.json": cell(1, { status: "failed", error: "It burst" }),
		"c4/cell.json": cell(4),
		"own/run.json": { ...record, name: "own" },
		"half/run.json": { ...record, name: "half", status: "running" },
		"odd/run.json": "{",
		"odd-cell/run.json": record,
		"odd-cell/cell.json": { cell: "x" },
	});
	const { done, failed, missing } = readRuns(findRuns([place.path]));
	assert.deepEqual(done.map(({ name }) => name), ["own", "c2"]);
	const problems = Object.fromEntries(failed.map(({ name, problem }) => [name, problem]));
	assert.match(problems.odd, /^Cannot read ".*odd\/run.json"/);
	assert.match(
		problems["odd-cell"],
		/cell.json" is not a record of this program: cell.json lacks "grid"$/,
	);
	delete problems.odd;
	delete problems["odd-cell"];
	assert.deepEqual(problems, {
		c1: "It burst",
		c4: "cell.json says that it is done, but there is no run.json",
		half: "the run is not finished; the same command resumes it",
	});
	assert.deepEqual(missing, ["3 of 5 of g", "5 of 5 of g"]);
});

Deno.test("runs of the same name get the names of their folders", () => {
	using place = new TemporaryFolder();
	const record = runRecord({ layers: 1 });
	write(place.path, {
		"x/one/run.json": record,
		"y/one/run.json": record,
		"z/run.json": { ...record, name: "z" },
	});
	const { done } = readRuns(findRuns([place.path]));
	assert.deepEqual(done.map(({ name }) => name).sort(), ["x/one", "y/one", "z"]);
});

Deno.test("a merged page is well-formed and has the figures of each run", () => {
	const text = new MergedReport(comparison()).page("/out");
	const page = parseHtml(text);
	assert.doesNotMatch(text, /https?:|NaN|undefined|Infinity|\[object/);
	assert.equal(textOf(elements(page, "h1")[0]), "baselines");
	assert.match(textOf(page), /14 runs finished, 1 failed or not finished, 1 missing/);
	assert.deepEqual(tableOf(page, "Unfinished runs"), [
		["Run", "Why"],
		["tiny-opt,rtn-1 (9 of 16)", "Cannot factor the Hessian: raise it"],
		["cell 12 of 16 of baselines", "missing: no folder has this cell"],
	]);
	const llama = tableOf(page, "Runs of models/tiny-llama");
	assert.deepEqual(llama.slice(0, 3).concat(llama.slice(6, 7)), [
		["#", "Run", "Stored bits", "Size", "Perplexity, evaluation.txt", "Ratio", "Δ loss", "Time"],
		["1", "rtn-1", "2.588", "2.0 MB", "4 102", "× 167", "+5.115", "2:16"],
		["2", "rtn-2", "2.588", "2.4 MB", "383.80", "× 15.58", "+2.746", "2:16"],
		["6", "sign", "2.588", "1.8 MB", "not finite", "–", "+696.796", "2:16"],
	]);
	const best = elements(page, "strong").map(textOf);
	assert.deepEqual(
		best,
		["rtn-1", "gptq-2", "billm-default", "gptq-4"].toSorted((a, b) =>
			llama.findIndex((row) => row[1] === a) - llama.findIndex((row) => row[1] === b)
		).concat(["gptq-2", "billm-default"]),
	);
	const tasks = tableOf(page, "Zero-shot accuracy in percent, normalized where there is one");
	assert.deepEqual(tasks[0], ["#", "Run", "piqa", "boolq", "mean"]);
	assert.deepEqual(tasks[1], ["", "models/tiny-llama, original", "54.5", "62.0", "58.3"]);
	assert.deepEqual(tasks[2], ["1", "rtn-1", "49.8", "57.3", "53.5"]);
	const paper = tableOf(page, "models/tiny-llama, as papers print it");
	assert.deepEqual(paper.slice(0, 3), [
		["Method", "Claimed bits", "Stored bits", "evaluation.txt", "Zero-shot mean, %", "Time"],
		["original", "–", "–", "24.63", "58.3", "–"],
		["rtn-1", "1.06", "2.59", "4 102", "53.5", "2:16"],
	]);
	assert.deepEqual(tableOf(page, "Values set by the cells")[1], [
		"1",
		"models/tiny-llama",
		"rtn-1",
	]);
});

Deno.test("divergences have columns where some run has them", () => {
	const runs = comparison();
	const [{ record }] = runs.done;
	Object.assign(record.evaluation!.packed![0], {
		divergence: { windows: 16, kl: 4.5, agreement: 0.0625 },
	});
	const page = parseHtml(new MergedReport(runs).page("/out"));
	const llama = tableOf(page, "Runs of models/tiny-llama").slice(0, 3);
	assert.deepEqual(llama.map((row) => row.slice(6, 9)), [
		["Δ loss", "KL, nats", "Same top token"],
		["+5.115", "4.5000", "6.3 %"],
		["+2.746", "–", "–"],
	]);
	assert.ok(!tableOf(page, "Runs of models/tiny-opt")[0].includes("KL, nats"));
	const titles = elements(page, "th").flatMap(({ attributes }) => attributes.title ?? []);
	assert.equal(titles.length, 4 + 2 + 2 * 2, "of runs, and of both tables as papers print them");
});

Deno.test("the chart has a mark for each run with a perplexity, the best ones on the staircase", () => {
	const page = parseHtml(new MergedReport(comparison()).page("/out"));
	const charts = elements(page, "svg").filter(({ attributes }) => attributes.role === "img");
	assert.equal(charts.length, 2, "one for each model");
	const [chart] = charts;
	const marks = elements(chart, "circle");
	assert.equal(marks.length, 7, "sign has no finite perplexity");
	const place = ({ attributes: { cx, cy } }: (typeof marks)[0]) => [parseFloat(cx), Number(cy)];
	const isBest = (mark: (typeof marks)[0]) => mark.attributes.class.includes("best");
	const best = marks.filter(isBest).map(place).sort(([a], [b]) => a - b);
	assert.equal(best.length, 4);
	for (const mark of marks) {
		const [x, y] = place(mark);
		const isBeaten = marks.some((other) => {
			const [otherX, otherY] = place(other);
			return other !== mark && otherX <= x && otherY >= y; // further down is better
		});
		assert.equal(isBest(mark), !isBeaten);
	}
	const steps = elements(chart, "line").filter(({ attributes }) => attributes.class === "front");
	const level = steps.filter(({ attributes: { y1, y2 } }) => y1 === y2);
	const corners = level.map((
		{ attributes: { x1, x2, y1 } },
	) => [parseFloat(x1), parseFloat(x2), Number(y1)]);
	best.forEach(([x, y], i) => {
		assert.deepEqual(corners[i], [x, best[i + 1]?.[0] ?? 100, y], "level to the next one");
	});
});

Deno.test("Markdown has the tables of the page; what would end a cell does not", () => {
	const runs = comparison();
	runs.done[0].name = "a|b <c>";
	const text = new MergedReport(runs).markdown();
	assert.match(text, /^## baselines\n\n14 runs finished, 1 failed or not finished, 1 missing\n/);
	assert.match(
		text,
		/\| cell 12 of 16 of baselines \| missing: no folder has this cell \|/,
	);
	assert.ok(text.includes("| 1 | **a\\|b \\<c\\>** | 2.588 | 2.0 MB | 4 102 |"), text);
	const tables = text.split("\n\n").filter((part) => part.startsWith("|"));
	assert.equal(tables.length, 6);
	for (const table of tables) {
		const widths = table.split("\n").map((line) => line.split(/(?<!\\)\|/).length);
		assert.equal(new Set(widths).size, 1, table);
	}
});

Deno.test("the picture alone is an SVG with its own colours for dark and light", () => {
	const text = new MergedReport(comparison()).svg()!;
	const picture = parseHtml(text);
	assert.equal(picture.tag, "svg");
	assert.equal(picture.attributes.xmlns, "http://www.w3.org/2000/svg");
	assert.doesNotMatch(text.replace("http://www.w3.org/2000/svg", ""), /https?:|url\(|<script/);
	const style = textOf(elements(picture, "style")[0]);
	assert.match(style, /@media screen and \(prefers-color-scheme:dark\)\{:root\{--page:#/);
	const used = [...text.matchAll(/class="([^"]+)"/g)].flatMap(([, names]) => names.split(" "));
	for (const name of new Set(used)) {
		if (["chart", "label", "best"].includes(name)) continue;
		assert.ok(style.includes(`.${name}{`), `the style lacks "${name}"`);
	}
	for (const [, name] of style.matchAll(/[{;](--[\w-]+):/g)) {
		assert.ok(text.includes(`var(${name})`), `nothing uses "${name}"`);
	}
	for (const [, name] of style.matchAll(/\.([a-z-]+)\b(?=[^{}]*\{)/g)) {
		assert.ok(used.includes(name), `nothing is a "${name}"`);
	}
	const names = elements(picture, "text").map(textOf);
	for (
		const name of ["gptq-2", "pb-llm", "billm-default", "models/tiny-opt on text/evaluation.txt"]
	) {
		assert.ok(names.includes(name), `${name} is not among ${names}`);
	}
	const nothing = { done: [], failed: [], missing: [] };
	assert.equal(new MergedReport(nothing).svg(), undefined);
});

Deno.test("charts of one data set say how they differ", () => {
	const [first, second, ...rest] = comparison().done;
	const { original, packed } = second.record.evaluation!;
	const fewer = (figures: typeof packed) => figures?.map((figure) => ({ ...figure, windows: 4 }));
	second.record.evaluation = {
		...second.record.evaluation,
		original: fewer(original)!,
		packed: fewer(packed),
	};
	second.record.model = first.record.model;
	const report = new MergedReport({ done: [first, second, ...rest], failed: [], missing: [] });
	const names = elements(parseHtml(report.svg()!), "text").map(textOf);
	const { model } = first.record;
	for (const windows of [101, 4]) {
		const title = `${model} on text/evaluation.txt, ${windows} windows of 256 tokens`;
		assert.ok(names.includes(title), names.join("\n"));
	}
});

Deno.test("results of another program are drawn as diamonds, beside the front", () => {
	const peers = {
		program: "a & b",
		notes: ["Measured <elsewhere>."],
		results: [
			{ name: "small", bytes: 1000000, perplexity: 900 },
			{ name: "large", bytes: 3000000, perplexity: 1.5 },
		],
	};
	const runs = comparison();
	runs.done = runs.done.filter(({ record }) => record.model === "models/tiny-llama");
	const before = parseHtml(new MergedReport(runs).page("/out"));
	const report = new MergedReport(runs, peers);
	const page = parseHtml(report.page("/out"));
	const chart = elements(page, "svg").find(({ attributes }) => attributes.role === "img")!;
	const diamonds = elements(chart, "svg").filter(({ attributes }) =>
		attributes.class === "diamond"
	);
	const [small, large] = diamonds.map(({ attributes: { x, y } }) => [parseFloat(x), Number(y)]);
	assert.ok(small[0] < large[0] && small[1] < large[1]);
	const isBest = ({ attributes }: { attributes: Record<string, string> }) =>
		attributes.class.includes("best");
	const countBest = (of: typeof page) => elements(of, "circle").filter(isBest).length;
	assert.equal(countBest(page), countBest(before));
	assert.deepEqual(tableOf(page, "Results of a & b"), [
		["Name", "Size", "Perplexity"],
		["small", "1.0 MB", "900.00"],
		["large", "3.0 MB", "1.50"],
	]);
	assert.ok(textOf(page).includes("Measured <elsewhere>."));
	assert.match(report.markdown(), /\| large \| 3\.0 MB \| 1\.50 \|/);
	assert.match(report.svg()!, /<path class="peer"/);
	assert.throws(() => new MergedReport(comparison(), peers), {
		message: /^Peers can be drawn where all perplexities are of one model and data set; found: /,
	});
});

Deno.test("names in a chart cover neither each other nor a mark", () => {
	const runs = comparison();
	for (const [i, { record }] of runs.done.entries()) {
		// Crowded: one run far away, the others close together.
		const isFar = i % 8 === 0;
		record.packed!.bytes = isFar ? 4000000 : 2800000 + 60000 * (i % 3);
		record.evaluation!.packed![0].perplexity = isFar ? 60 : 30 + i % 8;
	}
	const picture = parseHtml(new MergedReport(runs).svg()!);
	const boxes = elements(picture, "svg").filter(({ attributes }) => attributes.role === "img")
		.filter((chart) => chart !== picture)
		.map((chart) => {
			const at = (percent: string) => 720 * parseFloat(percent) / 100;
			const names = elements(chart, "text").filter(({ attributes }) =>
				attributes.class === "name label"
			);
			const texts = names.map((name) => {
				const { x, dx, y, "text-anchor": anchor } = name.attributes;
				const width = 6 * textOf(name).length;
				const start = at(x) + Number(dx);
				const left = anchor === "start"
					? start
					: anchor === "end"
					? start - width
					: start - width / 2;
				return { left, right: left + width, top: Number(y) - 9, bottom: Number(y) + 2 };
			});
			const marks = elements(chart, "circle").map(({ attributes: { cx, cy, r } }) => ({
				left: at(cx) - Number(r),
				right: at(cx) + Number(r),
				top: Number(cy) - Number(r),
				bottom: Number(cy) + Number(r),
			}));
			return { texts, marks };
		});
	assert.equal(boxes.length, 2);
	assert.ok(boxes[0].texts.length >= 4, `${boxes[0].texts.length} names have a place`);
	for (const { texts, marks } of boxes) {
		texts.forEach((text, i) => {
			for (const other of [...texts.slice(i + 1), ...marks]) {
				const isClear = text.left >= other.right || other.left >= text.right ||
					text.top >= other.bottom || other.top >= text.bottom;
				assert.ok(isClear, JSON.stringify([text, other]));
			}
		});
	}
});
