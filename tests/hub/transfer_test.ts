import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { seededRandom } from "../reference/random.ts";
import type { HttpReply } from "./http_server.ts";
import { HubPlace, noise, QUICK } from "./hub_place.ts";
import { type HubRequest, text } from "./loopback_hub.ts";

const SIZE = 40_000;
const WEIGHTS = noise(SIZE);

/** A place with a model, and what happens at each transfer of its weights. */
class Transfers extends HubPlace {
	readonly commit: string;
	/** Changes the answers to the first, second ... request for the weights; the last one goes on. */
	faults: ((reply: HttpReply, request: HubRequest) => HttpReply | void)[] = [];
	/** First bytes asked for, one by one. */
	readonly from: (number | undefined)[] = [];

	constructor(path = "model.safetensors") {
		super();
		this.commit = this.addModel(WEIGHTS);
		let count = 0;
		this.hub.intercept = (request, reply) => {
			if (request.path !== path || request.route === "resolve") return;
			this.from.push(request.from);
			return this.faults.at(Math.min(count++, this.faults.length - 1))?.(reply, request);
		};
	}

	get folder(): string {
		return join(this.cache, "models--org--model");
	}

	get blobs(): string[] {
		const folder = join(this.folder, "blobs");
		return existsSync(folder) ? [...Deno.readDirSync(folder)].map(({ name }) => name) : [];
	}

	/** The incomplete weights. */
	get kept(): Uint8Array | undefined {
		const name = this.blobs.find((name) => name.endsWith(".incomplete"));
		return name && new Uint8Array(readFileSync(join(this.folder, "blobs", name))) || undefined;
	}

	async checkFetched(received = SIZE): Promise<void> {
		const { folder, downloadedBytes } = await this.fetchModel();
		this.checkWeights(folder);
		assert.equal(downloadedBytes, received + 41);
	}

	checkWeights(folder: string): void {
		assert.deepEqual(new Uint8Array(readFileSync(join(folder, "model.safetensors"))), WEIGHTS);
		assert.equal(this.kept, undefined);
	}

	async checkRefused(problem: string): Promise<void> {
		await assert.rejects(this.fetchModel(), {
			name: "UserError",
			message: `Cannot download "model.safetensors" of "org/model": ${problem}`,
		});
		// Nothing wrong has got a final name.
		assert.ok(!existsSync(join(this.folder, "snapshots", this.commit, "model.safetensors")));
		assert.ok(!existsSync(join(this.folder, "refs")));
		assert.equal(this.blobs.filter((name) => name.length === 64).length, 0);
	}
}

const good = () => {};
const cut = (cutAt: number) => (reply: HttpReply) => ({ ...reply, cutAt });
const gaveUp = (at: string) =>
	`4 attempts in a row have failed; check the network and run the same command again; it resumes at ` +
	`${at} of 40.0 kB`;

Deno.test("a connection cut at any byte is taken up there", async () => {
	const random = seededRandom(11);
	const places = [-1, 0, 1, 2, 65, SIZE - 1, SIZE / 2];
	while (places.length < 40) places.push(Math.floor(random() * SIZE));
	for (const place of places) {
		await using transfers = new Transfers();
		transfers.faults = [cut(place), good];
		await transfers.checkFetched();
		assert.deepEqual(transfers.from, [undefined, place > 0 ? place : undefined], `cut at ${place}`);
		assert.equal(transfers.warnings.length, 1);
	}
});

Deno.test("a connection cut again and again is taken up as long as something comes", async () => {
	await using transfers = new Transfers();
	const random = seededRandom(12);
	transfers.faults = [(reply) => ({ ...reply, cutAt: Math.floor(random() * 3000) })];
	await transfers.checkFetched();
	assert.ok(transfers.from.length > 15, `${transfers.from.length} requests`);
	assert.deepEqual(
		transfers.from.map((from) => from ?? 0),
		transfers.from.map((from) => from ?? 0).sort((a, b) => a - b),
	);
});

Deno.test("every attempt begins at the hub, since signed addresses expire", async () => {
	await using transfers = new Transfers();
	transfers.faults = [cut(100), () => text(403, "<Error><Code>AccessDenied</Code></Error>"), good];
	await transfers.checkFetched();
	const signatures = transfers.hub.transfers("model.safetensors")
		.map(({ target }) => /Signature=(\d+)/.exec(target)![1]);
	assert.equal(new Set(signatures).size, 3);
});

Deno.test("small files are taken up too", async () => {
	await using transfers = new Transfers("config.json");
	transfers.faults = [cut(7), good];
	await transfers.checkFetched();
	assert.deepEqual(transfers.from, [undefined, 7]);
});

