import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { listed } from "~/base/figures.ts";
import { levels } from "~/codecs/levels/codec.ts";
import { LEVEL_KINDS, type LevelsLayout } from "~/codecs/levels/levels.ts";
import {
	dequantizeLevelsHost,
	type LevelsHost,
	loadLevels,
	storeLevels,
} from "~/codecs/levels/store.ts";
import { storeLinear, versionFor } from "~/codecs/mod.ts";
import type { Checkpoint } from "~/storage/checkpoint.ts";
import { packedMetadata } from "~/storage/packed_metadata.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { gpu } from "../../gpu/gpu.ts";
import { written } from "../../open.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { PLAIN } from "../store_forms.ts";
import { packedRow, randomLevels } from "./random_levels.ts";

function write(folder: string, tensors: TensorToWrite[]): Checkpoint {
	return written(folder, tensors, packedMetadata(tensors, levels.since));
}

/** So few columns that the number of words does not tell the number of levels, and others. */
const SIZES = [[1, 1], [5, 2], [3, 7], [7, 20], [2, 64], [70, 203]];

for (const kind of LEVEL_KINDS) {
	const what = `${kind.count} levels, ${kind.pattern}`;
	Deno.test(`${what}: what is read is what was written`, async () => {
		for (const [rows, cols] of SIZES) {
			const { host, weight } = randomLevels({ rows, cols, ...kind });
			using folder = new TemporaryFolder();
			const packed = storeLinear("up", { codec: levels, host }, PLAIN);
			using checkpoint = write(folder.path, packed.tensors);
			const names = [...checkpoint.tensors.keys()].sort();
			assert.deepEqual(names, ["up.level_codes", `up.levels_${kind.count}`]);
			const bytes = [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
			assert.equal(packed.parts.codes + packed.parts.scales, bytes);
			assert.equal(packed.parts.scales, 2 * host.theta.length);
			const found = loadLevels(checkpoint, "up", { cols, blockSize: 128 });
			assert.deepEqual(found, host);
			assert.deepEqual(dequantizeLevelsHost(found), weight);
			using onGpu = await levels.matrix(gpu, found);
			assert.deepEqual(await gpu.read(onGpu), weight);
			assert.equal(levels.facts(found).paperBits, Math.log2(kind.count));
			assert.equal(versionFor([levels], names), 5);
		}
	});

	Deno.test(`${what}: host and GPU agree on zeros and the least and greatest parameters`, async () => {
		const { host } = randomLevels({ rows: 6, cols: 40, ...kind });
		const least = 2 ** -24;
		host.theta.fill(0);
		for (let i = 0; i < host.theta.length; i++) {
			host.theta[i] = [0, -0, least, -least, 65504, -0.1][i % 6];
		}
		using folder = new TemporaryFolder();
		using checkpoint = write(folder.path, storeLevels("up", host));
		const found = loadLevels(checkpoint, "up", { cols: 40, blockSize: 128 });
		const values = dequantizeLevelsHost(found);
		assert.ok(values.includes(0) && !values.some((value) => Object.is(value, -0)));
		using onGpu = await levels.matrix(gpu, found);
		assert.deepEqual(await gpu.read(onGpu), values);
	});
}

Deno.test("values that are NaN or infinite in f16 are counted", () => {
	const { host } = randomLevels({ rows: 3, cols: 8, count: 4, pattern: "free" });
	assert.deepEqual(levels.nonFinite(host), { levels_4: 0 });
	host.theta.set([NaN, 65520], 2);
	assert.deepEqual(levels.nonFinite(host), { levels_4: 2 });
});

Deno.test("the examples of docs/format.md are what the program writes", () => {
	const path = join(import.meta.dirname!, "../../../docs/format.md");
	const text = readFileSync(path, "utf8").replaceAll("\n", " ");
	for (
		const [count, codes, theta] of [
			[3, [2, 0, 1, 1, 0, 2, 2], [0.25]],
			[5, [4, 1, 2, 0, 3], [0.25, 1]],
		] as const
	) {
		const host: LevelsHost = {
			...{ rows: 1, cols: codes.length, count, pattern: "free" },
			codes: packedRow(codes, count),
			theta: Float32Array.from(theta),
		};
		const lines = storeLevels("up", host).map(({ name, dtype, shape, data }) => {
			const bytes = [...data as Uint8Array].map((byte) => byte.toString(16).padStart(2, "0"));
			return `${name} ${dtype} [${shape.join(", ")}]: ${bytes.join(" ")}`;
		});
		const weights = listed([...dequantizeLevelsHost(host)].map(String), "and");
		const example = `${lines.join(" ")} \`\`\`  and its weights ${weights}.`;
		assert.ok(text.includes(example), example);
	}
});

/** What is wrong with a file: how to make it so, the tensor and what is said of it. */
const DAMAGED: [
	count: 3 | 4 | 5,
	change: (parts: Map<string, TensorToWrite>) => void,
	part: string,
	problem: string,
][] = [
	[
		4,
		(parts) => parts.delete("levels_4"),
		"level_codes",
		'alone, expected one "up.levels_N" beside it, with N = 2, 3, 4, 5, 8',
	],
	[
		4,
		(parts) => parts.set("levels_3", { ...parts.get("levels_4")!, name: "up.levels_3" }),
		"level_codes",
		'beside "up.levels_3" and "up.levels_4", expected one "up.levels_N" beside it, with N = 2, 3, 4, 5, 8',
	],
	[4, change("levels_4", { shape: [5, 4] }), "levels_4", "[5, 4], expected [10, 1 or 2]"],
	[3, change("levels_3", { shape: [5, 2] }), "levels_3", "[5, 2], expected [10, 1]"],
	[4, change("levels_4", { dtype: "BF16" }), "levels_4", "BF16 [10, 2], expected F16 [10, 2]"],
	[4, change("level_codes", { dtype: "I32" }), "level_codes", "I32 [10, 3], expected U32 [10, 3]"],
	[
		5,
		change("levels_5", { name: "up.levels_4" }),
		"level_codes",
		"U32 [10, 4], expected U32 [10, 3]",
	],
	...([[3, 4 * 3 * 2 + 5, 243, 2], [5, 4 * 4 * 9, 125, 9]] as const).map(
		([count, place, field, row]): typeof DAMAGED[number] => [
			count,
			(parts) => (parts.get("level_codes")!.data as Uint8Array)[place] = field,
			"level_codes",
			`a list with field ${field} in row ${row}, expected fields below ${field}`,
		],
	),
];

function change(part: string, fields: Partial<TensorToWrite>) {
	return (parts: Map<string, TensorToWrite>) => Object.assign(parts.get(part)!, fields);
}

for (const [count, change, part, problem] of DAMAGED) {
	Deno.test(`levels whose tensors do not fit are refused: ${problem}`, () => {
		using folder = new TemporaryFolder();
		const layout: LevelsLayout = { rows: 10, cols: 44, count, pattern: "free" };
		const tensors = storeLevels("up", randomLevels(layout).host);
		const parts = new Map(tensors.map((tensor) => [tensor.name.slice("up.".length), tensor]));
		change(parts);
		using checkpoint = write(folder.path, [...parts.values()]);
		const path = folder.file("model.safetensors");
		assert.throws(
			() => loadLevels(checkpoint, "up", { cols: 44, blockSize: 128 }),
			new UserError(`"${path}": "up.${part}" is ${problem}; the file does not fit its config.json`),
		);
	});
}
