import assert from "node:assert/strict";
import { rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fetchFiles, type FetchOptions } from "~/hub/fetch_files.ts";
import type { HubRepository } from "~/hub/repository.ts";
import { HubPlace, noise } from "./hub_place.ts";
import { type LoopbackHub, text } from "./loopback_hub.ts";

const DATA: HubRepository = { type: "dataset", id: "org/data", revision: "main" };
const INDEX = "model.safetensors.index.json";

function offline(place: HubPlace): FetchOptions {
	return { settings: place.hub.settings(place.cache, { offline: true }) };
}

function addShards(hub: LoopbackHub): void {
	hub.add("model", "org/model", {
		"config.json": "{}",
		[INDEX]: `{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}`,
		"a.safetensors": noise(2000, 1),
		"b.safetensors": noise(2000, 2),
	});
}

Deno.test("offline, the cache answers and nothing is asked", async () => {
	await using place = new HubPlace();
	const commit = place.addModel();
	place.hub.add("dataset", "org/data", { "a/b.txt": "b", "c.txt": "c" });
	const first = await place.fetchModel();
	await fetchFiles(DATA, ["a/b.txt"], place.options());
	place.hub.requests.length = 0;
	for (const revision of ["main", commit]) {
		const again = await place.fetchModel(offline(place), revision);
		assert.deepEqual({ ...again, repository: first.repository }, { ...first, downloadedBytes: 0 });
	}
	const { files } = await fetchFiles(DATA, ["a/b.txt"], place.options(offline(place)));
	assert.equal(files[0].path, "a/b.txt");
	assert.equal(place.hub.requests.length, 0);
});

Deno.test("offline, a model may lack what its repository lacks", async () => {
	await using place = new HubPlace();
	place.hub.add("model", "org/model", { "config.json": "{}", "pytorch_model.bin": noise(2000) });
	await place.fetchModel();
	const { files } = await place.fetchModel(offline(place));
	assert.deepEqual(files.map(({ path }) => path), ["config.json", "pytorch_model.bin"]);
});

const INCOMPLETE: [string, (folder: string) => void, string][] = [
	["config.json", (folder) => rmSync(join(folder, "config.json")), "config.json"],
	["a shard", (folder) => rmSync(join(folder, "b.safetensors")), "b.safetensors"],
	["a shard's blob", (folder) => {
		rmSync(join(folder, Deno.readLinkSync(join(folder, "a.safetensors"))));
	}, "a.safetensors"],
	["the index", (folder) => rmSync(join(folder, INDEX)), "model.safetensors"],
	["the index's content", (folder) => truncateSync(join(folder, INDEX), 10), INDEX],
];

for (const [what, spoil, missing] of INCOMPLETE) {
	Deno.test(`offline, a model that lacks ${what} is refused, online it is completed`, async () => {
		await using place = new HubPlace();
		addShards(place.hub);
		const { folder, files } = await place.fetchModel();
		spoil(folder);
		place.hub.requests.length = 0;
		await assert.rejects(place.fetchModel(offline(place)), {
			name: "UserError",
			message: `Cannot use "org/model" offline: "${place.cache}/models--org--model" has no ` +
				`"${missing}" of revision "main"; unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to ` +
				`download it`,
		});
		assert.equal(place.hub.requests.length, 0);
		assert.deepEqual((await place.fetchModel()).files, files);
	});
}

Deno.test("offline, what was never fetched is refused", async () => {
	await using place = new HubPlace();
	place.hub.add("dataset", "org/data", { "a.txt": "a", "b.txt": "b" });
	const fetch = (paths: string[]) => fetchFiles(DATA, paths, place.options(offline(place)));
	const folder = `${place.cache}/datasets--org--data`;
	const advice = "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it";
	await assert.rejects(fetch(["a.txt"]), {
		name: "UserError",
		message: `Cannot use "org/data" offline: "${folder}" has no revision "main"; ${advice}`,
	});
	await fetchFiles(DATA, ["a.txt"], place.options());
	await assert.rejects(fetch(["a.txt", "b.txt"]), {
		name: "UserError",
		message: `Cannot use "org/data" offline: "${folder}" has no "b.txt" of revision "main"; ` +
			advice,
	});
	writeFileSync(join(folder, "refs/main"), "no hash");
	await assert.rejects(fetch(["a.txt"]), {
		name: "UserError",
		message: `Cannot use "org/data" offline: "${folder}" has no revision "main"; ${advice}`,
	});
});

const DOWN: [string, (place: HubPlace) => Promise<void>, RegExp][] = [
	[
		"cannot be reached",
		(place) => place.hub[Symbol.asyncDispose](),
		/tcp connect error: Connection refused \(os error \d+\)/,
	],
	["is down", async (place) => {
		place.hub.intercept = () => text(503, "Service Unavailable");
	}, /the hub answers 503/],
	["does not answer", async (place) => {
		place.hub.intercept = (_request, reply) => ({ ...reply, stallAt: 3 });
	}, /nothing has arrived for 0\.2 s/],
];

for (const [what, breakDown, reason] of DOWN) {
	Deno.test(`if the hub ${what}, the cache is used with a warning`, async () => {
		await using place = new HubPlace();
		const commit = place.addModel();
		const first = await place.fetchModel();
		await breakDown(place);
		const limits = { impatientStallMs: 200 };
		assert.deepEqual(await place.fetchModel({ limits }), { ...first, downloadedBytes: 0 });
		const [warning, ...others] = place.warnings;
		assert.deepEqual(others, []);
		assert.equal(
			warning.replace(reason, "REASON"),
			`Cannot reach the hub at "${place.hub.url}": REASON; check the network and HF_ENDPOINT, or ` +
				`try again later; using what the cache has of "org/model" (commit ${commit})`,
		);
	});
}

Deno.test("if the hub cannot be reached and the cache is not complete, that is an error", async () => {
	await using place = new HubPlace();
	addShards(place.hub);
	const { folder } = await place.fetchModel();
	rmSync(join(folder, "b.safetensors"));
	const { url } = place.hub;
	await place.hub[Symbol.asyncDispose]();
	await assert.rejects(place.fetchModel(), ({ name, message }: Error) => {
		assert.equal(name, "HubUnreachable");
		assert.equal(
			message.replace(/\(os error \d+\)/, "(CODE)"),
			`Cannot reach the hub at "${url}": tcp connect error: Connection refused (CODE); check the ` +
				`network and HF_ENDPOINT, or try again later`,
		);
		return true;
	});
	assert.equal(place.warnings.length, 3);
	assert.match(
		place.warnings[0],
		/^The hub does not answer: tcp connect error: .*; trying again in 0\.0 s$/,
	);
});

Deno.test("a refusal is no reason to use the cache", async () => {
	await using place = new HubPlace();
	place.addModel();
	await place.fetchModel();
	const settings = place.hub.settings(place.cache, { token: "hf_bad", tokenSource: "HF_TOKEN" });
	await assert.rejects(place.fetchModel({ settings }), { name: "UserError" });
});
