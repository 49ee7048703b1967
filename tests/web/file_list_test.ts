import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { UserError } from "../../base/errors.ts";
import { listFiles } from "../../web/file_list.ts";
import { HUB, parseSource } from "../../web/model_source.ts";
import { keyOf, ModelStore } from "../../web/model_store.ts";
import { MemoryLocks, MemoryOrigin } from "./memory_origin.ts";

const PAGE = "https://page.example/app/";

Deno.test("a model is named by a URL, a path, or its name on the hub", () => {
	const cases: [text: string, name: string, url: string, revision?: string][] = [
		[" owner/name ", "owner/name", `${HUB}/owner/name`, "main"],
		["owner/na-me.2@v1.0", "owner/na-me.2@v1.0", `${HUB}/owner/na-me.2/tree/v1.0`, "v1.0"],
		[`${HUB}/owner/name/`, "owner/name", `${HUB}/owner/name`, "main"],
		[`${HUB}/owner/name/tree/dev?x=1`, "owner/name@dev", `${HUB}/owner/name/tree/dev`, "dev"],
		["./models/tiny", "tiny", "https://page.example/app/models/tiny"],
		["/models/a%20b/", "a b", "https://page.example/models/a%20b"],
		["http://localhost:1/m/config.json#x", "m", "http://localhost:1/m"],
		["https://host.example/", "host.example", "https://host.example"],
	];
	for (const [text, name, url, revision] of cases) {
		const source = parseSource(text, PAGE);
		assert.deepEqual([source.name, source.url, source.hub?.revision], [name, url, revision], text);
		const again = parseSource(source.url, PAGE);
		assert.deepEqual(again, source, "its URL names it, too");
	}
	for (const text of ["", "name", "a b/c", "ftp://host/m", "owner/name/more", "javascript:1"]) {
		assert.throws(() => parseSource(text, PAGE), UserError, text);
	}
	assert.throws(
		() => parseSource("a/b@x/y", PAGE),
		/the revision must be a branch, a tag or a commit/,
	);
});

Deno.test("models have folders of their own, with plain names", () => {
	const keys = ["https://a.example/m", "https://b.example/m", "a/m", "https://a.example/../.."]
		.map((text) => keyOf(parseSource(text, PAGE)));
	assert.equal(new Set(keys).size, keys.length);
	for (const key of keys) assert.match(key, /^[\w-][\w.-]*$/);
});

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS = new Uint8Array(1000).fill(7);
const CONFIG = `{"é":1}`;

function hash(kind: string, content: string | Uint8Array): string {
	return createHash(kind).update(content).digest("hex");
}

/** A hub with one model. */
function startHub(files: Record<string, string | Uint8Array<ArrayBuffer>>) {
	const entries = Object.entries(files).map(([path, content]) => {
		const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
		const oid = hash("sha1", Buffer.concat([Buffer.from(`blob ${bytes.length}\0`), bytes]));
		const lfs = { oid: hash("sha256", bytes), size: bytes.length };
		const isLarge = path.endsWith(".safetensors");
		return { type: "file", path, size: bytes.length, oid, ...(isLarge && { lfs }) };
	});
	const answers: Record<string, unknown> = {
		"/api/models/o/m/revision/main": { sha: COMMIT },
		[`/api/models/o/m/tree/${COMMIT}`]: [{ type: "directory", path: "onnx" }, ...entries],
	};
	return Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, ({ url }) => {
		const { pathname } = new URL(url);
		if (pathname in answers) return Response.json(answers[pathname]);
		const content = files[pathname.replace(`/o/m/resolve/${COMMIT}/`, "")];
		return new Response(content ?? "", { status: content === undefined ? 401 : 200 });
	});
}

Deno.test("a model on the hub is listed at a commit, and its hashes are checked", async () => {
	const files: Record<string, string | Uint8Array<ArrayBuffer>> = {
		"config.json": CONFIG,
		"README.md": "no part of the model",
		"model.safetensors": WEIGHTS,
	};
	await using server = startHub(files);
	const endpoint = `http://127.0.0.1:${server.addr.port}`;
	const source = parseSource("o/m", PAGE, endpoint);
	const listed = await listFiles(source);
	assert.deepEqual(listed.map(({ name, bytes, hash }) => [name, bytes, hash!.kind]), [
		["config.json", 8, "git"],
		["model.safetensors", 1000, "sha256"],
	]);
	assert(listed.every(({ url }) => url.startsWith(`${endpoint}/o/m/resolve/${COMMIT}/`)));
	const store = new ModelStore(new MemoryOrigin(), new MemoryLocks());
	(await store.fetch(source))[Symbol.dispose]();
	await store.remove(keyOf(source));
	files["config.json"] = CONFIG.replace("1", "2");
	await assert.rejects(
		store.fetch(source),
		/config.json" does not have the hash that the server lists for it; load the model again$/,
	);
	const missing = parseSource("o/other", PAGE, endpoint);
	await assert.rejects(
		listFiles(missing),
		new UserError(
			`There is no model "o/other" on "${endpoint}" that everyone may read; check its name`,
		),
	);
});
