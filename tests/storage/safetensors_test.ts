import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { fixture, fixtureFolder } from "../fixture.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFile, denoFolder } from "../../storage/deno_folder.ts";
import {
	fromFloat32,
	isFloatDtype,
	readHeader,
	type StoredTensor,
	TensorReader,
	type TensorToWrite,
	toFloat32,
} from "../../storage/safetensors.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { fillDiskFor } from "../full_disk.ts";

const CASES = fixtureFolder("safetensors-cases");
const SHARED = join(import.meta.dirname!, "../../../shared");
const noShared = !exists(SHARED);

/** What is said of each bad file after `Cannot read "FILE": `. */
const PROBLEMS: Record<string, string> = {
	bad_empty_file: "it has 0 bytes, too few for a header; download it again",
	bad_7_bytes: "it has 7 bytes, too few for a header; download it again",
	bad_header_len_beyond_file: "it lacks 999920 bytes of its header; download it again",
	bad_header_len_huge:
		"it is not a safetensors file (its header would be 9.2 EB long, more than 100 MB)",
	bad_header_len_100mb_plus1:
		"it is not a safetensors file (its header would be 100.0 MB long, more than 100 MB)",
	bad_header_len_zero: "its header is not JSON",
	bad_header_not_utf8: "its header is not UTF-8",
	bad_header_not_json: "its header is not JSON",
	bad_header_json_array: "its header is not a JSON object",
	bad_git_lfs_pointer: "it is a Git LFS pointer, not the file itself; run `git lfs pull`",
	bad_html_error_page: "it is an HTML page, perhaps an error message; download it again",
	bad_truncated_data: "it lacks 1 byte of 88; download it again",
	bad_trailing_data: "it has 1 byte after the last tensor; download it again",
	bad_unknown_dtype: 'tensor "a" has the dtype "Q4_0", unknown to the format',
	bad_missing_dtype: 'tensor "a" has the dtype (none), unknown to the format',
	bad_missing_offsets: 'tensor "a" has the offsets (none), not two whole numbers',
	bad_negative_dim: 'tensor "a" has the shape [-2, -2], not a list of whole numbers',
	bad_fractional_dim: 'tensor "a" has the shape [2.5], not a list of whole numbers',
	bad_negative_offset: 'tensor "a" has the offsets [-16, 0], not two whole numbers',
	bad_string_offset: 'tensor "a" has the offsets ["0", "16"], not two whole numbers',
	bad_size_mismatch: 'tensor "a" has 16 bytes, but F32 [2, 3] needs 24',
	bad_reversed_offsets: 'tensor "a" ends at byte 0, before its start 16',
	bad_offset_beyond_file: "it lacks 4000 bytes of 4144; download it again",
	bad_hole: "its bytes 124 to 128 belong to no tensor",
	bad_hole_at_start: "its bytes 64 to 72 belong to no tensor",
	bad_overlap: 'tensors "a" and "b" share bytes',
	bad_same_range_10: 'tensors "t0" and "t1" share bytes',
	bad_shape_overflow_u64: 'tensor "a" is too large: F32 [4294967296, 4294967296]',
	bad_shape_overflow_js:
		'tensor "a" has 16 bytes, but F32 [134217728, 67108864] needs 36028797018963968',
	bad_dim_beyond_2p53: 'tensor "a" has 16 bytes, but F32 [9007199254740993, 0] needs 0',
	bad_metadata_not_strings: 'its metadata "n" is 1, not a text',
	bad_metadata_array: "its metadata is not a JSON object",
	bad_f4_misaligned: 'tensor "x" ends within a byte: F4 [1, 3]',
	bad_duplicate_key: 'its header has the key "a" twice',
	bad_bom: "its header is not JSON",
};

