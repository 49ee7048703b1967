import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { billm } from "~/codecs/billm/codec.ts";
import { grid } from "~/codecs/grid/codec.ts";
import { GRID_BITS, type GridLayout } from "~/codecs/grid/grid.ts";
import { dequantizeGridHost, loadGrid } from "~/codecs/grid/store.ts";
import { storeLinear, versionFor } from "~/codecs/mod.ts";
import type { Checkpoint } from "~/storage/checkpoint.ts";
import { FORMAT_VERSION, packedMetadata } from "~/storage/packed_metadata.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { gpu } from "../../gpu/gpu.ts";
import { randomGrid } from "./random_grid.ts";
import { written } from "../../open.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { PLAIN } from "../store_forms.ts";

function write(folder: string, tensors: TensorToWrite[]): Checkpoint {
	return written(folder, tensors, packedMetadata(tensors, grid.since));
}

const LAYOUTS: [layout: GridLayout, share: number, parts: string[], isOrdered?: boolean][] = [
	...GRID_BITS.map((bits): [GridLayout, number, string[]] => [
		{ rows: 5, cols: 75, groupSize: 32, grid: "range", bits, salient: false },
		0,
		["codes", "scales", "zeros"],
	]),
	[
		{ rows: 3, cols: 64, groupSize: 64, grid: "range", bits: 4, salient: false },
		0,
		["codes", "scales", "zeros"],
	],
	[
		{ rows: 7, cols: 100, groupSize: 32, grid: "mean", bits: 1, salient: false },
		0,
		["codes", "means", "scales"],
	],
	[
		{ rows: 7, cols: 100, groupSize: 100, grid: "sign", bits: 1, salient: false },
		0,
		["codes", "scales"],
	],
	[
		{ rows: 70, cols: 200, groupSize: 32, grid: "sign", bits: 1, salient: true },
		0.1,
		["codes", "mask", "salient_codes", "salient_scales", "salient_zeros", "scales"],
	],
	[
		{ rows: 70, cols: 200, groupSize: 200, grid: "mean", bits: 1, salient: true },
		0.01,
		["codes", "counts", "means", "places", "salient_codes", "salient_scales", "salient_zeros"]
			.concat("scales"),
	],
	[
		{ rows: 9, cols: 40, groupSize: 32, grid: "range", bits: 3, salient: true },
		0, // none
		["codes", "counts", "places", "salient_codes", "salient_scales", "salient_zeros", "scales"]
			.concat("zeros"),
	],
	...GRID_BITS.flatMap((bits, i): [GridLayout, number, string[], boolean][] => {
		const size = { rows: 5, cols: 75, groupSize: 32, grid: "range", bits, salient: false } as const;
		const order = i % 2 ? ["order"] : [];
		return [
			[{ ...size, zeros: "middle" }, 0, ["codes", ...order, "scales", "zero_bits"], i % 2 === 1],
			[{ ...size, zeros: "symmetric" }, 0, ["codes", ...order, "scales", "zero"], i % 2 === 1],
			[{ ...size, zeros: "half" }, 0, ["codes", ...order, "scales", "zero"], i % 2 === 1],
			[{ ...size, zeros: "free" }, 0, ["codes", ...order, "real_zeros", "scales"], i % 2 === 1],
		];
	}),
	[
		{ rows: 2, cols: 65600, groupSize: 65600, grid: "sign", bits: 1, salient: false },
		0,
		["codes", "order", "scales"],
		true,
	],
];

