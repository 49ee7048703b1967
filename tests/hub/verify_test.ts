// Files of the cache are what their names say, or they are not used.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
	lstatSync,
	mkdirSync,
	readFileSync,
	realpathSync,
	symlinkSync,
	truncateSync,
	writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fetchFiles, type Snapshot } from "~/hub/fetch_files.ts";
import { hubSettings } from "~/hub/settings.ts";
import { fileStamp } from "~/storage/files.ts";
import { HubPlace, noise } from "./hub_place.ts";

/** Ways to damage a file without changing its size. */
const DAMAGES: [string, (bytes: Uint8Array) => void][] = [
	["one bit of the first byte", (bytes) => bytes[0] ^= 1],
	["one bit of the last byte", (bytes) => bytes[bytes.length - 1] ^= 0x80],
	["nothing but zeros", (bytes) => bytes.fill(0)],
];

const FILES = ["config.json", "tokenizer.json", "model.safetensors"];

const REVISIONS = ["main", "commit"];

function damage(snapshot: Snapshot, file: string, how: (bytes: Uint8Array) => void): string {
	const place = join(snapshot.folder, file);
	const bytes = new Uint8Array(readFileSync(place));
	how(bytes);
	writeFileSync(place, bytes);
	return place;
}

for (const file of FILES) {
	Deno.test(`${file} in the cache is damaged: online it is fetched again`, async () => {
		for (const [what, how] of DAMAGES) {
			for (const revision of REVISIONS) {
				await using place = new HubPlace();
				const commit = place.addModel();
				const named = revision === "main" ? revision : commit;
				const first = await place.fetchModel({}, named);
				const original = readFileSync(join(first.folder, file));
				const damaged = damage(first, file, how);
				const again = await place.fetchModel({}, named);
				assert.deepEqual(readFileSync(damaged), original, what);
				assert.equal(again.downloadedBytes, original.length);
				const { etag } = again.files.find(({ path }) => path === file)!;
				assert.deepEqual(place.warnings, [
					`"${damaged}" is damaged: its content does not have the hash ${etag} that the hub lists; ` +
					`downloading it again`,
				]);
				const third = await place.fetchModel({}, named);
				assert.equal(third.downloadedBytes, 0);
				assert.equal(place.warnings.length, 1);
			}
		}
	});

	Deno.test(`${file} in the cache is damaged: offline it is refused`, async () => {
		for (const [, how] of DAMAGES) {
			await using place = new HubPlace();
			const commit = place.addModel();
			const settings = place.hub.settings(place.cache, { offline: true });
			const damaged = damage(await place.fetchModel(), file, how);
			for (const revision of ["main", commit]) {
				await assert.rejects(
					place.fetchModel({ settings }, revision),
					({ name, message }: Error) => {
						assert.equal(name, "UserError");
						assert.match(
							message.replace(damaged, "FILE"),
							/^Cannot use "org\/model" offline: "FILE" is damaged: its content does not have the hash [0-9a-f]+; unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download it again$/,
						);
						return true;
					},
				);
			}
		}
	});
}

Deno.test("a damaged blob that another commit has left is fetched again", async () => {
	await using place = new HubPlace();
	place.addModel();
	damage(await place.fetchModel(), "model.safetensors", (bytes) => bytes[100] ^= 4);
	place.hub.add("model", "org/model", {
		"config.json": `{"model_type": "llama", "new": 1}`,
		"tokenizer.json": `{"version": "1.0"}`,
		"model.safetensors": noise(40_000),
	});
	const { folder, downloadedBytes } = await place.fetchModel();
	assert.ok(downloadedBytes > 40_000);
	assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), noise(40_000));
});

Deno.test("files of data sets are verified too, also where there are no links", async () => {
	for (const symlink of [undefined, noLinks]) {
		await using place = new HubPlace();
		const files = { "a.bin": noise(2000), "deep/b.txt": "b" };
		place.hub.add("dataset", "org/data", files);
		const fetch = () =>
			fetchFiles(
				{ type: "dataset", id: "org/data", revision: "main" },
				Object.keys(files),
				place.options({ symlink }),
			);
		const first = await fetch();
		for (const file of Object.keys(files)) damage(first, file, (bytes) => bytes[0] ^= 1);
		const { folder } = await fetch();
		assert.equal(readFileSync(join(folder, "deep/b.txt"), "utf8"), "b");
		assert.deepEqual(new Uint8Array(readFileSync(join(folder, "a.bin"))), files["a.bin"]);
		assert.equal(place.warnings.length, 2);
	}
});