/** What is said of each bad folder; FOLDER stands for its path. */
const FOLDER_PROBLEMS: Record<string, string> = {
	shard_bad_missing_file: 'Cannot open "FOLDER": the index puts "b" in ' +
		'"model-00002-of-00002.safetensors", which is not there; download the missing file',
	shard_bad_tensor_elsewhere: 'Cannot open "FOLDER": "model-00002-of-00002.safetensors" has no ' +
		'tensor "a", which the index puts there; download both again',
	shard_bad_tensor_nowhere: 'Cannot open "FOLDER": "model-00001-of-00002.safetensors" has no ' +
		'tensor "c", which the index puts there; download both again',
	shard_bad_duplicate_tensor: 'Cannot open "FOLDER": "model-00002-of-00002.safetensors" has no ' +
		'tensor "b", which the index puts there; download both again',
	shard_bad_path_escape: 'Cannot read "FOLDER/model.safetensors.index.json": it puts "a" in ' +
		'"../good_scalar.safetensors", which is not the name of a file in its folder',
	shard_bad_index_json: 'Cannot read "FOLDER/model.safetensors.index.json": it is not JSON; ' +
		"download it again",
	shard_bad_no_weight_map: 'Cannot read "FOLDER/model.safetensors.index.json": it has no object ' +
		'"weight_map"',
};

const cases = fixture<{ file: string; ok: boolean; note: string }[]>("safetensors-cases");
for (const { file, ok, note } of cases) {
	if (file.includes("all_65536")) continue; // made in "toFloat32() is exact" instead
	const path = join(CASES, file).replace(/[\\/]$/, "");
	const name = file.replace(/\.safetensors$|\/$/, "");
	Deno.test(`${name} is ${ok ? "read" : "refused"}${note && ` (${note})`}`, () => {
		if (file.endsWith("/")) {
			const open = () => Checkpoint.open(denoFolder(path))[Symbol.dispose]();
			if (ok) return open();
			const refusal = new UserError(FOLDER_PROBLEMS[name].replace("FOLDER", path));
			if (!refusal.message.includes("which the index puts there")) {
				return assert.throws(open, refusal);
			}
			// Nobody may need the tensor: it is refused where it is asked for.
			using checkpoint = Checkpoint.open(denoFolder(path));
			const [, tensor] = /has no tensor "(.)"/.exec(refusal.message)!;
			assert.ok(!checkpoint.has(tensor));
			assert.throws(() => checkpoint.get(tensor), refusal);
			assert.throws(() => checkpoint.readBytes(tensor), refusal);
		} else if (ok) {
			using reader = new TensorReader(denoFile);
			for (const tensor of readHeader(denoFile(path)).tensors.values()) {
				assert.equal(reader.readBytes(tensor).length, tensor.bytes);
			}
		} else {
			const error = new UserError(`Cannot read "${path}": ${PROBLEMS[name]}`);
			assert.throws(() => readHeader(denoFile(path)), error);
		}
	});
}

Deno.test("readHeader() says where the tensors lie, in the order of the file", () => {
	const path = join(CASES, "good_header_order_shuffled.safetensors");
	const { tensors, metadata } = readHeader(denoFile(path));
	const common = { dtype: "F32", shape: [1], file: path, bytes: 4 };
	assert.deepEqual([...tensors], [
		["a", { name: "a", ...common, offset: 120 }],
		["b", { name: "b", ...common, offset: 124 }],
	]);
	assert.deepEqual(metadata, {});
});

Deno.test("readHeader() takes any name for a tensor", () => {
	const { tensors } = readHeader(denoFile(join(CASES, "good_names_unicode.safetensors")));
	const names = ["层.0.权重", "with space/slash.weight", "", "__proto__", "constructor"];
	assert.deepEqual([...tensors.keys()], names);
});

Deno.test("readHeader() gives the metadata", () => {
	const { metadata } = readHeader(denoFile(join(CASES, "good_metadata_only.safetensors")));
	assert.deepEqual(metadata, { format: "pt", note: "ü中😀" });
});

Deno.test("readHeader() reads a metadata text of 5 MB", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		const long = '\\"}{:'.repeat(1_000_000);
		writeSafetensors(path, [], { long });
		assert.equal(readHeader(denoFile(path)).metadata.long, long);
	});
});

