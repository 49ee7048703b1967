import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
	appendFileSync,
	cpSync,
	existsSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	rmSync,
	writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { UserError } from "../../base/errors.ts";
import { pageFiles } from "../../tasks/web/page_files.ts";
import { ServedModel } from "../../tasks/web/served_model.ts";
import { pageServer } from "../../tasks/web/server.ts";
import { writeSite } from "../../tasks/web/write_site.ts";
import { PROJECT } from "../checkout.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const MODEL = join(PROJECT, "examples/models/tiny-llama");
const PAGE = new Map([["index.html", "<!doctype html>"], ["page.js", "1;".repeat(1000)]]);

function sha256(path: string): string {
	return createHash("sha256").update(readFileSync(path)).digest("hex");
}

Deno.test("the server of the page has its files, and those of the model with their hashes and in parts", async () => {
	using folder = new TemporaryFolder();
	cpSync(MODEL, folder.path, { recursive: true });
	writeFileSync(join(folder.path, "secret.txt"), "no part of the model");
	const model = ServedModel.open(folder.path, "../my model");
	assert.equal(model.place, "models/-my-model");
	const handler = pageServer(PAGE, model);
	const ask = (path: string, init?: RequestInit) =>
		handler(new Request(`http://localhost/${path}`, init));

	const index = await ask("");
	assert.equal(index.headers.get("content-type"), "text/html; charset=utf-8");
	assert.equal(await index.text(), PAGE.get("index.html"));
	assert.equal(await (await ask("page.js")).text(), PAGE.get("page.js"));

	const list = await (await ask(`${model.place}/files.json`)).json();
	assert.deepEqual(
		list.map(({ name }: { name: string }) => name).sort(),
		readdirSync(MODEL).sort(),
	);
	for (const { name, bytes, sha256: digits } of list) {
		const response = await ask(`${model.place}/${name}`);
		const content = await response.bytes();
		assert.equal(content.length, bytes);
		assert.equal(createHash("sha256").update(content).digest("hex"), digits);
	}
	const config = readFileSync(join(MODEL, "config.json"));
	const path = `${model.place}/config.json`;
	const ranges: [range: string, status: number, content: Uint8Array, of?: string][] = [
		["bytes=10-", 206, config.subarray(10), `bytes 10-${config.length - 1}/${config.length}`],
		["bytes=3-7", 206, config.subarray(3, 8), `bytes 3-7/${config.length}`],
		[`bytes=${config.length}-`, 416, new Uint8Array(), `bytes */${config.length}`],
		["bytes=-5", 200, config],
	];
	for (const [range, status, content, of = null] of ranges) {
		const response = await ask(path, { headers: { range } });
		assert.equal(response.status, status);
		assert.equal(response.headers.get("content-range"), of);
		assert.deepEqual(await response.bytes(), new Uint8Array(content), range);
	}
	const head = await ask(path, { method: "HEAD" });
	assert.equal(head.headers.get("content-length"), String(config.length));
	assert.equal(await head.text(), "");

	const before = head.headers.get("etag");
	appendFileSync(join(folder.path, "config.json"), "\n");
	assert.notEqual((await ask(path, { method: "HEAD" })).headers.get("etag"), before);
	const again = await (await ask(`${model.place}/files.json`)).json();
	assert.equal(
		again.find(({ name }: { name: string }) => name === "config.json").sha256,
		sha256(join(folder.path, "config.json")),
	);
	rmSync(join(folder.path, "config.json"));
	const absent = ["secret.txt", "config.json", "..%2f..%2fdeno.json", "%", "x/y"]
		.map((name) => `${model.place}/${name}`);
	for (const name of [...absent, "deno.json", "page.js/x", "models/", "%2e%2e/deno.json"]) {
		assert.equal((await ask(name)).status, 404, name);
	}
	assert.equal((await ask("page.js", { method: "POST", body: "x" })).status, 405);
});

Deno.test("a folder without a model, or with one that pages cannot load, is not served", () => {
	using folder = new TemporaryFolder();
	assert.throws(() => ServedModel.open(folder.path, "m"), UserError);
	cpSync(MODEL, folder.path, { recursive: true });
	rmSync(join(folder.path, "model.safetensors"));
	assert.throws(() => ServedModel.open(folder.path, "m"), /has no weights/);
});

Deno.test("a site is written as a whole, over an earlier one only", () => {
	using folder = new TemporaryFolder();
	const site = join(folder.path, "site");
	const model = ServedModel.open(MODEL, "tiny");
	const page = new Map(PAGE).set("site.json", `{"generator":"billm"}`);
	writeSite(site, page, model);
	const names = readdirSync(join(site, "models/tiny")).sort();
	assert.deepEqual(names, [...readdirSync(MODEL), "files.json"].sort());
	assert.equal(
		sha256(join(site, "models/tiny/tokenizer.json")),
		sha256(join(MODEL, "tokenizer.json")),
	);
	writeSite(`${site}/`, page);
	assert.deepEqual(readdirSync(site).sort(), ["index.html", "page.js", "site.json"]);
	const lost = new Map([["config.json", join(folder.path, "nothing")]]);
	assert.throws(() => writeSite(site, page, { place: "m", paths: lost } as unknown as ServedModel));
	assert.deepEqual(readdirSync(folder.path), ["site"], "the earlier one stays, and nothing else");
	const others = join(folder.path, "others");
	mkdirSync(others);
	writeSite(others, page);
	rmSync(join(others, "site.json"));
	assert.throws(
		() => writeSite(others, page),
		/^UserError: Cannot write to ".*": other files are there/,
	);
	assert(existsSync(join(others, "page.js")));
});

Deno.test("the files of the page need no others, and are small", async () => {
	const page = await pageFiles("./models/m");
	assert.equal(JSON.parse(`${page.get("site.json")}`).model, "./models/m");
	let bytes = 0;
	for (const [name, content] of page) {
		bytes += Buffer.byteLength(content);
		const isPacked = name === "worker.packed";
		if (!isPacked && !name.endsWith(".js")) continue;
		assert.doesNotMatch(
			isPacked ? `${gunzipSync(content)}` : `${content}`,
			/\b(?:await )?using \w+\s*=|\bimport\s*["'{*]|\bDeno\b|\bnode:/,
			name,
		);
	}
	assert(bytes < 300_000, `${bytes} bytes`);
	const index = `${page.get("index.html")}`;
	for (const [, name] of index.matchAll(/(?:src|href)="(?!data:)([^"]+)"/g)) {
		assert(page.has(name), name);
	}
});
