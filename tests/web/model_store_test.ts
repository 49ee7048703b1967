import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { UserError } from "../../base/errors.ts";
import { parseSource } from "../../web/model_source.ts";
import { keyOf, ModelStore } from "../../web/model_store.ts";
import { MemoryLocks, MemoryOrigin } from "./memory_origin.ts";
import { ModelServer } from "./model_server.ts";

const LIMITS = { stallMs: 200, pauseMs: 1 };

/** 10 kB that differ at each place. */
const WEIGHTS = Uint8Array.from({ length: 10_000 }, (_, i) => i * i + (i >> 8));
const FILES = { "config.json": "{}", "tokenizer.json": "[]", "model.safetensors": WEIGHTS };

/** A server, a store and the model of one in the other. */
function setUp(files: ModelServer["files"] = { ...FILES }, room = { bytes: Infinity }) {
	const server = new ModelServer(files);
	const [origin, locks] = [new MemoryOrigin(room), new MemoryLocks()];
	const store = new ModelStore(origin, locks, async () => ({ quota: 1e6, usage: 0 }), LIMITS);
	const source = parseSource(server.url, "http://page/");
	return { server, store, locks, origin, source, key: keyOf(source) };
}

/** The files of a stored model, by name. */
async function contentOf(store: ModelStore, key: string): Promise<Record<string, string>> {
	using model = await store.open(key);
	const content: Record<string, string> = {};
	for (const [name, blob] of model.folder.files) content[name] = digest(await blob.bytes());
	return content;
}

function digest(bytes: Uint8Array | string): string {
	return createHash("sha256").update(bytes).digest("hex");
}

function digests(files: ModelServer["files"]): Record<string, string> {
	return Object.fromEntries(
		Object.entries(files).map(([name, content]) => [name, digest(content)]),
	);
}

Deno.test("a model is downloaded once, and used without a network afterwards", async () => {
	const { server, store, source, key } = setUp();
	const progress: number[] = [];
	const onProgress = (_: string, bytes: number, total?: number) => {
		assert.equal(total, WEIGHTS.length + 4);
		progress.push(bytes);
	};
	const model = await store.fetch(source, { onProgress });
	assert.equal(model.name, "m");
	assert.deepEqual(model.folder.names(), Object.keys(FILES).sort());
	assert.deepEqual(await contentOf(store, key), digests(FILES));
	assert.deepEqual(progress, progress.toSorted((a, b) => a - b));
	assert.equal(progress.at(-1), WEIGHTS.length + 4);
	await assert.rejects(store.remove(key), /^UserError: The model is in use/);
	model[Symbol.dispose]();

	server.asked.length = 0;
	(await store.fetch(source))[Symbol.dispose]();
	assert.deepEqual(server.fetched, [], "only asked whether it has changed");
	await server[Symbol.asyncDispose]();
	let reason = "";
	(await store.fetch(source, { onOffline: (text) => reason = text }))[Symbol.dispose]();
	assert.match(reason, /does not answer; check the address and the network$/);
	const [{ isComplete, bytes, total }] = await store.list();
	assert.deepEqual([isComplete, bytes, total], [true, WEIGHTS.length + 4, WEIGHTS.length + 4]);

	await store.remove(key);
	assert.deepEqual(await store.list(), []);
	await assert.rejects(store.fetch(source), /does not answer/);
});

Deno.test("a download that was interrupted goes on where it stopped", async () => {
	const { server, store, source, key } = setUp();
	await using _ = server;
	const controller = new AbortController();
	server.behaviour.stallAfter = 4000;
	const { signal } = controller;
	const onProgress = (_: string, bytes: number) => {
		if (bytes >= 4000) controller.abort(new Error("enough"));
	};
	await assert.rejects(store.fetch(source, { signal, onProgress }), /enough/);
	const [{ isComplete, bytes }] = await store.list();
	assert.deepEqual([isComplete, bytes], [false, 4004]);
	await assert.rejects(
		store.open(key),
		/^UserError: The model "m" is not complete; load it again$/,
	);

	server.behaviour.stallAfter = undefined;
	server.asked.length = 0;
	(await store.fetch(source))[Symbol.dispose]();
	const gets = server.asked.filter(({ method, sent }) => method === "GET" && sent > 0);
	assert.deepEqual(gets.map(({ range, sent }) => [range, sent]), [["bytes=4000-", 6000]]);
	assert.deepEqual(await contentOf(store, key), digests(FILES));
});

Deno.test("lost and stalled connections are resumed", async () => {
	for (const name of ["cutAfter", "stallAfter"] as const) {
		const { server, store, source, key } = setUp();
		await using _ = server;
		server.behaviour[name] = 3000;
		(await store.fetch(source))[Symbol.dispose]();
		assert.deepEqual(await contentOf(store, key), digests(FILES));
		const ranges = server.asked.filter(({ name, method }) =>
			name === "model.safetensors" && method === "GET"
		).map(({ range }) => range);
		assert.deepEqual(ranges, [null, "bytes=3000-", "bytes=6000-", "bytes=9000-"]);
	}
});