/** As if ranges were not known. */
const whole = (reply: HttpReply) => ({ ...reply, status: 200, body: WEIGHTS });

Deno.test("a server that ignores ranges sends all again", async () => {
	await using transfers = new Transfers();
	transfers.faults = [cut(15_000), whole];
	await transfers.checkFetched(SIZE + 15_000);
	assert.deepEqual(transfers.from, [undefined, 15_000]);
});

Deno.test("a server that sends the same beginning again and again is given up", async () => {
	await using transfers = new Transfers();
	transfers.faults = [(reply) => ({ ...whole(reply), cutAt: 500 })];
	await assert.rejects(transfers.fetchModel(), /4 attempts in a row have failed/);
	assert.equal(transfers.from.length, 4);
});

const RANGE_ANSWERS: [string, (reply: HttpReply) => HttpReply, string][] = [
	["another start", (reply) => ({
		...reply,
		headers: { "Content-Range": `bytes 10-${SIZE - 1}/${SIZE}` },
	}), `the server sends "bytes 10-39999/40000" in place of "bytes 15000-39999/40000"`],
	["another total", (reply) => ({
		...reply,
		headers: { "Content-Range": `bytes 15000-${SIZE}/${SIZE + 1}` },
	}), `the server sends "bytes 15000-40000/40001" in place of "bytes 15000-39999/40000"`],
	[
		"no Content-Range",
		(reply) => ({ ...reply, headers: {} }),
		`the server sends "null" in place of "bytes 15000-39999/40000"`,
	],
	["416", () => text(416, ""), "the server has nothing at this place of the file (416)"],
];

for (const [what, answer, problem] of RANGE_ANSWERS) {
	Deno.test(`a range answered by ${what} makes the transfer begin anew`, async () => {
		await using transfers = new Transfers();
		transfers.faults = [cut(15_000), answer, good];
		await transfers.checkFetched(SIZE + 15_000);
		assert.deepEqual(transfers.from, [undefined, 15_000, undefined]);
		assert.equal(
			transfers.warnings[1].replace(/\d\.\d s$/, "A WHILE"),
			`The download of "model.safetensors" of "org/model" stopped at 0 B of 40.0 kB: ${problem}; ` +
				`trying again in A WHILE`,
		);
	});
}

/** Without a length the body ends with the connection. */
const endless = { "Content-Length": "" };

const LENGTHS = [WEIGHTS.subarray(1), noise(SIZE + 1), new Uint8Array(0)];
const REFUSED: [what: string, fault: Transfers["faults"][number], problem: string][] = [
	[
		"a part that nobody asked for",
		(reply) => ({
			...{ ...reply, status: 206, body: WEIGHTS.subarray(100) },
			headers: { "Content-Range": `bytes 100-${SIZE - 1}/${SIZE}` },
		}),
		'the server sends "bytes 100-39999/40000" in place of "bytes 0-39999/40000"',
	],
	...LENGTHS.map((body): typeof REFUSED[number] => [
		`a body of ${body.length} bytes`,
		(reply) => ({ ...reply, body }),
		`the server sends ${body.length} bytes in place of the 40000 that the hub lists`,
	]),
	[
		"a file that is shorter than the hub lists",
		(_reply, { from }) =>
			from === undefined
				? { status: 200, headers: endless, body: WEIGHTS.subarray(0, 12_345) }
				: text(416, ""),
		"the server has nothing at this place of the file (416)",
	],
	[
		"compressed content, since nobody asked for it",
		(reply) => ({ ...reply, headers: { "Content-Encoding": "gzip" } }),
		'the server sends it as "gzip", which was not asked for',
	],
];

for (const [what, fault, problem] of REFUSED) {
	Deno.test(`refused is ${what}`, async () => {
		await using transfers = new Transfers();
		transfers.faults = [fault];
		await transfers.checkRefused(`${problem}; ${gaveUp("0 B")}`);
		const asked = transfers.hub.requests.map(({ headers }) => headers.get("Accept-Encoding"));
		assert.deepEqual(new Set(asked), new Set(["identity"]));
	});
}

Deno.test("a range whose total is unknown is good", async () => {
	await using transfers = new Transfers();
	const headers = { "Content-Range": `bytes 15000-${SIZE - 1}/*` };
	transfers.faults = [cut(15_000), (reply) => ({ ...reply, headers })];
	await transfers.checkFetched();
});