for (const [layout, share, parts, isOrdered = false] of LAYOUTS) {
	const what = JSON.stringify(layout) + (isOrdered ? ", ordered" : "");
	Deno.test(`a grid is read as it was written: ${what}`, async () => {
		const { host, weight } = randomGrid(layout, share, isOrdered);
		for (const flags of ["plain", "entropy"] as const) {
			using folder = new TemporaryFolder();
			const packed = storeLinear("up", { codec: grid, host: host }, { ...PLAIN, flags });
			using checkpoint = write(folder.path, packed.tensors);
			const names = [...checkpoint.tensors.keys()].sort();
			if (flags === "plain") assert.deepEqual(names, parts.map((part) => `up.grid_${part}`));
			const bytes = [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
			assert.equal(Object.values(packed.parts).reduce((a, b) => a + b), bytes);
			const found = loadGrid(checkpoint, "up", { cols: layout.cols, blockSize: 32 });
			assert.deepEqual(found, host);
			assert.deepEqual(dequantizeGridHost(found), weight);
			using onGpu = await grid.matrix(gpu, found);
			assert.deepEqual(await gpu.read(onGpu), weight);
			const marked = [...host.mask ?? []].reduce(
				(sum, word) => sum + word.toString(2).replaceAll("0", "").length,
				0,
			);
			const paper = layout.bits + (8 - layout.bits) * marked / (layout.rows * layout.cols);
			assert.ok(Math.abs(grid.facts(found).paperBits - paper) < 1e-12);
		}
	});
}

Deno.test("files say the first version that supports their tensors", () => {
	const tensorsOf = ([layout, share, , isOrdered]: typeof LAYOUTS[number]) => {
		const { host } = randomGrid(layout, share, isOrdered);
		return storeLinear("up", { codec: grid, host }, PLAIN).tensors;
	};
	for (const sample of LAYOUTS) {
		const { zeros } = sample[0];
		const expected = zeros !== undefined || sample[3] ? 4 : 3;
		const names = tensorsOf(sample).map(({ name }) => name);
		assert.equal(versionFor([grid], names), expected, JSON.stringify(sample[0]));
		assert.equal(versionFor([billm, grid], ["model.norm.weight", ...names]), expected);
	}
	assert.deepEqual([versionFor([]), versionFor([billm]), versionFor([billm, grid])], [2, 2, 3]);
	assert.ok(
		versionFor([grid], LAYOUTS.flatMap(tensorsOf).map(({ name }) => name)) <= FORMAT_VERSION,
	);
});

Deno.test("the example of docs/format.md with codes of 3 bits is right", () => {
	const text = readFileSync(join(import.meta.dirname!, "../../../docs/format.md"), "utf8");
	const codes = Uint32Array.of(0x51d1, 0, 0);
	assert.ok(text.includes("= 0x51d1. With the scale 0.25 and the zero 3"));
	const weight = dequantizeGridHost({
		rows: 1,
		cols: 32,
		groupSize: 32,
		grid: "range",
		bits: 3,
		salient: false,
		codes,
		fits: Float32Array.of(0.25, 3),
	});
	const [a, b, c, d, e] = weight;
	assert.ok(
		text.replaceAll("\n", " ").includes(`first weights are ${a}, ${b}, ${c}, ${d} and ${e}.`),
	);
});

/** What is wrong with a file: how to make it so, the tensor and what is said of it. */
const DAMAGED: [
	change: (parts: Map<string, TensorToWrite>) => void,
	part: string,
	problem: string,
][] = [
	[
		(parts) => Object.assign(parts.get("codes")!, { shape: [35, 14] }),
		"codes",
		"[35, 14], expected [35, 7 N] with N = 1",
	],
	[
		(parts) => Object.assign(parts.get("scales")!, { shape: [245, 2] }),
		"scales",
		"[245, 2], expected [70, 1 or 7]",
	],
	[
		(parts) => Object.assign(parts.get("salient_zeros")!, { dtype: "I8" }),
		"salient_zeros",
		"I8 [70], expected U8 [70]",
	],
	[
		(parts) => new Uint16Array(bytesOf(parts, "places")).fill(200, 0, 1),
		"places",
		"column 200 in row ROW, expected each of 200 once",
	],
	[
		(parts) => new Uint16Array(bytesOf(parts, "places")).fill(7, 0, 2),
		"places",
		"column 7 in row ROW, expected each of 200 once",
	],
];

function bytesOf(parts: Map<string, TensorToWrite>, name: string): ArrayBuffer {
	return (parts.get(name)!.data as Uint8Array<ArrayBuffer>).buffer;
}

for (const [change, part, problem] of DAMAGED) {
	Deno.test(`a grid whose ${part} do not fit is refused: ${problem}`, () => {
		using folder = new TemporaryFolder();
		const layout: GridLayout = {
			rows: 70,
			cols: 200,
			groupSize: 32,
			grid: "sign",
			bits: 1,
			salient: true,
		};
		const { host } = randomGrid(layout, 0.02);
		const { tensors } = storeLinear("up", { codec: grid, host: host }, PLAIN);
		const parts = new Map(tensors.map((tensor) => [tensor.name.slice("up.grid_".length), tensor]));
		change(parts);
		using checkpoint = write(folder.path, tensors);
		const path = folder.file("model.safetensors");
		assert.throws(
			() => loadGrid(checkpoint, "up", { cols: 200, blockSize: 32 }),
			(error: Error) => {
				assert.ok(error instanceof UserError, error.stack);
				assert.equal(
					error.message.replace(/in row \d+/, "in row ROW"),
					`"${path}": "up.grid_${part}" is ${problem}; the file does not fit its config.json`,
				);
				return true;
			},
		);
	});
}

/** The same for zeros and the order of columns: the part that is changed, and its value at element 5. */
const DAMAGED_NUMBERS: [
	zeros: "symmetric" | "free",
	part: string,
	at: number,
	value: number,
	problem: string,
][] = [
	["free", "real_zeros", 5, Infinity, "Infinity in row 1, expected finite numbers"],
	["symmetric", "zero", 0, 1, "1, expected 1.5 or 2"],
	["free", "order", 5, 75, "a list with column 75, expected each of 75 once"],
	["free", "order", 5, NaN, "a list with column COL, expected each of 75 once"],
];

for (const [zeros, part, at, value, problem] of DAMAGED_NUMBERS) {
	Deno.test(`a grid with ${zeros} zeros whose ${part} are damaged is refused: ${problem}`, () => {
		using folder = new TemporaryFolder();
		const size = { rows: 4, cols: 75, groupSize: 32, grid: "range", bits: 2 } as const;
		const { host } = randomGrid({ ...size, zeros, salient: false }, 0, true);
		const { tensors } = storeLinear("up", { codec: grid, host }, PLAIN);
		const parts = new Map(tensors.map((tensor) => [tensor.name.slice("up.grid_".length), tensor]));
		const buffer = bytesOf(parts, part);
		if (part === "order") {
			const order = new Uint16Array(buffer);
			order[at] = Number.isNaN(value) ? order[at + 1] : value; // or one column twice
		} else new Float16Array(buffer)[at] = value;
		using checkpoint = write(folder.path, tensors);
		assert.throws(
			() => loadGrid(checkpoint, "up", { cols: 75, blockSize: 32 }),
			(error: Error) => {
				assert.ok(error instanceof UserError, error.stack);
				const message = error.message.replace(
					Number.isNaN(value) ? /column \d+/ : "column COL",
					"column COL",
				);
				const file = folder.file("model.safetensors");
				assert.equal(
					message,
					`"${file}": "up.grid_${part}" is ${problem}; the file does not fit its config.json`,
				);
				return true;
			},
		);
	});
}

Deno.test("a grid with two kinds of zeros is refused", () => {
	using folder = new TemporaryFolder();
	const size = {
		rows: 4,
		cols: 64,
		groupSize: 64,
		grid: "range",
		bits: 2,
		salient: false,
	} as const;
	const tensors = (["free", "half"] as const).flatMap((zeros) =>
		storeLinear("up", { codec: grid, host: randomGrid({ ...size, zeros }, 0).host }, PLAIN).tensors
	);
	using checkpoint = write(folder.path, [
		...new Map(tensors.map((tensor) => [tensor.name, tensor])).values(),
	]);
	assert.throws(
		() => loadGrid(checkpoint, "up", { cols: 64, blockSize: 32 }),
		/"up.grid_zero" is beside "up.grid_real_zeros", expected one of them;/,
	);
});

Deno.test("an entropy code of other weights is refused", () => {
	using folder = new TemporaryFolder();
	const [layout] = LAYOUTS.find(([{ salient }]) => salient)!;
	const { tensors } = storeLinear("up", { codec: grid, host: randomGrid(layout, 0.1).host }, {
		...PLAIN,
		flags: "entropy",
	});
	const mask = tensors.find(({ name }) => name === "up.grid_mask")!;
	(mask.data as Uint8Array).fill(0xff, 40);
	using checkpoint = write(folder.path, tensors);
	assert.throws(
		() => loadGrid(checkpoint, "up", { cols: layout.cols, blockSize: 32 }),
		/"up.grid_mask" is no entropy code of flags, expected one of 70 x 200;/,
	);
});