Deno.test("readHeader() refuses a name that is half a character, as the reference reader does", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		writeSafetensors(path, [{ name: "\ud800", dtype: "U8", shape: [0], data: new Uint8Array() }]);
		const error = new UserError(`Cannot read "${path}": its header is not JSON`);
		assert.throws(() => readHeader(denoFile(path)), error);
	});
});

Deno.test("readHeader() does not read what a sparse file of 1 TB calls its header", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		const length = new Uint8Array(new BigUint64Array([2n ** 39n]).buffer);
		Deno.writeFileSync(path, length);
		Deno.truncateSync(path, 2 ** 40);
		const error = new UserError(
			`Cannot read "${path}": it is not a safetensors file ` +
				`(its header would be 549.8 GB long, more than 100 MB)`,
		);
		assert.throws(() => readHeader(denoFile(path)), error);
	});
});

Deno.test("readHeader() names a file that is not there, and a folder", () => {
	const error = (path: string, problem: string) =>
		new UserError(`Cannot read "${path}": ${problem}`);
	assert.throws(() => readHeader(denoFile("no/x")), error("no/x", "there is no such file"));
	assert.throws(() => readHeader(denoFile(CASES)), error(CASES, "it is a folder"));
});

Deno.test("TensorReader reads unaligned tensors, also in pieces and into a given buffer", () => {
	const path = join(CASES, "good_odd_offset_f32.safetensors");
	using reader = new TensorReader(denoFile);
	const whole = Deno.readFileSync(path);
	for (const tensor of readHeader(denoFile(path)).tensors.values()) {
		const expected = whole.slice(tensor.offset, tensor.offset + tensor.bytes);
		assert.deepEqual(reader.readBytes(tensor), expected);
		const target = new Uint8Array(tensor.bytes + 3).fill(9);
		assert.deepEqual(reader.readBytes(tensor, target), expected);
		assert.deepEqual([...target], [...expected, 9, 9, 9]);
		for (const chunkBytes of [1, 3, 4, 1000]) {
			const buffers = new Set<ArrayBuffer>();
			const pieces = [...reader.readChunks(tensor, chunkBytes)].map((chunk) => chunk.length);
			const bytes: number[] = [];
			for (const chunk of reader.readChunks(tensor, chunkBytes)) {
				bytes.push(...chunk);
				buffers.add(chunk.buffer);
			}
			assert.deepEqual(bytes, [...expected]);
			assert.equal(buffers.size, 1);
			assert.equal(pieces.length, Math.ceil(tensor.bytes / chunkBytes));
		}
	}
});

Deno.test("TensorReader refuses a buffer that is too short, and a file that became shorter", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		writeSafetensors(path, [{ name: "a", dtype: "U8", shape: [9], data: new Uint8Array(9) }]);
		const a = readHeader(denoFile(path)).tensors.get("a")!;
		using reader = new TensorReader(denoFile);
		assert.throws(
			() => reader.readBytes(a, new Uint8Array(8)),
			new RangeError('Cannot read "a" into 8 bytes: it has 9'),
		);
		Deno.truncateSync(path, 70);
		assert.throws(
			() => reader.readBytes(a),
			new UserError(`Cannot read "${path}": it has become shorter since it was opened`),
		);
	});
});

/** The value of a binary float from its bits, by the definition of the format. */
function floatOf(bits: number, exponentBits: number, fractionBits: number): number {
	const sign = bits >> (exponentBits + fractionBits) ? -1 : 1;
	const exponent = (bits >> fractionBits) & (2 ** exponentBits - 1);
	const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits;
	const bias = 2 ** (exponentBits - 1) - 1;
	if (exponent === 2 ** exponentBits - 1) return fraction ? NaN : sign * Infinity;
	if (exponent === 0) return sign * fraction * 2 ** (1 - bias);
	return sign * (1 + fraction) * 2 ** (exponent - bias);
}

