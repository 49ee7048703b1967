import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FigureCache } from "~/stages/figure_cache.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const KEY = { figure: "perplexity", data: ["a"], windows: null };
const FIGURE = { loss: 3.25, dataset: "x", list: [1, 2] };

function filesOf(folder: string): string[] {
	return readdirSync(join(folder, "figures")).map((name) => join(folder, "figures", name));
}

Deno.test("FigureCache gives what was kept for the same key, with its origin", () => {
	using folder = new TemporaryFolder();
	const cache = new FigureCache(folder.file("new", "folder"));
	assert.equal(cache.find(KEY), undefined);
	const before = Date.now();
	cache.keep(KEY, FIGURE, "some adapter");
	const { figure, cached } = new FigureCache(folder.file("new", "folder")).find(KEY)!;
	assert.deepEqual(figure, FIGURE);
	assert.equal(cached.adapter, "some adapter");
	const measured = Date.parse(cached.measured);
	assert(before <= measured && measured <= Date.now());
	assert.equal(filesOf(folder.file("new", "folder")).length, 1, "nothing temporary is left");
});

Deno.test("FigureCache keeps figures of different keys apart", () => {
	using folder = new TemporaryFolder();
	const cache = new FigureCache(folder.path);
	cache.keep(KEY, 1, "a");
	for (const [i, other] of [{ windows: 4 }, { data: ["b"] }, { figure: "zero-shot" }].entries()) {
		assert.equal(cache.find({ ...KEY, ...other }), undefined);
		cache.keep({ ...KEY, ...other }, 2 + i, "a");
	}
	assert.equal(cache.find(KEY)!.figure, 1);
	assert.equal(cache.find({ ...KEY, data: ["b"] })!.figure, 3);
});

const DAMAGES: [what: string, damage: (text: string) => string][] = [
	["is cut", (text) => text.slice(0, -20)],
	["is empty", () => ""],
	["is no JSON object", () => "[1, 2]"],
	["lacks its hash", (text) => JSON.stringify({ ...JSON.parse(text), sha256: undefined })],
	["has another figure than its hash says", (text) => text.replace("3.25", "3.26")],
	["belongs to another key", (text) => text.replace("perplexity", "perplexitz")],
	["has a figure with no date", (text) => text.replace(/"measured": ".*"/, '"measured": "today"')],
];

for (const [what, damage] of DAMAGES) {
	Deno.test(`FigureCache takes a file for none that ${what}, and replaces it`, () => {
		using folder = new TemporaryFolder();
		const cache = new FigureCache(folder.path);
		cache.keep(KEY, FIGURE, "a");
		const [file] = filesOf(folder.path);
		const text = readFileSync(file, "utf8");
		assert.notEqual(damage(text), text);
		writeFileSync(file, damage(text));
		assert.equal(cache.find(KEY), undefined);
		cache.keep(KEY, FIGURE, "b");
		assert.deepEqual(cache.find(KEY)!.figure, FIGURE);
		assert.deepEqual(filesOf(folder.path), [file]);
	});
}

Deno.test("FigureCache goes without a folder, or one that it cannot write", () => {
	using folder = new TemporaryFolder();
	const path = folder.file("file");
	writeFileSync(path, "");
	for (const cache of [new FigureCache(undefined), new FigureCache(path)]) {
		cache.keep(KEY, FIGURE, "a");
		assert.equal(cache.find(KEY), undefined);
	}
	assert.equal(readFileSync(path, "utf8"), "");
});
