import assert from "node:assert/strict";
import { sum } from "~/base/figures.ts";
import { levels as codec } from "~/codecs/levels/codec.ts";
import type { LevelCount, LevelPattern } from "~/codecs/levels/levels.ts";
import { loadLevels } from "~/codecs/levels/store.ts";
import { packedLinears } from "~/codecs/mod.ts";
import type { LinearRecord } from "~/pipeline/run/events.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { openCheckpoint, openModel } from "../open.ts";
import { startTask } from "../start_task.ts";

const PACK = { pack: { embeddings: "stored" } };

/** A chain with the stage, and with what it is used with if `isWhole`. */
function chain(place: Workplace, stage: StageItem, isWhole: boolean): StageItem[] {
	const calibrate = place.calibrateWith({ order: "module" });
	const before = isWhole
		? ["download", calibrate, "rotate", "hessian", "propagate-error"]
		: ["download", place.calibrate, "hessian"];
	return [...before, stage, ...(isWhole ? ["refit-norm"] : []), PACK, place.evaluate];
}

const RUNS: [
	options: Record<string, unknown>,
	count: LevelCount,
	pattern: LevelPattern,
	family: "llama" | "opt",
	isWhole: boolean,
][] = [
	[{}, 4, "free", "llama", true],
	[{ count: 2, rounds: 1, moves: 0 }, 2, "free", "llama", false],
	[{ count: 3, moves: 0.5 }, 3, "free", "opt", true],
	[{ count: 5, pattern: "gaussian", rounds: 0 }, 5, "gaussian", "llama", true],
	[{ count: 8, sweeps: 0, rounds: 1 }, 8, "gaussian", "opt", false],
];

for (const [options, count, pattern, family, isWhole] of RUNS) {
	const what = `levels: ${JSON.stringify(options)} of ${family}${isWhole ? ", rotated" : ""}`;
	Deno.test(`${what}: what is written is what was measured`, async () => {
		// No width is a multiple of 32; one is not rotated.
		using place = new Workplace({ layers: 2, family, hidden: 80, intermediate: 90, heads: 4 });
		const stages = chain(place, { levels: options }, isWhole);
		const { record } = await place.run({ stages });
		const { packed, layers } = record;
		const linears = layers!.flatMap(({ linears }) => linears);
		using checkpoint = openCheckpoint(packed!.folder);
		using model = openModel(packed!.folder);
		const { quantization } = model;
		assert.deepEqual([quantization!.method, quantization!.format_version], ["levels", 5]);
		const stored = packedLinears(checkpoint);
		assert.equal(stored.size, linears.length);
		for (const linear of linears) {
			const { name, cols } = linear;
			assert.equal(linear.method, "levels");
			assert.equal(linear.paperBits, Math.log2(count));
			assert.ok(linear.relativeOutputError! > 0);
			const { codec: found, parts } = stored.get(name)!;
			assert.equal(found, codec);
			assert.deepEqual(linear.storedBytes, parts);
			const host = loadLevels(checkpoint, name, { cols, blockSize: quantization!.block_size });
			assert.deepEqual([host.count, host.pattern], [count, pattern]);
		}

		await place.assertStandsForPlain(record);
	});
}

Deno.test("levels: a run resumed after an interruption gives the same files", async () => {
	using place = new Workplace({ layers: 3 });
	const stages = chain(place, { levels: { count: 3, rounds: 1 } }, true);
	await place.run({ stages });
	assert.deepEqual(await place.resumed({ stages }), contents(place.path("out", "model")));
});

function errorOf(layers: { linears: LinearRecord[] }[]): number {
	return sum(
		layers.flatMap(({ linears }) => linears.map(({ relativeOutputError }) => relativeOutputError!)),
	);
}

Deno.test("levels: errors fall with levels and effort, and are below those of a grid of the row", async () => {
	using place = new Workplace({ layers: 1 });
	const run = async (stage: StageItem) => {
		const stages = ["download", place.calibrate, "rotate", "hessian", stage, PACK];
		const { record } = await place.run({
			output: place.path(JSON.stringify(stage).replaceAll(/\W/g, "")),
			stages,
		});
		return errorOf(record.layers!);
	};
	const grid = await run({ gptq: { bits: 2, "group-size": "row" } });
	const efforts = [{ rounds: 0 }, { moves: 0 }, {}];
	const errors = [];
	for (const effort of efforts) errors.push(await run({ levels: { count: 4, ...effort } }));
	assert.ok(
		errors[0] < grid && errors[1] < errors[0] && errors[2] < errors[1],
		`${grid} ${errors}`,
	);
	const counts: number[] = [];
	for (const count of [2, 3, 4, 5, 8]) counts.push(await run({ levels: { count, moves: 0 } }));
	counts.slice(1).forEach((error, i) => assert.ok(error < counts[i], `${counts}`));
	const gaussian = await run({ levels: { count: 4, pattern: "gaussian", moves: 0 } });
	assert.ok(gaussian > errors[1] && gaussian < 1.1 * errors[1], `${gaussian}, ${errors[1]} free`);
});

Deno.test("levels: what cannot be is refused with the option's place", async () => {
	using place = new Workplace({ layers: 1 });
	const fails = (stages: StageItem[], message: RegExp) =>
		assert.rejects(place.run({ stages }), (error: Error) => {
			assert.match(error.message, message);
			return true;
		});
	const { calibrate } = place;
	const around = (stage: StageItem) => ["download", calibrate, "hessian", stage, "pack"];
	for (const [count, pattern] of [[2, "gaussian"], [3, "gaussian"], [8, "free"]]) {
		await fails(
			around({ levels: { count, pattern } }),
			/levels\.pattern must be free for 2 and 3 levels, gaussian for 8, found "/,
		);
	}
	await fails(
		around({ levels: { count: 6 } }),
		/levels\.count must be one of 2, 3, 4, 5, 8, found 6/,
	);
	await fails(
		["download", calibrate, "levels", "pack"],
		/"levels" needs "hessian", which stage "hessian" gives/,
	);
	await fails(
		[...around("levels").slice(0, 4), "gptq", "pack"],
		/"gptq" makes no use of "block-error", which stage "levels" gives/,
	);
});

Deno.test("levels: inspect, compare and generate know of them", async () => {
	using place = new Workplace({ layers: 2 });
	const { record } = await place.run({ stages: chain(place, { levels: { count: 5 } }, true) });
	const { folder } = record.packed!;
	const inspected = await startTask("inspect", [folder]);
	assert.equal(inspected.code, 0, inspected.stderr);
	assert.match(inspected.stdout, /packed by levels, format version 5/);
	assert.match(inspected.stdout, /paper +stored +codes +scales/);
	assert.match(inspected.stdout, /0\.self_attn\.q_proj +64x64 +2\.322 +3\.000 +2\.500 +0\.500/);
	const compared = await startTask("compare", [folder, place.model]);
	assert.equal(compared.code, 1, compared.stderr);
	assert.match(compared.stdout, /model\.layers\.1\.mlp\.down_proj\.weight/);
	const generated = await startTask("generate", [folder, "--prompt", "The", "--max-tokens", "5"]);
	assert.equal(generated.code, 0, generated.stderr);
});
