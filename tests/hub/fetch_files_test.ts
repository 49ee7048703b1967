import assert from "node:assert/strict";
import { readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fetchFiles, fetchModel } from "~/hub/fetch_files.ts";
import type { HubProgress } from "~/hub/progress.ts";
import type { HubRepository } from "~/hub/repository.ts";
import { HubPlace, noise, tree } from "./hub_place.ts";
import { text } from "./loopback_hub.ts";

const MODEL: HubRepository = { type: "model", id: "org/model", revision: "main" };
const DATA: HubRepository = { type: "dataset", id: "org/data", revision: "main" };

Deno.test("fetchModel() lays the cache out as Python does", async () => {
	await using place = new HubPlace();
	const weights = noise(3000);
	const commit = place.hub.add("model", "org/model", {
		"config.json": "{}",
		"tokenizer.json": "[]",
		"model.safetensors": weights,
		"README.md": "# Model",
		"tf_model.h5": noise(2000),
		"onnx/model.onnx": noise(2000),
	});
	const snapshot = await fetchModel(MODEL, place.options());

	// The names are those that `git hash-object` and `sha256sum` give.
	const config = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
	const tokenizer = "0637a088a01e8ddab3bf3fa98dbe804cbde1a0dc";
	const sha256 = "7efa1f97dc7d7085e6d0489704b2edd2c0c13358b9e58cd2e4c03e181c4f1a1d";
	const name = "models--org--model";
	assert.deepEqual(
		tree(place.cache),
		[
			...[tokenizer, config, sha256].map((blob) => `.locks/${name}/${blob}.lock`),
			...[tokenizer, config, sha256].map((blob) => `${name}/blobs/${blob}`),
			`${name}/refs/main`,
			`${name}/snapshots/${commit}/config.json -> ../../blobs/${config}`,
			`${name}/snapshots/${commit}/model.safetensors -> ../../blobs/${sha256}`,
			`${name}/snapshots/${commit}/tokenizer.json -> ../../blobs/${tokenizer}`,
		].sort(),
	);
	assert.equal(readFileSync(join(place.cache, name, "refs/main"), "utf8"), commit);
	const { verified: _, ...rest } = snapshot;
	assert.deepEqual(rest, {
		repository: MODEL,
		commit,
		folder: join(place.cache, name, "snapshots", commit),
		files: [
			{ path: "config.json", etag: config, bytes: 2 },
			{ path: "model.safetensors", etag: sha256, bytes: 3000 },
			{ path: "tokenizer.json", etag: tokenizer, bytes: 2 },
		],
		downloadedBytes: 3004,
	});
	assert.deepEqual(
		new Uint8Array(readFileSync(join(snapshot.folder, "model.safetensors"))),
		weights,
	);
	assert.deepEqual(place.warnings, []);
});

Deno.test("fetchModel() fetches nothing twice", async () => {
	await using place = new HubPlace();
	place.addModel();
	const first = await place.fetchModel();
	place.hub.requests.length = 0;
	const second = await place.fetchModel();
	assert.deepEqual(second, { ...first, downloadedBytes: 0 });
	assert.deepEqual(place.hub.requests.map(({ route }) => route), ["info", "tree"]);
});

Deno.test("fetchModel() fetches what a new commit has changed", async () => {
	await using place = new HubPlace();
	const old = place.addModel(noise(2000, 1));
	await place.fetchModel();
	const commit = place.addModel(noise(2000, 2));
	const snapshot = await place.fetchModel();
	assert.equal(snapshot.commit, commit);
	assert.equal(snapshot.downloadedBytes, 2000);
	assert.equal((await place.fetchModel({}, old)).commit, old);
});

Deno.test("fetchModel() with a commit hash in the cache asks nothing", async () => {
	await using place = new HubPlace();
	const commit = place.addModel();
	const first = await place.fetchModel({}, commit);
	place.hub.requests.length = 0;
	assert.deepEqual(await place.fetchModel({}, commit), { ...first, downloadedBytes: 0 });
	assert.equal(place.hub.requests.length, 0);

	// Another program may have fetched the weights but not the tokenizer.
	rmSync(join(first.folder, "tokenizer.json"));
	assert.equal((await place.fetchModel({}, commit)).downloadedBytes, 0);
	assert.ok(place.hub.requests.length > 0);
	assert.ok(statSync(join(first.folder, "tokenizer.json")).isFile());
});

