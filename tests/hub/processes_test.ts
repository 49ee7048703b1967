import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Snapshot } from "~/hub/fetch_files.ts";
import { HubPlace, noise } from "./hub_place.ts";

const CHILD = join(import.meta.dirname!, "fetch_child.ts");

/** Starts a process that fetches the model into the cache of the place. */
function start(place: HubPlace, ulimit?: number) {
	const args = ["run", "-A", "--no-check", CHILD];
	const options: Deno.CommandOptions = {
		env: { HF_ENDPOINT: place.hub.url, HF_HUB_CACHE: place.cache, HF_HOME: place.cache },
		stdout: "piped",
		stderr: "inherit",
	};
	const command = ulimit === undefined
		? new Deno.Command(Deno.execPath(), { ...options, args })
		// Without the trap the signal would end the process before it sees an error.
		: new Deno.Command("sh", {
			...options,
			args: ["-c", `trap "" XFSZ; ulimit -f ${ulimit}; exec "$@"`, "sh", Deno.execPath(), ...args],
		});
	const child = command.spawn();
	const result = (async () => {
		const { code, signal, stdout } = await child.output();
		return { code, signal, stdout: new TextDecoder().decode(stdout).trim() };
	})();
	return { child, result };
}

function incompletePath(place: HubPlace): string | undefined {
	const folder = join(place.cache, "models--org--model/blobs");
	const name = existsSync(folder) &&
		[...Deno.readDirSync(folder)].find(({ name }) => name.endsWith(".incomplete"))?.name;
	return name ? join(folder, name) : undefined;
}

Deno.test("several processes that fetch the same model share the work", async () => {
	await using place = new HubPlace();
	const weights = noise(500_000);
	place.addModel(weights);
	// Slow enough for all of them to come.
	place.hub.intercept = async ({ route }) => {
		if (route === "lfs") await new Promise((resolve) => setTimeout(resolve, 2000));
	};
	const results = await Promise.all(
		Array.from({ length: 3 }, () => start(place)).map(({ result }) => result),
	);
	let received = 0;
	for (const { code, stdout } of results) {
		assert.equal(code, 0, stdout);
		const { folder, downloadedBytes }: Snapshot = JSON.parse(stdout);
		received += downloadedBytes;
		assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), weights);
	}
	assert.equal(received, 500_000 + 41);
	for (const path of ["config.json", "tokenizer.json", "model.safetensors"]) {
		assert.equal(place.hub.transfers(path).length, 1, path);
	}
	assert.equal(place.hub.requests.filter(({ route }) => route === "info").length, 3);
});

for (const signal of ["SIGINT", "SIGKILL"] as const) {
	Deno.test({
		name: `a process ended by ${signal} leaves what it has, and its lock is gone`,
		ignore: Deno.build.os === "windows",
		fn: async () => {
			await using place = new HubPlace();
			const weights = noise(3_000_000);
			place.addModel(weights);
			const sent = 2_000_001;
			place.hub.intercept = ({ route }, reply) =>
				route === "lfs" ? { ...reply, stallAt: sent } : undefined;
			const first = start(place);
			for (let path; !path || statSync(path).size < sent; path = incompletePath(place)) {
				await new Promise((resolve) => setTimeout(resolve, 20));
			}
			const sentAt = performance.now();
			first.child.kill(signal);
			const { code } = await first.result;
			assert.equal(code, signal === "SIGINT" ? 130 : 137);
			assert.ok(performance.now() - sentAt < 2000);
			assert.equal(statSync(incompletePath(place)!).size, sent);

			delete place.hub.intercept;
			const second = await start(place).result;
			assert.equal(second.code, 0, second.stdout);
			const { folder, downloadedBytes }: Snapshot = JSON.parse(second.stdout);
			assert.equal(downloadedBytes, weights.length - sent);
			assert.deepEqual(
				place.hub.transfers("model.safetensors").map(({ from }) => from),
				[undefined, sent],
			);
			assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), weights);
			assert.equal(incompletePath(place), undefined);
		},
	});
}

Deno.test({
	name: "a file that may not grow further is kept and taken up",
	ignore: Deno.build.os === "windows",
	fn: async () => {
		await using place = new HubPlace();
		const weights = noise(30_000_000);
		place.addModel(weights);
		// In units of 512 or 1024 bytes, which differs from shell to shell.
		const { code, stdout } = await start(place, 20_000).result;
		const path = incompletePath(place)!;
		assert.equal(
			stdout,
			`Cannot write "${path}": files may not be that large here; make room, or set HF_HOME or ` +
				`HF_HUB_CACHE to a folder on a larger disk, and run the same command again: it resumes where it ` +
				`stopped`,
		);
		assert.equal(code, 1);
		const { size } = statSync(path);
		assert.ok(size === 20_000 * 512 || size === 20_000 * 1024, `${size} bytes`);
		const { folder, downloadedBytes } = await place.fetchModel();
		assert.equal(downloadedBytes, weights.length - size);
		assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), weights);
	},
});