Deno.test("a body that ends early without a sign of it is taken up", async () => {
	await using transfers = new Transfers();
	const body = WEIGHTS.subarray(0, 12_345);
	transfers.faults = [(reply) => ({ ...reply, headers: endless, body }), good];
	await transfers.checkFetched();
	assert.deepEqual(transfers.from, [undefined, 12_345]);
	assert.match(transfers.warnings[0], /: the server ended the connection early; trying/);
});

const TOO_LONG = "the server sends more than the 40000 bytes that the hub lists";
const TWICE = (place: HubPlace) =>
	`twice in a row; try again later or over another network, or report it at ` +
	`${place.hub.url}/org/model/discussions`;

Deno.test("a body that goes on after its end is refused", async () => {
	await using transfers = new Transfers();
	const body = noise(SIZE + 1);
	transfers.faults = [(reply) => ({ ...reply, headers: endless, body })];
	await transfers.checkRefused(`${TOO_LONG}, ${TWICE(transfers)}`);
	assert.equal(transfers.from.length, 2);
	assert.equal(transfers.kept, undefined);
});

const WRONG = WEIGHTS.map((byte, i) => i === 20_000 ? byte ^ 1 : byte);

Deno.test("content with a wrong hash is fetched once more", async () => {
	await using transfers = new Transfers();
	transfers.faults = [(reply) => ({ ...reply, body: WRONG }), good];
	await transfers.checkFetched(2 * SIZE);
	assert.deepEqual(transfers.from, [undefined, undefined]);
	assert.match(
		transfers.warnings[0],
		/^Downloading "model.safetensors" of "org\/model" once more: what has come has the hash \w{64}, the hub lists \w{64}$/,
	);
});

for (const path of ["model.safetensors", "config.json"]) {
	Deno.test(`content that always has a wrong hash is refused: ${path}`, async () => {
		await using transfers = new Transfers(path);
		transfers.faults = [(reply) => ({ ...reply, body: reply.body.map((byte) => byte ^ 1) })];
		await assert.rejects(transfers.fetchModel(), ({ name, message }: Error) => {
			assert.equal(name, "UserError");
			assert.equal(
				message.replace(/[0-9a-f]{40,64}/g, "HASH"),
				`Cannot download "${path}" of "org/model": what has come has the hash HASH, the hub ` +
					`lists HASH, ${TWICE(transfers)}`,
			);
			return true;
		});
		assert.equal(transfers.from.length, 2);
		assert.equal(transfers.kept, undefined);
	});
}

/** Leaves the beginning of the weights as an interrupted transfer does. */
async function leave(transfers: Transfers, content: Uint8Array): Promise<void> {
	transfers.faults = [cut(1)];
	await assert.rejects(transfers.fetchModel({ limits: { attempts: 1 } }));
	const [name] = transfers.blobs.filter((name) => name.endsWith(".incomplete"));
	writeFileSync(join(transfers.folder, "blobs", name), content);
	transfers.faults = [good];
	transfers.from.length = 0;
	transfers.warnings.length = 0;
}

Deno.test("what an earlier run has left is used", async () => {
	const cases: [Uint8Array, number | undefined, number][] = [
		[WEIGHTS.subarray(0, 30_000), 30_000, 10_000],
		[WEIGHTS, undefined, 0],
		[new Uint8Array(0), undefined, SIZE],
		[noise(SIZE + 1), undefined, SIZE],
	];
	for (const [content, from, received] of cases) {
		await using transfers = new Transfers();
		await leave(transfers, content);
		const { folder, downloadedBytes } = await transfers.fetchModel();
		transfers.checkWeights(folder);
		assert.equal(downloadedBytes, received);
		assert.deepEqual(transfers.from, received > 0 ? [from] : []);
		assert.deepEqual(transfers.warnings, []);
	}
});

Deno.test("what an earlier run has left is fetched again if it is wrong", async () => {
	for (const content of [WRONG.subarray(0, 30_000), WRONG]) {
		await using transfers = new Transfers();
		await leave(transfers, content);
		const { folder, downloadedBytes } = await transfers.fetchModel();
		transfers.checkWeights(folder);
		assert.equal(downloadedBytes, SIZE - content.length + SIZE);
		assert.equal(transfers.warnings.length, 1);
	}
});

Deno.test("trouble that passes is waited for", async () => {
	for (const status of [408, 425, 429, 500, 502, 503, 504]) {
		await using transfers = new Transfers();
		const trouble = () => text(status, "", { "X-Error-Message": "not now" });
		transfers.faults = [trouble, trouble, trouble, good];
		await transfers.checkFetched();
		assert.equal(transfers.warnings.length, 3);
	}
});