Deno.test("a server that stays silent fails after some attempts, one without parts after each whole file", async () => {
	const { server, store, source, key } = setUp();
	await using _ = server;
	server.behaviour.cutAfter = 0;
	await assert.rejects(store.fetch(source), /config.json": the connection was lost$/);
	assert.equal(server.fetched.length, 5);
	Object.assign(server.behaviour, { cutAfter: 3000, ranges: false });
	await assert.rejects(store.fetch(source), /model.safetensors": the connection was lost$/);
	server.behaviour.cutAfter = undefined;
	(await store.fetch(source))[Symbol.dispose]();
	assert.deepEqual(await contentOf(store, key), digests(FILES));
});

Deno.test("what has changed on the server is downloaded again, never mixed", async () => {
	for (const versions of [true, false]) {
		const { server, store, source, key } = setUp();
		await using _ = server;
		server.behaviour.versions = versions;
		server.behaviour.cutAfter = 3000;
		server.behaviour.ranges = false;
		await assert.rejects(store.fetch(source), /connection was lost/); // 3000 bytes are stored
		server.files["model.safetensors"] = WEIGHTS.map((value) => value ^ 1);
		Object.assign(server.behaviour, { cutAfter: undefined, ranges: true });
		(await store.fetch(source))[Symbol.dispose]();
		assert.deepEqual(await contentOf(store, key), digests(server.files));
		if (!versions) continue;
		server.files["config.json"] = "[]";
		server.asked.length = 0;
		(await store.fetch(source))[Symbol.dispose]();
		assert.deepEqual(server.fetched, ["config.json"]);
	}
});

Deno.test("a file that changes while it is downloaded is refused", async () => {
	const { server, store, source } = setUp();
	await using _ = server;
	const onProgress = () => void (server.files["model.safetensors"] = WEIGHTS.map((v) => v ^ 1));
	const problem = `"${server.url}/model.safetensors" has changed while the model was downloaded; ` +
		`load it again`;
	await assert.rejects(store.fetch(source, { onProgress }), new UserError(problem));
});

Deno.test("files.json has the files of a folder with their hashes, which are checked", async () => {
	const listed = Object.entries(FILES).map(([name, content]) => ({
		name,
		bytes: content.length,
		sha256: digest(content),
	}));
	const { server, store, source, key } = setUp({ ...FILES, "files.json": JSON.stringify(listed) });
	await using _ = server;
	server.files["model.safetensors"] = WEIGHTS.map((value) => value ^ 1);
	const problem =
		`"${server.url}/model.safetensors" does not have the hash that the server lists ` +
		`for it; load the model again`;
	await assert.rejects(store.fetch(source), new UserError(problem));
	server.files["model.safetensors"] = WEIGHTS.subarray(1);
	await assert.rejects(store.fetch(source), /has 10.0 kB, but 10.0 kB were announced; load/);
	server.files["model.safetensors"] = WEIGHTS;
	(await store.fetch(source))[Symbol.dispose]();
	assert.deepEqual(await contentOf(store, key), digests(FILES));
	for (const wrong of ["{}", `[{"name":"../x","bytes":1,"sha256":"${"0".repeat(64)}"}]`, "<"]) {
		server.files["files.json"] = wrong;
		await assert.rejects(
			store.fetch(source),
			/^UserError: Cannot read ".*\/files.json": it is no /,
		);
	}
});

Deno.test("a storage that is full is said before and while a model is downloaded", async () => {
	const { server, store, source, origin, key } = setUp({ ...FILES }, { bytes: 5000 });
	await using _ = server;
	const small = new ModelStore(
		origin,
		new MemoryLocks(),
		async () => ({ quota: 5100, usage: 100 }),
		LIMITS,
	);
	await assert.rejects(
		small.fetch(source),
		/^UserError: Cannot store "m": 10.0 kB are still to be downloaded, but this page may store only 5.0 kB more; /,
	);
	assert.deepEqual(server.fetched, []);
	await assert.rejects(
		store.fetch(source),
		/^UserError: Cannot store "m": the storage that the browser gives to this page is full; /,
	);
	origin.room.bytes += 1e6;
	(await store.fetch(source))[Symbol.dispose]();
	assert.deepEqual(await contentOf(store, key), digests(FILES));
});

Deno.test("two tabs download a model once", async () => {
	const { server, store, source, origin, locks, key } = setUp();
	await using _ = server;
	const other = new ModelStore(origin, locks, undefined, LIMITS);
	let waits = 0;
	const models = await Promise.all(
		[store, other].map((each) => each.fetch(source, { onWait: () => waits++ })),
	);
	assert.equal(waits, 1);
	assert.equal(server.fetched.length, 3);
	models[0][Symbol.dispose]();
	await assert.rejects(store.remove(key), /in use/);
	models[1][Symbol.dispose]();
	await store.remove(key);
});

Deno.test("what is no model is refused with what was found", async () => {
	const { server, store, source } = setUp({ "model.safetensors": WEIGHTS });
	await using _ = server;
	const refuses = (pattern: RegExp) => assert.rejects(store.fetch(source), pattern);
	await refuses(
		/^UserError: There is no model at "http.*\/m": it has no config.json; give the folder/,
	);
	server.behaviour.pages = true; // for all that it does not have
	await refuses(/^UserError: There is no model at/);
	server.files["config.json"] = "{}";
	delete server.files["model.safetensors"];
	await refuses(/^UserError: Cannot load ".*": it has neither "model.safetensors" nor an index of/);
	server.files["model.safetensors.index.json"] = `{"weight_map":{"a":"x.safetensors"}}`;
	await refuses(
		/^UserError: Cannot load ".*": its index lists "x.safetensors", which is not there$/,
	);
	server.behaviour.status = 403;
	await refuses(
		/: 403 Forbidden; the server demands an authorization, which this page does not have$/,
	);
	assert.deepEqual(await store.list(), []);
});

Deno.test("servers without HEAD requests and sharded models are read, too", async () => {
	const index = `{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}`;
	const shards = { "x.safetensors": WEIGHTS, "y.safetensors": WEIGHTS.subarray(1) };
	const files = { "config.json": "{}", "model.safetensors.index.json": index, ...shards };
	const { server, store, source, key } = setUp({ ...files, "other.safetensors": "no part of it" });
	await using _ = server;
	server.behaviour.heads = false;
	(await store.fetch(source))[Symbol.dispose]();
	assert.deepEqual(await contentOf(store, key), digests(files));
});
