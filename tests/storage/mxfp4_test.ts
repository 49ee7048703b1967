import assert from "node:assert/strict";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";
import { storedAs } from "~/storage/mxfp4.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { openCheckpoint } from "../open.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];
const [MATRICES, ROWS, GROUPS] = [3, 5, 2];
const COLS = 32 * GROUPS;

/** A code and a scale for each place, all of them somewhere. */
const code = (matrix: number, row: number, col: number) => (7 * matrix + 5 * row + col) % 16;
const exponent = (matrix: number, row: number, group: number) =>
	(17 * matrix + 11 * row + 5 * group) % 30 - 15;
const valueAt = (matrix: number, row: number, col: number) =>
	VALUES[code(matrix, row, col)] * 2 ** exponent(matrix, row, Math.floor(col / 32));

const all = (count: number) => Array.from({ length: count }, (_, i) => i);
const places = (cols: number) =>
	all(MATRICES).flatMap((matrix) =>
		all(ROWS).flatMap((row) => all(cols).map((col) => [matrix, row, col] as const))
	);

const codes = (name = "x_blocks", shape = [MATRICES, ROWS, GROUPS, 16]): TensorToWrite => ({
	name,
	dtype: "U8",
	shape,
	data: Uint8Array.from(
		places(COLS / 2),
		([m, r, c]) => code(m, r, 2 * c) | code(m, r, 2 * c + 1) << 4,
	),
});
const scales = (name = "x_scales", shape = [MATRICES, ROWS, GROUPS]): TensorToWrite => ({
	name,
	dtype: "U8",
	shape,
	data: Uint8Array.from(places(GROUPS), (place) => 127 + exponent(...place)),
});
const other: TensorToWrite = {
	name: "other_scales",
	dtype: "U8",
	shape: [2],
	data: Uint8Array.of(1, 2),
};

function open(folder: string, tensors: TensorToWrite[]): Checkpoint {
	writeSafetensors(join(folder, "model.safetensors"), tensors);
	return openCheckpoint(folder);
}

Deno.test("codes and scales of MXFP4 are read as the transposed matrices that they stand for", () => {
	using folder = new TemporaryFolder();
	using checkpoint = open(folder.path, [scales(), other, codes()]);
	assert.deepEqual([...checkpoint.tensors.keys()].sort(), ["other_scales", "x"]);
	const { shape, dtype } = checkpoint.get("x");
	assert.deepEqual([shape, dtype], [[MATRICES, COLS, ROWS], "BF16"]);
	const bytes = MATRICES * ROWS * GROUPS * 17;
	assert.deepEqual(storedAs(checkpoint.get("x")), { dtype: "MXFP4", bytes });
	const expected = all(MATRICES).flatMap((matrix) =>
		all(COLS).flatMap((col) => all(ROWS).map((row) => valueAt(matrix, row, col)))
	);
	assert.deepEqual([...checkpoint.readFloat32("x")], expected);
	for (const bytes of [1, 7, 64, 130, 1 << 20]) {
		const whole = checkpoint.readBytes("x");
		const pieces = [...checkpoint.readChunks("x", bytes).flatMap((chunk) => [...chunk])];
		assert.deepEqual(pieces, [...whole], `in chunks of ${bytes} bytes`);
	}
	for (const [first, step, rows] of [[0, 1, 5], [1, 1, 2], [0, 2, 3], [1, 2, 2], [4, 1, 1]]) {
		const part = { matrix: 1, transposed: true, first, rows, step };
		const expected = all(rows).flatMap((row) =>
			all(COLS).map((col) => valueAt(1, first + row * step, col))
		);
		assert.deepEqual([...checkpoint.readFloat32("x", part)], expected, JSON.stringify(part));
	}
});

Deno.test("scales of MXFP4 from the least to NaN", () => {
	using folder = new TemporaryFolder();
	const one = (name: string, shape: number[], data: Uint8Array<ArrayBuffer>): TensorToWrite => (
		{ name, dtype: "U8", shape, data }
	);
	using checkpoint = open(folder.path, [
		one("x_blocks", [1, 1, 4, 16], new Uint8Array(64).fill(0x71)), // 0.5 and 6
		one("x_scales", [1, 1, 4], Uint8Array.of(0, 252, 254, 255)),
	]);
	const values = checkpoint.readFloat32("x");
	const found = [0, 32, 64, 96].flatMap((at) => [values[at], values[at + 1]]);
	const expected = [2 ** -128, 6 * 2 ** -127, 2 ** 124, 6 * 2 ** 125, 2 ** 126, Infinity, NaN, NaN];
	assert.deepEqual(found, expected);
});

const REFUSED: [name: string, tensors: TensorToWrite[], problem: string][] = [
	["without scales", [codes()], '"x_blocks" holds codes of MXFP4, but there is no "x_scales"'],
	[
		"of another size of blocks",
		[codes("x_blocks", [MATRICES, ROWS, 2 * GROUPS, 8]), scales()],
		`"x_blocks" has the shape [3,5,4,8], not [matrices, rows, groups, 16] of MXFP4`,
	],
	[
		"with too few dimensions",
		[codes("x_blocks", [MATRICES * ROWS, GROUPS, 16]), scales()],
		`"x_blocks" has the shape [15,2,16], not [matrices, rows, groups, 16] of MXFP4`,
	],
	[
		"with scales of another shape",
		[codes(), scales("x_scales", [ROWS, MATRICES, GROUPS])],
		'"x_scales" is U8 [5,3,2], not U8 [3,5,2] as "x_blocks" needs',
	],
	[
		"with scales of another type",
		[codes(), { name: "x_scales", dtype: "F16", shape: [1], data: new Uint8Array(2) }],
		'"x_scales" is F16 [1], not U8 [3,5,2] as "x_blocks" needs',
	],
];

for (const [name, tensors, problem] of REFUSED) {
	Deno.test(`codes of MXFP4 are refused: ${name}`, () => {
		using folder = new TemporaryFolder();
		const message = `Cannot read "${folder.file("model.safetensors")}": ${problem}; ` +
			"download it again";
		assert.throws(() => open(folder.path, tensors), new UserError(message));
	});
}