const SHARDS = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"];

Deno.test("fetchModel() fetches the shards that the index lists, and no others", async () => {
	await using place = new HubPlace();
	place.hub.add("model", "org/model", {
		"config.json": "{}",
		"model.safetensors.index.json": JSON.stringify({
			weight_map: { a: SHARDS[0], b: SHARDS[1], c: SHARDS[0] },
		}),
		[SHARDS[0]]: noise(5000, 1),
		[SHARDS[1]]: noise(6000, 2),
		"model-00003-of-00003.safetensors": noise(7000, 3),
		"pytorch_model.bin": noise(2000),
	});
	place.hub.pageSize = 2;
	const { files } = await place.fetchModel();
	assert.deepEqual(files.map(({ path }) => path), [
		"config.json",
		...SHARDS,
		"model.safetensors.index.json",
	]);
	// Three pages, and no weights before all that is small is there.
	const routes = place.hub.requests.map(({ route, path }) => `${route} ${path ?? ""}`);
	assert.equal(routes.filter((route) => route.startsWith("tree")).length, 3);
	const firstShard = routes.findIndex((route) => route.includes("-of-"));
	assert.deepEqual(routes.slice(firstShard).filter((route) => route.includes("json")), []);
});

Deno.test("fetchModel() takes PyTorch's files where there are no others", async () => {
	await using place = new HubPlace();
	const files = { "config.json": "{}", "pytorch_model.bin": noise(2000) };
	place.hub.add("model", "org/model", { ...files, "tf_model.h5": noise(100) });
	const snapshot = await place.fetchModel();
	assert.deepEqual(snapshot.files.map(({ path }) => path), Object.keys(files));
});

Deno.test("fetchModel() takes names without an owner", async () => {
	await using place = new HubPlace();
	place.hub.add("model", "gpt2", { "config.json": "{}", "model.safetensors": noise(2000) });
	const { folder } = await fetchModel({ ...MODEL, id: "gpt2" }, place.options());
	assert.equal(folder.slice(place.cache.length).split("/")[1], "models--gpt2");
});

Deno.test("fetchFiles() fetches files at any depth and lists nothing", async () => {
	await using place = new HubPlace();
	const files = {
		"data/en/train-00000-of-00002.parquet": noise(5000),
		"data/größe & mehr #1?.txt": "Zeile\n",
		"copy.parquet": noise(5000),
		"empty.txt": "",
		"other.txt": "not asked for",
	};
	const revisions = ["refs/convert/parquet"];
	const commit = place.hub.add("dataset", "org/data", files, { revisions });
	const paths = Object.keys(files).slice(0, 4);
	const repository = { ...DATA, revision: revisions[0] };
	const snapshot = await fetchFiles(repository, paths, place.options());
	assert.deepEqual(snapshot.files.map(({ path }) => path), [...paths].sort());
	for (const [path, content] of Object.entries(files).slice(0, 4)) {
		const expected = typeof content === "string" ? new TextEncoder().encode(content) : content;
		assert.deepEqual(new Uint8Array(readFileSync(join(snapshot.folder, path))), expected, path);
	}
	const folder = join(place.cache, "datasets--org--data");
	assert.equal(readFileSync(join(folder, "refs/refs/convert/parquet"), "utf8"), commit);
	assert.deepEqual(
		tree(snapshot.folder).map((line) => line.replace(/[0-9a-f]{40,}/, "HASH")),
		[
			"copy.parquet -> ../../blobs/HASH",
			"data/en/train-00000-of-00002.parquet -> ../../../../blobs/HASH",
			"data/größe & mehr #1?.txt -> ../../../blobs/HASH",
			"empty.txt -> ../../blobs/HASH",
		],
	);
	assert.deepEqual(place.hub.requests.slice(0, 2).map(({ route }) => route), [
		"info",
		"paths-info",
	]);
	assert.equal(place.hub.requests.filter(({ route }) => route === "tree").length, 0);
	// One content in two places comes once.
	assert.equal(snapshot.downloadedBytes, 5006);

	place.hub.requests.length = 0;
	assert.equal((await fetchFiles(repository, paths, place.options())).downloadedBytes, 0);
	assert.deepEqual(place.hub.requests.map(({ route }) => route), ["info", "paths-info"]);
});