for (const [dtype, exponentBits, fractionBits] of [["F16", 5, 10], ["BF16", 8, 7]] as const) {
	Deno.test(`toFloat32() is exact for all 65536 values of ${dtype}, also unaligned`, () => {
		const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);
		const unaligned = new Uint8Array(2 * 65536 + 1);
		unaligned.set(new Uint8Array(patterns.buffer), 1);
		const values = toFloat32(unaligned.subarray(1), dtype);
		assert.equal(values.length, 65536);
		patterns.forEach((bits) => {
			const expected = floatOf(bits, exponentBits, fractionBits);
			assert.ok(Object.is(values[bits], expected), `${bits}: ${values[bits]} != ${expected}`);
		});
	});
}

Deno.test("toFloat32() gives the same numbers for one tensor in three dtypes", () => {
	const path = join(CASES, "good_float_edges.safetensors");
	using reader = new TensorReader(denoFile);
	const numbers = (name: string) => {
		const tensor = readHeader(denoFile(path)).tensors.get(name)!;
		assert.ok(isFloatDtype(tensor.dtype));
		return toFloat32(reader.readBytes(tensor), tensor.dtype);
	};
	const f32 = numbers("f32");
	assert.deepEqual(f32.subarray(0, 5), new Float32Array([0, -0, 1, -1.5, 65504]));
	assert.deepEqual([...numbers("f16")], [...new Float16Array(f32)]);
});

Deno.test("fromFloat32() gives back what was stored, and rounds to nearest, ties to even", () => {
	const stored = Float32Array.of(0, -0, 1.5, -0.0078125, 3, Infinity, -Infinity, NaN);
	for (const dtype of ["F16", "BF16", "F32", "F64"] as const) {
		assert.deepEqual(toFloat32(fromFloat32(stored, dtype), dtype), stored, dtype);
	}
	const steps = { F16: 2 ** -10, BF16: 2 ** -7 }; // between two numbers from 1 on
	for (const [dtype, step] of Object.entries(steps) as ["F16" | "BF16", number][]) {
		const near = [0.49, 0.5, 0.51, 1.5, 2.5].map((part) => 1 + part * step);
		const rounded = [0, 0, 1, 2, 2].map((part) => 1 + part * step);
		assert.deepEqual([...toFloat32(fromFloat32(Float32Array.from(near), dtype), dtype)], rounded);
	}
	const beyond = fromFloat32(Float32Array.of(-7e4, 3.4e38, 3.402e38), "F16");
	assert.deepEqual([...toFloat32(beyond, "F16")], [-Infinity, Infinity, Infinity]);
	assert.deepEqual([...toFloat32(fromFloat32(Float32Array.of(3.4e38), "BF16"), "BF16")], [
		Infinity,
	]);
});

Deno.test("toFloat32() rounds F64 to nearest and keeps the bits of F32", () => {
	const f64 = new Float64Array([0.1, -1e300, 2 ** -149, NaN]);
	const rounded = new Float32Array([Math.fround(0.1), -Infinity, 2 ** -149, NaN]);
	assert.deepEqual(toFloat32(new Uint8Array(f64.buffer), "F64"), rounded);
	const bits = new Uint32Array([0x7fa00001, 0x80000000, 1]); // a signalling NaN, -0, the smallest
	const kept = toFloat32(new Uint8Array(bits.buffer), "F32");
	assert.deepEqual(new Uint32Array(kept.buffer), bits);
});

const float32 = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);
const uint8 = (values: number[]) => new Uint8Array(values);
const SAMPLE: TensorToWrite[] = [
	{ name: "b", dtype: "F32", shape: [2, 2], data: float32(0, 1, 2, 3) },
	{ name: "a", dtype: "F32", shape: [1], data: float32(7) },
	{ name: "c.half", dtype: "F16", shape: [3], data: bytesOf(new Float16Array([1, 2, 3])) },
	{ name: "wide", dtype: "I64", shape: [], data: bytesOf(new BigInt64Array([-5n])) },
	{ name: "10", dtype: "U8", shape: [0, 4], data: [] },
	{ name: '9 "ü"', dtype: "U8", shape: [5], data: [[1, 2], [], [3, 4, 5]].map(uint8) },
	{ name: "bits", dtype: "U32", shape: [2], data: bytesOf(new Uint32Array([1, 0xffffffff])) },
];