Deno.test("if the hub cannot be reached, a damaged cache is not used", async () => {
	await using place = new HubPlace();
	place.addModel();
	const damaged = damage(await place.fetchModel(), "config.json", (bytes) => bytes[0] ^= 1);
	await place.hub[Symbol.asyncDispose]();
	await assert.rejects(place.fetchModel(), ({ name, message }: Error) => {
		assert.equal(name, "UserError");
		assert.match(message, /^Cannot reach the hub at /);
		assert.ok(message.includes(`the cache cannot be used: "${damaged}" is damaged`), message);
		return true;
	});
});

Deno.test("what was hashed is told, with the file's stamp", async () => {
	await using place = new HubPlace();
	place.addModel();
	assert.equal((await place.fetchModel()).verified.get(place.cache), undefined);
	const { folder, verified, files } = await place.fetchModel();
	for (const { path } of files) {
		const file = join(folder, path);
		const sha256 = createHash("sha256").update(readFileSync(file)).digest("hex");
		assert.deepEqual(verified.get(file), { sha256, stamp: fileStamp(file) });
		assert.deepEqual(verified.get(realpathSync(file)), verified.get(file));
	}
	truncateSync(join(folder, "model.safetensors"), 5);
	assert.notEqual(
		fileStamp(join(folder, "model.safetensors")),
		verified.get(join(folder, "model.safetensors"))!.stamp,
	);
});

function noLinks(): never {
	throw Object.assign(new Error("no links here"), { code: "EPERM" });
}

Deno.test("a link in the place of an unfinished file is replaced, and what it leads to is kept", async () => {
	await using place = new HubPlace();
	place.addModel();
	const etag = createHash("sha256").update(noise(40_000)).digest("hex");
	const blobs = join(place.cache, "models--org--model/blobs");
	mkdirSync(blobs, { recursive: true });
	const victim = join(place.cache, "victim");
	writeFileSync(victim, "precious");
	symlinkSync(victim, join(blobs, `${etag}.incomplete`));
	const { folder } = await place.fetchModel();
	assert.equal(readFileSync(victim, "utf8"), "precious");
	assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), noise(40_000));
});

Deno.test("links that are disabled, or fail in any way, are copies", async () => {
	const failing = (code: string) => () => {
		throw Object.assign(new Error(code), { code });
	};
	for (const code of ["disabled", "EPERM", "EACCES", "EIO", "ENOSYS", "UNKNOWN"]) {
		await using place = new HubPlace();
		place.addModel();
		const settings = place.hub.settings(place.cache, { copies: code === "disabled" });
		const symlink = code === "disabled" ? undefined : failing(code);
		const { folder } = await place.fetchModel({ settings, symlink });
		for (const file of FILES) assert.ok(lstatSync(join(folder, file)).isFile(), code);
	}
});

Deno.test("name and password of the endpoint are sent to it, and told to nobody", async () => {
	await using place = new HubPlace();
	place.addModel();
	const settings = {
		...place.hub.settings(place.cache),
		...hubSettings({ HF_ENDPOINT: place.hub.url.replace("//", "//kim:secret@"), HOME: "/none" }),
		cache: place.cache,
	};
	assert.equal(settings.endpoint, place.hub.url);
	place.hub.tokens[`Basic ${btoa("kim:secret")}`] = [];
	await place.fetchModel({ settings });
	const sent = place.hub.requests.filter(({ host }) => host === "hub");
	assert.ok(sent.every(({ authorization }) => authorization === `Basic ${btoa("kim:secret")}`));
	const others = place.hub.requests.filter(({ host }) => host === "cdn");
	assert.ok(others.every(({ authorization }) => authorization === null));
	await place.hub[Symbol.asyncDispose]();
	Deno.removeSync(join(place.cache, "models--org--model"), { recursive: true });
	await assert.rejects(place.fetchModel({ settings }), ({ message }: Error) => {
		assert.match(message, /^Cannot reach the hub at /);
		assert.doesNotMatch(message, /kim|secret/);
		return true;
	});
});