Deno.test("fetchFiles() fetches several files at once, and no more than it may", async () => {
	await using place = new HubPlace();
	const names = Array.from({ length: 9 }, (_, i) => `${i}.bin`);
	place.hub.add(
		"dataset",
		"org/data",
		Object.fromEntries(names.map((name, i) => [name, noise(2000, i)])),
	);
	let [now, most] = [0, 0];
	place.hub.intercept = async ({ route }) => {
		if (route !== "lfs") return;
		most = Math.max(most, ++now);
		await new Promise((resolve) => setTimeout(resolve, 30));
		now--;
	};
	await fetchFiles(DATA, names, place.options({ limits: { connections: 3 } }));
	assert.equal(most, 3);
});

Deno.test("a renamed repository is followed, with a warning", async () => {
	await using place = new HubPlace();
	place.addModel();
	place.hub.add("dataset", "org/data", { "a.txt": "a" });
	place.hub.rename("model", "org/model", "new-org/new-model");
	place.hub.rename("dataset", "org/data", "new-org/new-data");
	const { folder } = await place.fetchModel();
	assert.ok(folder.startsWith(join(place.cache, "models--org--model")));
	await fetchFiles(DATA, ["a.txt"], place.options()); // a POST, which must stay one
	assert.deepEqual(place.warnings, [
		`"org/model" is called "new-org/new-model" on the hub by now; write that name`,
		`"org/data" is called "new-org/new-data" on the hub by now; write that name`,
	]);
});

Deno.test("the token goes to the hub and to no other host", async () => {
	await using place = new HubPlace();
	place.addModel(undefined, { private: true, gated: true });
	// Not all that a hub may give out begins with "hf_".
	place.hub.tokens["secret-1"] = ["org/model"];
	const settings = place.hub.settings(place.cache, { token: "secret-1", tokenSource: "HF_TOKEN" });
	await place.fetchModel({ settings });
	const sent = (host: string) =>
		new Set(
			place.hub.requests.filter((request) => request.host === host)
				.map(({ authorization }) => authorization),
		);
	assert.deepEqual(sent("hub"), new Set(["Bearer secret-1"]));
	assert.deepEqual(sent("cdn"), new Set([null]));
});

Deno.test("redirects that lead nowhere end", async () => {
	await using place = new HubPlace();
	place.addModel();
	place.hub.intercept = ({ target }, reply) => {
		reply.status = 302;
		reply.headers.Location = target;
	};
	const host = new URL(place.hub.url).host;
	await assert.rejects(place.fetchModel(), {
		name: "UserError",
		message: `Cannot download "org/model": the hub redirects more than 10 times, at last to ` +
			`"${host}"; check HF_ENDPOINT`,
	});
	assert.equal(place.hub.requests.length, 11);
	for (const location of ["file:///etc/passwd", "data:,{}"]) {
		place.hub.intercept = () => text(302, "", { Location: location });
		await assert.rejects(place.fetchModel(), {
			name: "UserError",
			message: `Cannot download "org/model": "${host}" redirects to "${location}", which is no ` +
				`web address; check HF_ENDPOINT`,
		});
	}
});

Deno.test("progress grows to the total", async () => {
	await using place = new HubPlace();
	place.addModel(noise(2_000_000));
	const told: HubProgress[] = [];
	await place.fetchModel({ onProgress: (progress) => told.push(progress) });
	const total = 2_000_000 + 23 + 18;
	assert.ok(told.length >= 2);
	told.forEach((progress, i) => {
		assert.equal(progress.totalBytes, total);
		assert.ok(i === 0 || progress.doneBytes >= told[i - 1].doneBytes);
		assert.ok(progress.bytesPerSecond >= 0 && Number.isFinite(progress.bytesPerSecond));
	});
	assert.equal(told.at(-1)!.doneBytes, total);
	assert.equal(told.filter(({ doneBytes }) => doneBytes === total).length, 1);
	told.length = 0;
	await place.fetchModel({ onProgress: (progress) => told.push(progress) });
	assert.deepEqual(told, []);
});

