import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gemm, TILES } from "~/gpu/kernels/matmul/gemm.ts";
import { tileName, type TileShape } from "~/gpu/kernels/matmul/gemm_tile_source.ts";
import { TileTuning } from "~/gpu/kernels/matmul/gemm_tuning.ts";
import { tuningFile, tuningFolder } from "~/hosts/deno_gpu.ts";
import { Environment } from "../../../environment.ts";
import { TemporaryFolder } from "../../../temporary_folder.ts";
import { gpu } from "../../gpu.ts";
import { openAsHardware, watchKernels } from "../../open_gpu.ts";

const [slow, fast, slower] = TILES;
const CANDIDATES = [slow, fast, slower];

/** Chooses in a process of its own, as it were; a tile takes as long as its place in `TILES` says. */
async function choose(
	folder: string | undefined,
	candidates: readonly TileShape[] = CANDIDATES,
	productClass = "NT",
) {
	const tried: string[] = [];
	const tuning = new TileTuning(gpu, tuningFile(folder));
	const tile = await tuning.choose(productClass, candidates, async (tile) => {
		tried.push(tileName(tile));
		const ms = tile === fast ? 1 : 15;
		await new Promise((resolve) => setTimeout(resolve, ms));
	});
	return { tile, tried };
}

Deno.test("TileTuning takes the fastest tile and remembers it", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("new", "folder");
	const first = await choose(path);
	assert.equal(first.tile, fast);
	const names = CANDIDATES.map(tileName);
	assert.deepEqual(first.tried.slice(0, 3), names, "each is compiled before any is measured");
	assert.deepEqual(first.tried.slice(-6), [...names, ...names], "they take turns");
	const warming = first.tried.slice(3, -15);
	assert.ok(warming.length > 3 && warming.every((name) => name === names[0]));
	assert.deepEqual(await choose(path), { tile: fast, tried: [] });
	assert.deepEqual(readdirSync(path), ["gemm.json"], "nothing temporary is left");
});

Deno.test("TileTuning measures each class once, also in one process", async () => {
	const tuning = new TileTuning(gpu, tuningFile(undefined));
	let runs = 0;
	const run = async () => {
		runs++;
		await new Promise((resolve) => setTimeout(resolve, 5));
	};
	await Promise.all([1, 2].map(() => tuning.choose("NN", [slow, fast], run)));
	const once = runs;
	assert.ok(once >= 2 + 1 + 5 * 2 && once < 2 * 200, `${once} runs`);
	await tuning.choose("NN", [slow, fast], run);
	assert.equal(runs, once);
	await tuning.choose("TN", [slow, fast], run);
	assert.ok(runs > once);
	const before = runs;
	assert.equal(await tuning.choose("NT", [slow], run), slow);
	assert.equal(runs, before, "there is nothing to choose");
});

Deno.test("TileTuning keeps what other classes and adapters chose", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("gemm.json");
	writeFileSync(path, JSON.stringify({ version: 1, adapters: { other: { NT: "tile" } } }));
	await choose(folder.path);
	await choose(folder.path, [slow], "TN");
	const { adapters } = JSON.parse(readFileSync(path, "utf8"));
	assert.deepEqual(adapters.other, { NT: "tile" });
	const [, [name, own]] = Object.entries(adapters);
	assert(name.startsWith(`${gpu.name}, ${gpu.host.name}, kernels `));
	assert.deepEqual(own, { NT: tileName(fast), TN: tileName(slow) });
});

Deno.test("TileTuning measures anew if the file is damaged or names what is no candidate", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("gemm.json");
	await choose(folder.path, [slower]);
	const foreign = readFileSync(path, "utf8");
	for (
		const text of [
			foreign,
			"",
			"{",
			"null",
			"[]",
			'{"version": 2, "adapters": {}}',
			'{"version": 1}',
			'{"version": 1, "adapters": {"x": null}}',
			'{"version": 1, "adapters": {"x": {"NT": 5}}}',
		]
	) {
		writeFileSync(path, text);
		const { tile, tried } = await choose(folder.path, [slow, fast]);
		assert.equal(tile, fast, text);
		assert.ok(tried.length > 10, text);
		assert.deepEqual((await choose(folder.path, [slow, fast])).tried, [], "it was written again");
	}
});