Deno.test("writeSafetensors() writes the bytes that the reference implementation writes", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		const written = writeSafetensors(path, SAMPLE, { format: "pt" });
		// From `safetensors.numpy.save`, version 0.8.0.
		const sha256 = "8289605592b74203e72e6c31d9e485a7da03701c8258cb15e3ae7b6a12d56e6d";
		assert.deepEqual(written, { bytes: 495, sha256, headerBytes: 448 });
		const bytes = Deno.readFileSync(path);
		assert.equal(createHash("sha256").update(bytes).digest("hex"), sha256);
		assert.deepEqual(namesIn(folder), ["x.safetensors"]);
	});
});

Deno.test("writeSafetensors() aligns every tensor, whatever the order given", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		const first = writeSafetensors(path, SAMPLE);
		assert.deepEqual(writeSafetensors(path, SAMPLE.toReversed()), first);
		const { tensors, metadata } = readHeader(denoFile(path));
		assert.deepEqual(metadata, {});
		assert.deepEqual([...tensors.keys()], ["wide", "a", "b", "bits", "c.half", "10", '9 "ü"']);
		const width: Partial<Record<string, number>> = { I64: 8, F32: 4, U32: 4, F16: 2, U8: 1 };
		for (const { dtype, offset } of tensors.values()) assert.equal(offset % width[dtype]!, 0);
		using reader = new TensorReader(denoFile);
		const read = (name: string) => reader.readBytes(tensors.get(name) as StoredTensor);
		assert.deepEqual(read("b"), float32(0, 1, 2, 3));
		assert.deepEqual([...read('9 "ü"')], [1, 2, 3, 4, 5]);
	});
});

Deno.test("writeSafetensors() writes a file without tensors", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		assert.equal(writeSafetensors(path, []).bytes, 16);
		assert.equal(readHeader(denoFile(path)).tensors.size, 0);
	});
});

Deno.test("writeSafetensors() refuses wrong data and leaves the old file as it was", () => {
	inFolder((folder) => {
		const path = join(folder, "x.safetensors");
		writeSafetensors(path, SAMPLE);
		const before = Deno.readFileSync(path);
		const a = { name: "a", dtype: "F32", shape: [2, 2], data: new Uint8Array(12) } as const;
		const write = (...tensors: unknown[]) => () =>
			writeSafetensors(path, tensors as TensorToWrite[]);
		assert.throws(
			write(a),
			new RangeError('Tensor "a" gives 12 bytes, but F32 [2, 2] needs 16'),
		);
		assert.throws(
			write(a, a),
			new RangeError('Cannot write two tensors, or one and the metadata, named "a"'),
		);
		const failing = function* () {
			yield new Uint8Array(4);
			throw new Error("no more");
		};
		assert.throws(write({ ...a, data: failing() }), new Error("no more"));
		assert.deepEqual(Deno.readFileSync(path), before);
		assert.deepEqual(namesIn(folder), ["x.safetensors"]);
	});
});

Deno.test({
	name: "writeSafetensors() says so when the disk is full, and removes what it wrote (Linux)",
	ignore: Deno.build.os !== "linux",
	fn: () =>
		inFolder((folder) => {
			const path = join(folder, "x.safetensors");
			using _full = fillDiskFor(path);
			const tensor: TensorToWrite = {
				name: "a",
				dtype: "U8",
				shape: [12_345_678],
				data: new Uint8Array(12_345_678),
			};
			assert.throws(
				() => writeSafetensors(path, [tensor]),
				new UserError(`Cannot write "${path}": no space left on the device (needed 12.3 MB)`),
			);
			assert.deepEqual(namesIn(folder), []);
		}),
});