/** As Windows answers users that may make no links. */
function noLinks(): never {
	throw Object.assign(new Error("EPERM: operation not permitted"), { code: "EPERM" });
}

Deno.test("where there are no links, snapshots hold the files themselves", async () => {
	await using place = new HubPlace();
	const files = { "a.bin": noise(2000), "deep/b.bin": noise(2000), "c.txt": "c" };
	const commit = place.hub.add("dataset", "org/data", files);
	const options = place.options({ symlink: noLinks });
	const snapshot = await fetchFiles(DATA, Object.keys(files), options);
	const name = "datasets--org--data";
	assert.deepEqual(tree(join(place.cache, name)), [
		"refs/main",
		`snapshots/${commit}/a.bin`,
		`snapshots/${commit}/c.txt`,
		`snapshots/${commit}/deep/b.bin`,
	]);
	for (const path of ["a.bin", "deep/b.bin"]) {
		assert.deepEqual(new Uint8Array(readFileSync(join(snapshot.folder, path))), files["a.bin"]);
	}
	assert.equal(snapshot.downloadedBytes, 2001);
	const again = await fetchFiles(DATA, Object.keys(files), options);
	assert.equal(again.downloadedBytes, 0);
	assert.deepEqual(again.files[0], { path: "a.bin", bytes: 2000 });
});

Deno.test("a blob that is there is linked, not fetched", async () => {
	await using place = new HubPlace();
	place.addModel();
	const { folder, files } = await place.fetchModel();
	rmSync(folder, { recursive: true });
	// There is no need of room for it either.
	const again = await place.fetchModel({ freeBytes: () => 0 });
	assert.equal(again.downloadedBytes, 0);
	assert.deepEqual(again.files, files);
});

Deno.test("a blob of the wrong size is fetched again", async () => {
	await using place = new HubPlace();
	const weights = noise(40_000);
	place.addModel(weights);
	const { folder, files } = await place.fetchModel();
	const blob = join(folder, "../../blobs", files[1].etag!);
	writeFileSync(blob, "short");
	const again = await place.fetchModel();
	assert.equal(again.downloadedBytes, 40_000);
	assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), weights);
	assert.deepEqual(place.warnings, [
		`"${join(blob)}" has 5 bytes in place of 40000; downloading it again`,
	]);
});

Deno.test("a note that cannot be made is a warning", async () => {
	await using place = new HubPlace();
	place.addModel(undefined, { revisions: ["main/v1"] });
	await place.fetchModel();
	const { folder } = await place.fetchModel({}, "main/v1");
	const refs = join(folder, "../../refs");
	assert.deepEqual(place.warnings, [
		`Cannot make the folder "${refs}/main": a file is in the way; set HF_HOME or HF_HUB_CACHE to ` +
		`a folder that can be written to; without a connection "main/v1" will not be found`,
	]);
});

for (const symlink of [undefined, noLinks]) {
	Deno.test(`several calls in one process share the work, ${symlink ? "without" : "with"} links`, async () => {
		await using place = new HubPlace();
		place.addModel(noise(300_000));
		place.hub.intercept = async ({ route }) => {
			if (route === "lfs") await new Promise((resolve) => setTimeout(resolve, 300));
		};
		const snapshots = await Promise.all(
			Array.from({ length: 5 }, () => place.fetchModel({ symlink })),
		);
		for (const { files } of snapshots) assert.deepEqual(files, snapshots[0].files);
		for (const path of ["config.json", "tokenizer.json", "model.safetensors"]) {
			assert.equal(place.hub.transfers(path).length, 1, path);
		}
		const waiting = (path: string) =>
			`Waiting for another process, which downloads "${path}" of "org/model"`;
		assert.ok(place.warnings.includes(waiting("model.safetensors")));
		const others = ["config.json", "tokenizer.json", "model.safetensors"].map(waiting);
		assert.deepEqual(place.warnings.filter((warning) => !others.includes(warning)), []);
	});
}