Deno.test("trouble of the hub itself is waited for, whatever its kind", async () => {
	for (const status of [408, 425, 429, 500, 502, 503, 504]) {
		await using place = new HubPlace();
		place.addModel();
		const met = new Set<string>();
		place.hub.intercept = ({ host, target }) => {
			if (host === "hub" && !met.has(target)) {
				met.add(target);
				return text(status, "");
			}
		};
		await place.fetchModel({ limits: { connections: 1 } });
		assert.equal(place.warnings.length, met.size, `${status}`);
	}
});

Deno.test("trouble of the hub that comes by chance is waited for", async () => {
	await using place = new HubPlace();
	place.addModel();
	const random = seededRandom(13);
	place.hub.intercept = ({ route }, reply) => {
		if (route === "lfs" || random() < 0.3) return;
		return random() < 0.5 ? { ...reply, cutAt: 5 } : text(502, "Bad Gateway");
	};
	const { files } = await place.fetchModel({ limits: { attempts: 20 } });
	assert.equal(files.length, 3);
});

Deno.test("a server in trouble for ever is given up", async () => {
	await using transfers = new Transfers();
	transfers.faults = [() => text(500, "", { "X-Error-Message": "out of order" })];
	await transfers.checkRefused(
		`"${transfers.hub.cdnHost}" answers 500 (out of order); ${gaveUp("0 B")}`,
	);
	assert.equal(transfers.from.length, 4);
});

Deno.test("Retry-After is honoured, in seconds and as a date", async () => {
	const inTwoSeconds = () => new Date(Date.now() + 2000).toUTCString();
	for (const header of [() => "1", inTwoSeconds]) {
		const after = header();
		await using transfers = new Transfers();
		transfers.faults = [() => text(429, "", { "Retry-After": after }), good];
		const start = performance.now();
		await transfers.checkFetched();
		assert.ok(performance.now() - start > 950, after);
	}
});

Deno.test("a server that asks to wait for hours is not waited for", async () => {
	await using transfers = new Transfers();
	transfers.faults = [cut(15_000), () => text(429, "", { "Retry-After": "7200" })];
	await assert.rejects(transfers.fetchModel(), {
		name: "UserError",
		message: `Cannot download "model.safetensors" of "org/model": "${transfers.hub.cdnHost}" ` +
			`answers 429; the server asks to wait 7200 s; check the network and run the ` +
			`same command again; it resumes at 15.0 kB of 40.0 kB`,
	});
	assert.deepEqual(transfers.kept, WEIGHTS.slice(0, 15_000));
});

Deno.test("a connection that stalls is cut and taken up", async () => {
	await using transfers = new Transfers();
	transfers.faults = [(reply) => ({ ...reply, stallAt: 9000 }), good];
	const { folder, downloadedBytes } = await transfers.fetchModel({ limits: { stallMs: 200 } });
	transfers.checkWeights(folder);
	assert.equal(downloadedBytes, SIZE + 41);
	assert.deepEqual(transfers.from, [undefined, 9000]);
	assert.match(transfers.warnings[0], /: nothing has arrived for 0\.2 s; trying again/);
});

Deno.test("a slow connection is not one that stalls", async () => {
	await using transfers = new Transfers();
	transfers.hub.intercept = async ({ path }, reply) => {
		if (path !== "model.safetensors") return;
		await new Promise((resolve) => setTimeout(resolve, 150));
		return { ...reply, pauseMs: 150 };
	};
	await transfers.fetchModel({ limits: { stallMs: 400, attempts: 1 } });
});

Deno.test("one file's error stops the others, which are kept", async () => {
	await using place = new HubPlace();
	const index = `{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}`;
	place.hub.add("model", "org/model", {
		"config.json": "{}",
		"model.safetensors.index.json": index,
		"a.safetensors": noise(50_000, 1),
		"b.safetensors": noise(50_000, 2),
	});
	place.hub.intercept = async ({ path, route }, reply) => {
		if (route !== "lfs") return;
		if (path === "a.safetensors") return { ...reply, stallAt: 20_000 };
		await new Promise((resolve) => setTimeout(resolve, 200));
		return text(500, "");
	};
	const start = performance.now();
	await assert.rejects(place.fetchModel(), /^UserError: Cannot download "b.safetensors"/);
	assert.ok(performance.now() - start < QUICK.stallMs! - 1000);
	delete place.hub.intercept;
	assert.equal((await place.fetchModel()).downloadedBytes, 30_000 + 50_000);
});

