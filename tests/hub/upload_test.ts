import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { upload } from "~/hub/upload.ts";
import { type FileToUpload, planUpload, type UploadOptions } from "~/hub/upload_plan.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { noise, QUICK } from "./hub_place.ts";
import { LoopbackHub } from "./loopback_hub.ts";

const ID = "kim/packed";
const TOKEN = "a-token-of-any-form";

/** A hub on which kim may write, and files to upload. */
class UploadPlace implements AsyncDisposable {
	readonly hub = new LoopbackHub();
	readonly #folder = new TemporaryFolder();
	readonly warnings: string[] = [];

	constructor() {
		this.hub.tokens[TOKEN] = [ID];
		this.hub.writers[TOKEN] = ["kim"];
	}

	options(others: Partial<UploadOptions> = {}, token: string | undefined = TOKEN): UploadOptions {
		return {
			settings: this.hub.settings(this.#folder.path, { token, tokenSource: "HF_TOKEN" }),
			signal: new AbortController().signal,
			limits: QUICK,
			onWarning: (text) => this.warnings.push(text),
			...others,
		};
	}

	file(name: string, content: Uint8Array | string): FileToUpload {
		const path = join(this.#folder.path, name);
		writeFileSync(path, content);
		return { name, content: { path } };
	}

	get files(): FileToUpload[] {
		return [
			this.file("model-00001-of-00002.safetensors", noise(30_000, 1)),
			this.file("model-00002-of-00002.safetensors", noise(50_000, 2)),
			this.file("config.json", "{}"),
			{ name: "README.md", content: { text: "# Model — card" } },
		];
	}

	async push(files = this.files, options = this.options(), isPrivate = false): Promise<string> {
		return await upload(await planUpload(ID, files, options), "Upload", isPrivate, options);
	}

	/** The names of the large files that were sent. */
	get sent(): number {
		return this.hub.requests.filter(({ route, method }) => route === "upload" && method === "PUT")
			.length;
	}

	assertComplete(): void {
		const { ".gitattributes": _, ...found } = this.hub.files("model", ID)!;
		assert.deepEqual(Object.keys(found).sort(), [
			"README.md",
			"config.json",
			"model-00001-of-00002.safetensors",
			"model-00002-of-00002.safetensors",
		]);
		assert.deepEqual(found["model-00002-of-00002.safetensors"], noise(50_000, 2));
		assert.equal(new TextDecoder().decode(found["README.md"]), "# Model — card");
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.hub[Symbol.asyncDispose]();
		this.#folder[Symbol.dispose]();
	}
}

Deno.test("an upload makes a repository with all files in one commit, in parts if the hub wants", async () => {
	for (const partSize of [undefined, 8000]) {
		await using place = new UploadPlace();
		place.hub.partSize = partSize;
		const seen: string[] = [];
		const onProgress = (doing: string, done: number, total: number) => {
			assert(done <= total);
			if (doing === "uploading") seen.push(`${done} of ${total}`);
		};
		const url = await place.push(place.files, place.options({ onProgress }), true);
		assert.match(url, new RegExp(`^${place.hub.url}/${ID}/commit/[0-9a-f]{40}$`));
		place.assertComplete();
		assert.equal(place.hub.about("model", ID)!.options.private, true);
		assert.equal(place.sent, partSize ? 4 + 7 : 2);
		assert.match(seen.at(-1)!, /^80000 of /);
		assert.deepEqual(place.hub.requests.filter(({ route }) => route === "commit").length, 1);
	}
});

Deno.test("what the repository has is not sent again; weights of an earlier model are removed", async () => {
	await using place = new UploadPlace();
	place.hub.add("model", ID, {
		"model-00001-of-00002.safetensors": noise(30_000, 1),
		"model-00001-of-00009.safetensors": noise(5000, 9),
		"model.safetensors.index.json": "{}",
		"config.json": "{}",
		"notes.txt": "mine",
	});
	const plan = await planUpload(ID, place.files, place.options());
	const names = (files: { name: string }[]) => files.map(({ name }) => name);
	assert.deepEqual(names(plan.same), ["model-00001-of-00002.safetensors", "config.json"]);
	assert.deepEqual(names(plan.send), ["model-00002-of-00002.safetensors", "README.md"]);
	assert.deepEqual(plan.remove, [
		"model-00001-of-00009.safetensors",
		"model.safetensors.index.json",
	]);
	await place.push();
	assert.equal(place.sent, 1);
	assert.equal(new TextDecoder().decode(place.hub.files("model", ID)!["notes.txt"]), "mine");
	const again = await planUpload(ID, place.files, place.options());
	assert.deepEqual([again.send, again.remove], [[], []]);
});

Deno.test("an upload that is cut off resumes with the files that have not arrived", async () => {
	await using place = new UploadPlace();
	const { hub } = place;
	hub.loses = ({ body }) => body.length === 50_000;
	await assert.rejects(
		place.push(),
		/^UserError: Cannot upload to "kim\/packed": "127.*" does not answer: .*; run the same command again later/,
	);
	assert.equal(place.warnings.length, 3);
	assert.match(place.warnings[0], /does not answer: .*; trying again in/);
	assert.deepEqual(
		Object.keys(hub.files("model", ID)!),
		[".gitattributes"],
		"nothing half-written",
	);
	hub.loses = undefined;
	const before = place.sent;
	await place.push();
	place.assertComplete();
	assert.equal(place.sent, before + 1, "the other file had arrived");

	// Ctrl-C during the commit, of which the client does not know whether it came to be.
	const files = [place.file("config.json", '{"a": 1}')];
	const controller = new AbortController();
	hub.intercept = ({ route }) => {
		if (route === "commit") controller.abort(new Error("interrupted"));
	};
	const { signal } = controller;
	await assert.rejects(place.push(files, place.options({ signal })), /interrupted/);
	hub.intercept = undefined;
	const { send } = await planUpload(ID, files, place.options());
	if (send.length > 0) await place.push(files);
	assert.equal(new TextDecoder().decode(hub.files("model", ID)!["config.json"]), '{"a": 1}');
});

Deno.test("an upload that the hub refuses says why, and changes nothing", async () => {
	await using place = new UploadPlace();
	const { hub } = place;
	hub.tokens.reader = [ID];
	hub.tokens.other = [];
	hub.writers.other = ["lee"];
	const refusals: [token: string | undefined, message: RegExp][] = [
		[undefined, /there is no token; set HF_TOKEN to one with the right to write \(.*\/tokens\)$/],
		["wrong", /the hub refuses the token of HF_TOKEN \(Invalid credentials.*\); make a new one at/],
		[
			"reader",
			/the token of HF_TOKEN may not write to it \(You don't have the rights .*"kim"\); give/,
		],
		["other", /the token of HF_TOKEN may not write to it/],
	];
	for (const [token, message] of refusals) {
		const options = place.options();
		options.settings.token = token;
		await assert.rejects(place.push(place.files, options), (error: Error) => {
			assert.equal(error.name, "UserError");
			assert.match(error.message, /^Cannot upload to "kim\/packed": /);
			assert.match(error.message, message);
			return true;
		});
	}
	assert.equal(hub.files("model", ID), undefined);
	assert.equal(place.sent, 0);

	for (const id of ["packed", "a/b/c", "../x", "kim/x.git"]) {
		await assert.rejects(planUpload(id, [], place.options()), /it is no name of a repository/);
	}
	const offline = place.options();
	offline.settings.offline = true;
	await assert.rejects(planUpload(ID, [], offline), /HF_HUB_OFFLINE .* is set; unset it/);
	const changed = [{ ...place.file("config.json", "[]"), sha256: "0".repeat(64) }];
	await assert.rejects(place.push(changed), /is not what the run has written/);

	hub.add("model", ID, { "config.json": "{}" });
	const plan = await planUpload(ID, place.files, place.options());
	hub.add("model", ID, { "config.json": "{}", "new.txt": "" });
	await assert.rejects(
		upload(plan, "Upload", false, place.options()),
		/somebody else has changed it meanwhile \(A commit has happened since.*\); run the same command/,
	);
	assert.deepEqual(Object.keys(hub.files("model", ID)!), ["config.json", "new.txt"]);
});

Deno.test("passing trouble of the hub is waited for; what is no hub is named", async () => {
	await using place = new UploadPlace();
	const { hub } = place;
	let troubles = 0;
	hub.intercept = ({ route }) =>
		["preupload", "batch"].includes(route) && troubles++ % 2 === 0
			? { status: 503, headers: {}, body: new Uint8Array() }
			: undefined;
	await place.push();
	place.assertComplete();
	assert.deepEqual(place.warnings.map((text) => text.replace(/in \d.*/, "in T")), [
		"the hub answers 503; trying again in T",
		"the hub answers 503; trying again in T",
	]);
	const page = new TextEncoder().encode("<html>sign in</html>");
	hub.intercept = ({ route }) =>
		route === "preupload" ? { status: 200, headers: {}, body: page } : undefined;
	await assert.rejects(
		place.push([place.file("config.json", "[3]")]),
		/^UserError: Cannot upload to "kim\/packed": what answers at "http.*" is no hub \(.*\); check HF_E/,
	);
	// A commit is not sent twice.
	let commits = 0;
	hub.intercept = ({ route }) =>
		route === "commit" && ++commits ? { status: 502, headers: {}, body: page } : undefined;
	await assert.rejects(place.push([place.file("config.json", "[4]")]), /answers 502; run the same/);
	assert.equal(commits, 1);
});