Deno.test("TileTuning goes without a file that it cannot write", async () => {
	using folder = new TemporaryFolder();
	const path = folder.file("file");
	writeFileSync(path, "");
	assert.equal((await choose(join(path, "folder"))).tile, fast);
	assert.equal(readFileSync(path, "utf8"), "");
	const tuning = new TileTuning(gpu, tuningFile(undefined));
	assert.equal(await tuning.choose("NT", [slow], async () => {}), slow);
});

Deno.test("TileTuning keeps its file where BILLM_CACHE says, else where caches are", () => {
	const none = { BILLM_CACHE: undefined, XDG_CACHE_HOME: undefined };
	{
		using _ = new Environment({ BILLM_CACHE: "/a/b", XDG_CACHE_HOME: "/x" });
		assert.equal(tuningFolder(), "/a/b");
	}
	if (Deno.build.os === "windows") {
		using _ = new Environment({ ...none, LOCALAPPDATA: "C:\\local" });
		assert.equal(tuningFolder(), "C:\\local\\billm");
		return;
	}
	{
		using _ = new Environment({ ...none, XDG_CACHE_HOME: "/x" });
		assert.equal(tuningFolder(), "/x/billm");
	}
	{
		using _ = new Environment({ ...none, HOME: "/home/me" });
		assert.equal(tuningFolder(), "/home/me/.cache/billm");
	}
	{
		using _ = new Environment({ ...none, HOME: undefined });
		assert.equal(tuningFolder(), undefined);
	}
});

Deno.test("TileTuning is for GPUs, unless BILLM_TUNE is 0", async () => {
	const hardware = await openAsHardware();
	{
		using _ = new Environment({ BILLM_TUNE: undefined });
		assert.equal(TileTuning.of(gpu), gpu.software ? undefined : TileTuning.of(gpu));
		assert(TileTuning.of(hardware) instanceof TileTuning);
		assert.equal(TileTuning.of(hardware), TileTuning.of(hardware));
	}
	using _ = new Environment({ BILLM_TUNE: "0" });
	assert.equal(TileTuning.of(await openAsHardware()), undefined);
});

Deno.test("gemm() on a software adapter measures nothing", async () => {
	if (!gpu.software) return;
	using folder = new TemporaryFolder();
	using _ = new Environment({ BILLM_CACHE: folder.path, BILLM_TUNE: undefined });
	const size = 2064; // more multiplications than measuring begins with
	using a = gpu.zeros([size, size]);
	using c = gpu.empty([size, size]);
	await gemm(gpu, { layout: "NT", m: size, n: size, k: size, a, b: a, c });
	assert((await gpu.read(c)).every((value) => value === 0));
	assert(!existsSync(folder.file("gemm.json")));
});

Deno.test("gemm() on a GPU takes the tile that was chosen for products of its kind", async () => {
	const hardware = await openAsHardware();
	const used = watchKernels(hardware);
	using _ = new Environment({ BILLM_TUNE: undefined });
	const asked: string[] = [];
	TileTuning.of(hardware)!.choose = async (productClass, candidates) => {
		asked.push(productClass);
		assert.equal(candidates[0], TILES[0], "the usual one is the first");
		return candidates[1];
	};
	const k = 256;
	using weight = hardware.zeros([16384, k], "f16");
	for (const tokens of [64, 2048]) {
		using x = hardware.zeros([tokens, k]);
		using c = hardware.empty([tokens, 16384]);
		const product = { layout: "NT", m: tokens, n: 16384, k, a: x, b: weight, c } as const;
		if (tokens === 64) {
			await gemm(hardware, product);
			assert((await hardware.read(c)).every((value) => value === 0));
			continue;
		}
		// Which tile it is, is told before it runs: a CPU takes long for a product that is worth measuring.
		const grids: (readonly number[])[] = [];
		hardware.dispatch = (_kernel, _params, _tensors, grid) => void grids.push(grid);
		await gemm(hardware, product);
		assert.deepEqual(grids, [[16384 / TILES[1].cols, tokens / TILES[1].rows, 1]]);
	}
	assert.equal(asked.length, 1, "small products are not worth it");
	assert.match(asked[0], /^NT f32 f16 f32 shallow large( of .*)?$/);
	assert([...used].some((name) => name.startsWith(`gemm_NT_${tileName(TILES[1])}_paired_f32-f16`)));
});
