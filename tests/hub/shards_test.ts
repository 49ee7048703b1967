import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { fetchModel } from "~/hub/fetch_files.ts";
import { isShardFile, Shards, type ShardsOptions } from "~/hub/shards.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { HubPlace as Place, noise } from "./hub_place.ts";
import { text } from "./loopback_hub.ts";
import { shardFile } from "./sharded_files.ts";

const COUNT = 3;
const NAMES = Array.from({ length: COUNT }, (_, shard) => shardFile(shard, COUNT));

/** A hub with a model of three shards, each with a tensor of its own. */
class ShardPlace extends Place {
	readonly folder = join(this.cache, "of-the-run");
	readonly tensors = NAMES.map((_, shard) => noise(200_000, shard + 1));
	readonly arrived: string[] = [];
	readonly removed: string[] = [];
	readonly #opened: Shards[] = [];
	snapshot = "";

	constructor() {
		super();
		const weightMap: Record<string, string> = {};
		const files: Record<string, Uint8Array | string> = { "config.json": "{}" };
		for (const [shard, name] of NAMES.entries()) {
			const path = join(this.cache, name);
			const data = this.tensors[shard];
			weightMap[`t${shard}`] = name;
			writeSafetensors(path, [{ name: `t${shard}`, dtype: "U8", shape: [data.length], data }]);
			files[name] = new Uint8Array(readFileSync(path));
			rmSync(path);
		}
		files["model.safetensors.index.json"] = JSON.stringify({ weight_map: weightMap });
		this.hub.add("model", "org/model", files);
	}

	async open(options: ShardsOptions = {}): Promise<Shards> {
		let shards: Shards | undefined;
		const { folder } = await fetchModel(
			{ type: "model", id: "org/model", revision: "main" },
			this.options({
				onMissingShards: async (missing) => {
					shards = await Shards.open(this.folder, missing, {
						onArrived: (path) => this.arrived.push(path),
						onRemove: (path) => this.removed.push(path),
						...options,
					});
				},
			}),
		);
		this.snapshot = folder;
		this.#opened.push(shards!);
		return shards!;
	}

