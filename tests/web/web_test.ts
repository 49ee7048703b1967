import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { DENO_GPU } from "../../hosts/deno_gpu.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import {
	fetchFolder,
	type Folder,
	generate,
	MemoryFolder,
	ModelFiles,
	openGpu,
	ResidentModel,
	UserError,
} from "../../web/web.ts";
import { PROJECT } from "../checkout.ts";
import { Workplace } from "../micro_model.ts";
import { findImports, roomOf } from "../rooms.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { bundleWeb } from "./bundle.ts";

/** Rooms that a browser shares with Deno. */
const SHARED = ["gpu", "codecs", "models", "web"];

/** The names of hosts in a text. */
function hostsIn(text: string): string[] {
	return text.match(/\bDeno\b|\bnode:/g) ?? [];
}

/** A file of the project without its comments, which may say how hosts differ. */
function codeOf(file: string): string {
	const text = readFileSync(join(PROJECT, file), "utf8");
	return text.replaceAll(/\/\*[^]*?\*\/|(?<![:"'`\\])\/\/.*/g, "");
}

/** All that a file imports, and what that imports. */
function reachedFrom(start: string): Set<string> {
	const imports = findImports();
	const reached = new Set([start]);
	for (const file of reached) { // which grows meanwhile
		for (const { target } of imports.filter((each) => each.file === file)) reached.add(target);
	}
	return reached;
}

Deno.test("gpu/, codecs/, models/ and what web/web.ts reaches name no host", () => {
	const reached = reachedFrom("web/web.ts");
	assert(reached.has("storage/safetensors.ts") && reached.has("gpu/device.ts"));
	const shared = SHARED.flatMap((room) =>
		readdirSync(join(PROJECT, room), { recursive: true }).map((name) => `${room}/${name}`)
	).filter((file) => /\.(ts|wgsl)$/.test(file));
	assert(shared.length > 100);
	const named = [...new Set([...shared, ...reached])].filter((file) =>
		hostsIn(codeOf(file)).length
	);
	assert.deepEqual(named, []);
	assert(hostsIn(codeOf("storage/deno_folder.ts")).length > 5, "names are found");
});

Deno.test("what reaches web/web.ts lies in rooms that a browser shares, and in storage/ and base/", () => {
	const rooms = new Set([...reachedFrom("web/web.ts")].map(roomOf));
	assert.deepEqual([...rooms].sort(), [
		"base",
		"codecs",
		"gpu",
		"hosts",
		"models",
		"storage",
		"web",
	]);
});

Deno.test("web/web.ts is bundled for browsers, and its text names no host", async () => {
	const text = await bundleWeb();
	assert(text.length > 100_000);
	assert.deepEqual(hostsIn(text), []);
	assert(!/\bimport\s*["'{*]|\brequire\(/.test(text), "it needs no other file");
});

/** What the compiler says of a module with the types of browsers, and those of their WebGPU. */
async function checkForBrowsers(path: string): Promise<string[]> {
	const { success, stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["check", "--lock", "deno.lock", "--config", "tests/web/browser_types.json", path],
		cwd: PROJECT,
		env: { NO_COLOR: "1" },
	}).output();
	const text = new TextDecoder().decode(stderr);
	const errors = [...text.matchAll(/^TS\d+ \[ERROR\]: (.*)$/gm)].map(([, message]) => message);
	assert.equal(success, errors.length === 0, text);
	return errors;
}

Deno.test("web/web.ts and what it imports fit the types of browsers, without Deno's", async () => {
	assert.deepEqual(await checkForBrowsers("web/web.ts"), []);
});

Deno.test("what browsers have fits what web/web.ts takes", async () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "right.ts");
	const web = pathToFileURL(join(PROJECT, "web/web.ts")).href;
	writeFileSync(
		path,
		`import { BlobFolder, browserGpu, openGpu } from ${JSON.stringify(web)};
    export const open = async () => BlobFolder.openOrigin(await navigator.storage.getDirectory());
    export const gpu = () => openGpu({}, browserGpu({
      read: () => localStorage.getItem("tiles") ?? undefined,
      write: (text) => localStorage.setItem("tiles", text),
    }));`,
	);
	assert.deepEqual(await checkForBrowsers(path), []);
});

Deno.test("the types of browsers refuse what only Deno has", async () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "wrong.ts");
	const device = pathToFileURL(join(PROJECT, "gpu/device.ts")).href;
	writeFileSync(
		path,
		`import type { Gpu } from ${JSON.stringify(device)};
    export const version = Deno.version;
    export const open = (adapter: GPUAdapter) =>
      adapter.requestDevice({ requiredFeatures: ["wgpu-shader-f64"] });
    export const read = (gpu: Gpu) => gpu.device.limits.maxUniformBufferBindingSize;
    export const usage: number = GPUBufferUsage.STORAGE;`,
	);
	const errors = await checkForBrowsers(path);
	assert.deepEqual(errors.map((error) => error.split(". ")[0]), [
		"Cannot find name 'Deno'",
		"No overload matches this call.",
	]);
});