Deno.test("an interruption ends promptly and keeps what has come", async () => {
	await using transfers = new Transfers();
	transfers.faults = [(reply) => ({ ...reply, stallAt: 25_000 })];
	const controller = new AbortController();
	const { signal } = controller;
	const fetching = assert.rejects(transfers.fetchModel({ signal }), { name: "AbortError" });
	while (transfers.kept?.length !== 25_000) await new Promise((resolve) => setTimeout(resolve, 5));
	const abortedAt = performance.now();
	controller.abort();
	await fetching;
	assert.ok(performance.now() - abortedAt < 500);
	assert.deepEqual(transfers.kept, WEIGHTS.slice(0, 25_000));
	transfers.faults = [good];
	await transfers.checkFetched(15_000 - 41);
});

Deno.test("an interruption ends pauses and questions too", async () => {
	await using place = new HubPlace();
	place.addModel();
	const interrupted = async () => {
		const signal = AbortSignal.timeout(100);
		const start = performance.now();
		await assert.rejects(
			place.fetchModel({ signal, limits: { firstPauseMs: 9000, longestPauseMs: 9000 } }),
			{ name: "TimeoutError" },
		);
		assert.ok(performance.now() - start < 1000);
	};
	place.hub.intercept = () => text(503, "");
	await interrupted();
	place.hub.intercept = (_request, reply) => ({ ...reply, stallAt: 2 });
	await interrupted();
	place.hub.intercept = ({ route }) => route === "lfs" ? text(503, "") : undefined;
	await interrupted();
	await assert.rejects(place.fetchModel({ signal: AbortSignal.abort() }), { name: "AbortError" });
});

Deno.test("a disk without room is refused before anything is transferred", async () => {
	await using transfers = new Transfers();
	let freeBytes = SIZE + 40;
	const asked = new Set<string>();
	const free = (folder: string) => {
		asked.add(folder);
		return freeBytes;
	};
	const message = (needed: string, free: string) =>
		`Cannot download "org/model": it needs ${needed}, and the disk of "${transfers.cache}" has ` +
		`${free} free; make room, or set HF_HOME or HF_HUB_CACHE to a folder on a larger disk`;
	await assert.rejects(transfers.fetchModel({ freeBytes: free }), {
		name: "UserError",
		message: message("40.0 kB", "40.0 kB"),
	});
	assert.deepEqual(asked, new Set([transfers.folder]));
	assert.ok(!existsSync(transfers.folder));
	assert.deepEqual(transfers.hub.requests.map(({ route }) => route), ["info", "tree"]);

	// What is there need not be there twice.
	transfers.faults = [cut(30_000)];
	await assert.rejects(transfers.fetchModel({ limits: { attempts: 1 } }));
	transfers.faults = [good];
	freeBytes = 9999;
	await assert.rejects(transfers.fetchModel({ freeBytes: free }), {
		name: "UserError",
		message: message("10.0 kB", "10.0 kB"),
	});
	freeBytes = 10_000;
	await transfers.fetchModel({ freeBytes: free });
	freeBytes = 0;
	await transfers.fetchModel({ freeBytes: free });
});

Deno.test({
	name: "a disk that fills up ends the transfer with a clear error",
	ignore: !existsSync("/dev/full"),
	fn: async () => {
		await using transfers = new Transfers();
		const etag = createHash("sha256").update(WEIGHTS).digest("hex");
		const blobs = join(transfers.folder, "blobs");
		mkdirSync(blobs, { recursive: true });
		const incomplete = join(blobs, `${etag}.incomplete`);
		const { open } = Deno;
		using _ = { [Symbol.dispose]: () => void (Deno.open = open) };
		Deno.open = (path, options) =>
			`${path}` === incomplete ? open("/dev/full", { write: true }) : open(path, options);
		await assert.rejects(transfers.fetchModel(), {
			name: "UserError",
			message: `Cannot write "${incomplete}": no space left on the device; make room, or set ` +
				`HF_HOME or HF_HUB_CACHE to a folder on a larger disk, and run the same command again: it ` +
				`resumes where it stopped`,
		});
	},
});

Deno.test("memory does not grow with the file", async () => {
	await using place = new HubPlace();
	const size = 200_000_000;
	place.addModel(noise(size));
	let most = 0;
	const before = Deno.memoryUsage().rss;
	const timer = setInterval(() => {
		most = Math.max(most, Deno.memoryUsage().rss - before);
	}, 20);
	const { folder } = await place.fetchModel();
	clearInterval(timer);
	assert.equal(statSync(join(folder, "model.safetensors")).size, size);
	// The hub of this test is in the same process, but it holds the file all the time.
	assert.ok(most < 100_000_000, `${most} bytes more`);
});