	override async [Symbol.asyncDispose](): Promise<void> {
		for (const shards of this.#opened) await shards.close();
		await super[Symbol.asyncDispose]();
	}

	paths(...shards: number[]): string[] {
		return shards.map((shard) => join(this.folder, NAMES[shard]));
	}

	get names(): string[] {
		return existsSync(this.folder) ? readdirSync(this.folder).sort() : [];
	}
}

Deno.test("the tensors of shards are known before they come, and are read when they have", async () => {
	await using place = new ShardPlace();
	const shards = await place.open();
	using checkpoint = Checkpoint.open(shards.over(place.snapshot));
	assert.deepEqual([...checkpoint.tensors.keys()], ["t0", "t1", "t2"]);
	assert.deepEqual(place.names, []);
	assert.throws(() => checkpoint.readBytes("t1"), /was not fetched before it is read/);

	const read = (shard: number) => checkpoint.readBytes(`t${shard}`);
	const [first, second, third] = [0, 1, 2].map((shard) => place.paths(shard));
	await shards.fetch(second, { next: [], kept: [] });
	assert.deepEqual([place.names, shards.isThere(second)], [[NAMES[1]], true]);
	assert.deepEqual(read(1), place.tensors[1]);
	// What is next comes meanwhile, what is kept stays, the rest goes, and comes again.
	await shards.fetch(first, { next: third, kept: second });
	await shards.fetch(third);
	assert.deepEqual(place.names, NAMES);
	assert.deepEqual([read(0), read(1), read(2)], place.tensors);
	await shards.fetch(third, { next: [], kept: first });
	assert.deepEqual(place.names, [NAMES[0], NAMES[2]]);
	assert.throws(() => read(1), /was not fetched before it is read/);
	await shards.fetch([...first, ...second]);
	assert.deepEqual([read(0), read(1)], place.tensors.slice(0, 2));
	const named = (paths: string[]) => paths.map((path) => path.slice(place.folder.length + 1));
	assert.deepEqual(named(place.removed), [NAMES[1]]);
	assert.deepEqual(named(place.arrived).sort(), [NAMES[0], NAMES[1], NAMES[1], NAMES[2]]);
	// Files that are not among the shards are those of others.
	await shards.fetch([join(place.snapshot, "config.json")]);
	assert.equal(shards.listed(join(place.snapshot, "config.json")), undefined);
	assert.equal(shards.listed(first[0])?.name, `org/model/${NAMES[0]}`);
	await shards.close();
	assert.deepEqual(place.names, NAMES);
	assert.ok(place.names.every(isShardFile));
});

Deno.test("a shard that is no longer as it came is fetched again", async () => {
	await using place = new ShardPlace();
	const shards = await place.open();
	using checkpoint = Checkpoint.open(shards.over(place.snapshot));
	const [path] = place.paths(0);
	const harms = [
		() => rmSync(path),
		() => writeFileSync(path, "short"),
		() => writeFileSync(path, readFileSync(path).map((byte) => byte ^ 1)),
	];
	for (const [done, harm] of harms.entries()) {
		await shards.fetch([path]);
		assert.deepEqual(checkpoint.readBytes("t0"), place.tensors[0]);
		harm();
		await shards.fetch([path]);
		assert.deepEqual(checkpoint.readBytes("t0"), place.tensors[0]);
		assert.equal(place.removed.length, done + 1);
	}
});

Deno.test("what an earlier process has left is used if it is good, and resumed", async () => {
	await using place = new ShardPlace();
	const first = await place.open();
	await first.fetch(place.paths(0, 1));
	await first.close();
	// The second one is damaged, half of the third one is there.
	const damaged = readFileSync(place.paths(1)[0]);
	damaged[100_000] ^= 1;
	writeFileSync(place.paths(1)[0], damaged);
	place.hub.intercept = (request, reply) => {
		if (request.route !== "lfs" || request.path !== NAMES[2]) return;
		return request.from === undefined ? { ...reply, cutAt: 80_000 } : text(503, "later");
	};
	await assert.rejects(first.fetch(place.paths(2)), /4 attempts in a row have failed/);
	place.hub.intercept = undefined;

	const before = place.hub.requests.length;
	const second = await place.open();
	await second.fetch(place.paths(0, 1, 2));
	using checkpoint = Checkpoint.open(second.over(place.snapshot));
	assert.deepEqual([0, 1, 2].map((shard) => checkpoint.readBytes(`t${shard}`)), place.tensors);
	const content = place.hub.requests.slice(before)
		.filter(({ route, to }) => route === "lfs" && to === undefined);
	assert.deepEqual(content.map(({ path }) => path).sort(), [NAMES[1], NAMES[2]]);
	assert.ok(content.find(({ path }) => path === NAMES[2])!.from! >= 80_000);
});

Deno.test("what is no longer wanted is stopped and removed while it comes", async () => {
	await using place = new ShardPlace();
	const shards = await place.open();
	place.hub.intercept = (request, reply) =>
		request.route === "lfs" && request.path === NAMES[1]
			? { ...reply, stallAt: 70_000 }
			: undefined;
	await shards.fetch(place.paths(0), { next: place.paths(1), kept: [] });
	while (!place.names.some((name) => name.endsWith(".incomplete"))) {
		await new Promise((resolve) => setTimeout(resolve, 5));
	}
	await shards.fetch(place.paths(2), { next: [], kept: [] });
	assert.deepEqual(place.names, [NAMES[2]]);
	place.hub.intercept = undefined;
	await shards.fetch(place.paths(1));
	assert.deepEqual(place.names, [NAMES[1], NAMES[2]]);
});

Deno.test("headers are read in spite of troubles, and their content is verified", async () => {
	const troubles: Record<string, (body: Uint8Array) => object> = {
		"a server that is busy": () => text(503, "later"),
		"a server that ends early": () => ({ cutAt: 100 }),
		"a server that begins elsewhere": () => ({ status: 204 }),
	};
	for (const [what, trouble] of Object.entries(troubles)) {
		await using place = new ShardPlace();
		const failed = new Set<string>();
		place.hub.intercept = (request, reply) => {
			if (request.route !== "lfs" || failed.has(request.path!)) return;
			failed.add(request.path!);
			return { ...reply, ...trouble(reply.body) };
		};
		const shards = await place.open();
		assert.equal(failed.size, COUNT, what);
		Checkpoint.open(shards.over(place.snapshot))[Symbol.dispose]();
	}

	// One that ignores ranges sends the whole.
	await using place = new ShardPlace();
	place.hub.intercept = (request) => {
		request.from = undefined;
	};
	const shards = await place.open();
	Checkpoint.open(shards.over(place.snapshot))[Symbol.dispose]();
	await shards.close();

	// A header with other names than the content has later.
	place.hub.intercept = (request, reply) => {
		if (request.route !== "lfs" || request.to === undefined) return;
		const body = reply.body.slice();
		body[body.indexOf("t".charCodeAt(0), 8)] = "u".charCodeAt(0);
		return { ...reply, body };
	};
	const others = await place.open();
	await assert.rejects(
		others.fetch(place.paths(0)),
		new UserError(
			`Cannot use "${place.paths(0)[0]}": the hub has sent another header of it before; run the ` +
				`same command again`,
		),
	);
});

Deno.test("room on the disk is checked before anything comes, with what is there already", async () => {
	await using place = new ShardPlace();
	let free = 450_000;
	const shards = await place.open({ freeBytes: () => free });
	const together = [place.paths(0, 1), place.paths(1, 2), place.paths(2)];
	const most = shards.mostBytes([...together, [join(place.snapshot, "config.json")]]);
	assert.ok(most > 400_000 && most < 401_000, `${most}`);
	shards.requireRoom(most);
	free = 300_000;
	assert.throws(
		() => shards.requireRoom(most),
		new UserError(
			`Cannot download "org/model" shard by shard: it needs 400.1 kB at a time, and the disk of ` +
				`"${place.folder}" has 300.0 kB for it; make room, or choose as output a folder on a larger ` +
				`disk`,
		),
	);
	free = 450_000;
	shards.requireRoom(most, 40_000);
	assert.throws(
		() => shards.requireRoom(most, 60_000),
		/: it needs 400\.1 kB at a time beside 60\.0 kB of the run, and the disk of .* has 450\.0 kB for it;/,
	);
	free = 300_000;
	await shards.fetch(place.paths(0));
	shards.requireRoom(most);
	free = 100_000;
	await assert.rejects(shards.fetch(place.paths(1)), {
		name: "UserError",
		message: /^Cannot download "org\/model": it needs 200\.1 kB, .* choose as output a folder on a/,
	});
});
