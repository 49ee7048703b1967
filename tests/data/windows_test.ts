import assert from "node:assert/strict";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { consecutiveWindows, randomWindows, readTokenIds, writeTokenIds } from "~/data/windows.ts";
import { denoFile } from "~/storage/deno_folder.ts";
import { readHeader } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { withFile } from "../temporary_folder.ts";

const ids = Array.from({ length: 1000 }, (_, i) => i);

Deno.test("consecutiveWindows() covers the text and drops the rest", () => {
	const windows = consecutiveWindows(ids, 300);
	assert.deepEqual(windows.map((window) => [window[0], window.at(-1), window.length]), [
		[0, 299, 300],
		[300, 599, 300],
		[600, 899, 300],
	]);
	assert.equal(consecutiveWindows(ids, 100, { limit: 4 }).length, 4);
	assert.equal(consecutiveWindows(ids, 100, { limit: 40 }).length, 10);
	assert.deepEqual(consecutiveWindows(ids, 1000), [Int32Array.from(ids)]);
});

Deno.test("windows need a text as long as one of them", () => {
	const error = (name: string) =>
		new UserError(
			`The text${name} has 1000 tokens, fewer than one window of 1001; ` +
				`use a longer text or a smaller sequence-length`,
		);
	assert.throws(() => consecutiveWindows(ids, 1001), error(""));
	const named = { name: "calibration.txt" };
	assert.throws(() => consecutiveWindows(ids, 1001, named), error(' "calibration.txt"'));
	assert.throws(() => randomWindows(ids, 1001, 1, 0, named), error(' "calibration.txt"'));
	const zero = new RangeError("Cannot cut windows of 0 tokens");
	assert.throws(() => consecutiveWindows(ids, 0), zero);
});

// random.seed(seed); [random.randint(0, 1000 - 10 - 1) for _ in range(8)]
const STARTS: [seed: number, starts: number[]][] = [
	[0, [864, 394, 776, 911, 430, 41, 265, 988]],
	[1, [137, 582, 867, 821, 782, 64, 261, 120]],
	[2 ** 32, [115, 359, 427, 957, 17, 23, 626, 897]],
	[2 ** 53 - 1, [96, 574, 228, 770, 195, 937, 150, 119]],
];
for (const [seed, starts] of STARTS) {
	Deno.test(`randomWindows() gives the windows that Python draws with seed ${seed}`, () => {
		const windows = randomWindows(ids, 10, 8, seed);
		assert.deepEqual(windows.map((window) => window[0]), starts);
		for (const window of windows) {
			assert.deepEqual(window, Int32Array.from({ length: 10 }, (_, i) => window[0] + i));
		}
		assert.deepEqual(randomWindows(ids, 10, 3, seed), windows.slice(0, 3));
	});
}

Deno.test("randomWindows() reaches every place but the last alike", () => {
	const counts = new Array(4).fill(0);
	for (const [start] of randomWindows(ids.slice(0, 8), 4, 4000, 7)) counts[start]++;
	for (const count of counts) assert.ok(Math.abs(count - 1000) < 140, `${counts}`); // 5 sigma
	const whole = Int32Array.from(ids);
	assert.deepEqual(randomWindows(ids, 1000, 2, 0), [whole, whole]);
	assert.deepEqual(randomWindows(ids, 999, 2, 0), [whole.slice(0, 999), whole.slice(0, 999)]);
});

for (const [dtype, stored] of [["I32", Int32Array], ["I64", BigInt64Array]] as const) {
	Deno.test(`readTokenIds() reads windows stored as ${dtype}`, () => {
		const values = [[0, 1, 2], [3, 4, 2 ** 31 - 1]];
		const numbers = stored === Int32Array
			? new Int32Array(values.flat())
			: new BigInt64Array(values.flat().map(BigInt));
		withFile("x.safetensors", "", (path) => {
			const data = new Uint8Array(numbers.buffer);
			writeSafetensors(path, [{ name: "ids", dtype, shape: [2, 3], data }]);
			assert.deepEqual(readTokenIds(path), values.map((window) => Int32Array.from(window)));
		});
	});
}

Deno.test("readTokenIds() refuses what are no token windows", () => {
	withFile("x.safetensors", "", (path) => {
		const refused = (problem: string) =>
			assert.throws(
				() => readTokenIds(path),
				new UserError(`Cannot read token ids from "${path}": ${problem}`),
			);
		const a = { name: "a", dtype: "I32", shape: [2], data: new Uint8Array(8) } as const;
		writeSafetensors(path, [{ ...a, shape: [2] }]);
		refused('"a" is I32 [2], not I32 or I64 [windows, length]');
		writeSafetensors(path, [{ ...a, dtype: "F32", shape: [1, 2] }]);
		refused('"a" is F32 [1, 2], not I32 or I64 [windows, length]');
		writeSafetensors(path, [{ ...a, shape: [0, 2], data: [] }]);
		refused('"a" is I32 [0, 2], not I32 or I64 [windows, length]');
		writeSafetensors(path, [{ ...a, shape: [2] }, { ...a, name: "b", shape: [2] }]);
		refused("it has 2 tensors, but one is needed");
		const tooLarge = new Uint8Array(new BigInt64Array([2n ** 31n]).buffer);
		writeSafetensors(path, [{ name: "a", dtype: "I64", shape: [1, 1], data: tooLarge }]);
		refused("2147483648 is no token id");
	});
});

Deno.test("writeTokenIds() writes what readTokenIds() reads", () => {
	withFile("x.safetensors", "", (path) => {
		const tokens = Int32Array.from(ids);
		const windows = [tokens.subarray(3, 6), tokens.slice(0, 3), tokens.subarray(997)];
		writeTokenIds(path, windows);
		assert.deepEqual(readTokenIds(path), windows.map((window) => window.slice()));
		const [{ name, dtype, shape }] = readHeader(denoFile(path)).tensors.values();
		assert.deepEqual([name, dtype, shape], ["input_ids", "I32", [3, 3]]);
		const uneven = new RangeError("Cannot write 2 windows: not all of one length");
		assert.throws(() => writeTokenIds(path, [tokens, tokens.subarray(1)]), uneven);
		const none = new RangeError("Cannot write 0 windows: not all of one length");
		assert.throws(() => writeTokenIds(path, []), none);
	});
});

const SHARED = join(import.meta.dirname!, "../../../shared/fixtures/billm-reference");
Deno.test({
	name: "readTokenIds() reads the calibration set of the reference (needs ../shared)",
	ignore: !exists(SHARED),
	fn() {
		const windows = readTokenIds(join(SHARED, "tiny-llama.calibration.safetensors"));
		assert.equal(windows.length, 64);
		assert.ok(windows.every((window) => window.length === 512));
		assert.deepEqual([...windows[0].subarray(0, 5)], [342, 469, 723, 271, 455]);
	},
});

function exists(path: string): boolean {
	try {
		return Boolean(Deno.statSync(path));
	} catch {
		return false;
	}
}