Deno.test("writeSafetensors() says why it cannot write", () => {
	inFolder((folder) => {
		const refused = (path: string, problem: string) =>
			assert.throws(
				() => writeSafetensors(path, SAMPLE),
				new UserError(`Cannot write "${path}": ${problem}`),
			);
		refused(join(folder, "none", "x"), "there is no such folder");
		Deno.mkdirSync(join(folder, "x"));
		refused(join(folder, "x"), "it is a folder");
		if (Deno.build.os === "linux") refused("/sys/x", "the folder is not writable");
	});
});

Deno.test("Checkpoint reads the tensors of shards and of a single file", () => {
	using sharded = Checkpoint.open(denoFolder(join(CASES, "shard_good")));
	const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
	assert.deepEqual(sharded.files, ["model.safetensors.index.json", ...shards]);
	assert.deepEqual([...sharded.tensors.keys()], ["a", "b"]);
	assert.ok(sharded.has("b") && !sharded.has("c"));
	assert.equal(sharded.readFloat32("b").length, 4);
	inFolder((folder) => {
		writeSafetensors(join(folder, "model.safetensors"), SAMPLE);
		using single = Checkpoint.open(denoFolder(folder));
		assert.deepEqual(single.files, ["model.safetensors"]);
		assert.deepEqual([...single.readFloat32("c.half")], [1, 2, 3]);
		assert.deepEqual([...single.readChunks("b", 16)], [float32(0, 1, 2, 3)]);
	});
});

Deno.test("Checkpoint names what is missing or not to be used", () => {
	inFolder((folder) => {
		const path = join(folder, "model.safetensors");
		assert.throws(
			() => Checkpoint.open(denoFolder(path)),
			new UserError(`Cannot open "${path}": there is no such folder`),
		);
		assert.throws(
			() => Checkpoint.open(denoFolder(folder)),
			new UserError(
				`Cannot open "${folder}": it has no weights as "model.safetensors" or ` +
					`"pytorch_model.bin", nor an index of such files`,
			),
		);
		writeSafetensors(path, SAMPLE);
		assert.throws(
			() => Checkpoint.open(denoFolder(path)),
			new UserError(`Cannot open "${path}": it is not a folder`),
		);
		using checkpoint = Checkpoint.open(denoFolder(folder));
		assert.throws(
			() => checkpoint.get("c.haft"),
			new UserError(
				`Cannot find tensor "c.haft" in "${folder}"; the nearest names are "c.half", "a", "wide"`,
			),
		);
		assert.throws(
			() => checkpoint.readFloat32("wide"),
			new UserError(
				`Cannot use tensor "wide" of "${path}": it is stored as I64; ` +
					`F16, BF16, F32 and F64 are supported`,
			),
		);
	});
});

Deno.test({
	name: "Checkpoint reads a real model alike from f32 and from bf16 shards (needs ../shared)",
	ignore: noShared,
	fn() {
		using whole = Checkpoint.open(denoFolder(join(SHARED, "models/stories260K-hf")));
		using shards = Checkpoint.open(denoFolder(join(SHARED, "models/stories260K-hf-bf16-sharded")));
		assert.deepEqual([...shards.tensors.keys()].sort(), [...whole.tensors.keys()].sort());
		for (const name of whole.tensors.keys()) {
			const rounded = shards.readFloat32(name);
			whole.readFloat32(name).forEach((value, i) => {
				assert.ok(Math.abs(value - rounded[i]) <= Math.abs(value) / 256, `${name}[${i}]`);
			});
		}
	},
});

function bytesOf(view: ArrayBufferView<ArrayBuffer>): Uint8Array {
	return new Uint8Array(view.buffer);
}

/** Runs a test in a fresh folder. */
function inFolder(test: (folder: string) => void): void {
	const folder = Deno.makeTempDirSync();
	try {
		test(folder);
	} finally {
		Deno.removeSync(folder, { recursive: true });
	}
}

function namesIn(folder: string): string[] {
	return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}

function exists(path: string): boolean {
	try {
		return Boolean(Deno.statSync(path));
	} catch {
		return false;
	}
}