const OPTIONS = { prompt: [5, 6, 7], maxTokens: 12, stopIds: [] };

/** What a model in a folder gives on this machine, with what browsers differ in. */
async function idsOf(folder: Folder, host?: typeof DENO_GPU): Promise<number[]> {
	await using gpu = await openGpu({ poison: true }, host);
	using files = ModelFiles.open(folder);
	using model = await ResidentModel.load(gpu, files);
	const ids: number[] = [];
	for await (const { id } of generate(model, OPTIONS)) ids.push(id);
	return ids;
}

Deno.test("a packed model from a server, or from memory, gives the ids of one from the disk", async () => {
	using place = new Workplace({ layers: 2 });
	await place.run({ stages: place.method.toSpliced(2, 0, "rotate") }); // not the width of 100
	const path = place.path("out", "model");
	const expected = await idsOf(denoFolder(path), DENO_GPU);
	assert.equal(expected.length, OPTIONS.maxTokens);

	const names = readdirSync(path);
	const files = new Map(
		names.map((name) => [name, new Uint8Array(readFileSync(join(path, name)))]),
	);
	assert.deepEqual(await idsOf(new MemoryFolder(files)), expected);

	const asked: string[] = [];
	await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, ({ url }) => {
		const name = new URL(url).pathname.replace("/models/packed/", "");
		asked.push(name);
		if (!existsSync(join(path, name))) return new Response("", { status: 404 });
		return new Response(readFileSync(join(path, name)));
	});
	const url = `http://127.0.0.1:${server.addr.port}/models/packed/`;
	const progress = new Map<string, number>();
	const folder = await fetchFolder(url, { onProgress: (file, bytes) => progress.set(file, bytes) });
	assert(new Set(asked).size === asked.length, "each is asked for once");
	assert.deepEqual(folder.names(), names.filter((name) => asked.includes(name)).sort());
	for (const name of folder.names()) assert.equal(progress.get(name), files.get(name)!.length);
	assert.equal(folder.path, url.slice(0, -1));
	assert.deepEqual(await idsOf(folder), expected);
});

Deno.test("fetchFolder() takes a model without shards, and says what cannot be fetched", async () => {
	const content: Record<string, string> = {
		"config.json": "{}",
		"model.safetensors": "weights",
		"other.safetensors": "no part of the model",
	};
	let status = 404;
	await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, ({ url }) => {
		const name = new URL(url).pathname.slice(1);
		return new Response(content[name] ?? "", { status: name in content ? 200 : status });
	});
	const url = `http://127.0.0.1:${server.addr.port}`;
	const folder = await fetchFolder(url);
	assert.deepEqual(folder.names(), ["config.json", "model.safetensors"]);
	status = 503;
	const problem = `Cannot fetch "${url}/generation_config.json": 503 Service Unavailable`;
	await assert.rejects(fetchFolder(url), new UserError(problem));
	const signal = AbortSignal.abort();
	await assert.rejects(fetchFolder(url, { signal }), { name: "AbortError" });
	await server.shutdown();
	await assert.rejects(fetchFolder(url), (error) => {
		assert(error instanceof UserError);
		return error.message.startsWith(`Cannot fetch "${url}/config.json": `);
	});
});
