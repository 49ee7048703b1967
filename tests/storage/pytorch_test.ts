import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFile, denoFolder } from "../../storage/deno_folder.ts";
import { readPytorch } from "../../storage/pytorch.ts";
import { type StoredTensor, TensorReader } from "../../storage/safetensors.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { fixtureFolder } from "../fixture.ts";
import { seededRandom } from "../reference/random.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import {
	bytes,
	call,
	dict,
	entriesOf,
	type Entry,
	global,
	integer,
	legacy,
	little,
	NONE,
	pickle,
	storage,
	tensor,
	text,
	tuple,
	zip,
} from "./pytorch_file.ts";

const DATA = fixtureFolder("pytorch");
const SHARED = join(import.meta.dirname!, "../../../shared/fixtures");
const noShared = !existsSync(join(SHARED, "pytorch-checkpoints"));

/** PyTorch's names of element types and ours. */
const DTYPES: Record<string, string> = {
	bool: "BOOL",
	uint8: "U8",
	int8: "I8",
	int16: "I16",
	int32: "I32",
	int64: "I64",
	float16: "F16",
	bfloat16: "BF16",
	float32: "F32",
	float64: "F64",
	complex64: "C64",
	uint16: "U16",
	uint32: "U32",
	uint64: "U64",
	float8_e4m3fn: "F8_E4M3",
	float8_e5m2: "F8_E5M2",
};

type Tensors = Map<string, { tensor: StoredTensor; content: Uint8Array }>;

/** Reads all tensors of a file. */
function readAll(path: string): Tensors {
	using reader = new TensorReader(denoFile);
	return new Map(
		readPytorch(denoFile(path)).entries()
			.map(([name, tensor]) => [name, { tensor, content: reader.readBytes(tensor) }]),
	);
}

/** Writes a file into a fresh folder and reads its tensors there. */
function tensorsOf(file: Uint8Array): Tensors {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "x.bin");
	Deno.writeFileSync(path, file);
	return readAll(path);
}

/** What is said of a file after `Cannot read "FILE": `; it must be refused. */
function refusal(file: Uint8Array): string {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "x.bin");
	Deno.writeFileSync(path, file);
	const start = `Cannot read "${path}": `;
	try {
		readPytorch(denoFile(path));
	} catch (error) {
		if (!(error instanceof UserError) || !error.message.startsWith(start)) throw error;
		return error.message.slice(start.length);
	}
	throw new assert.AssertionError({ message: "The file was not refused" });
}

/** A checkpoint in the zip format. */
function zipOf(state: Record<string, Uint8Array>, storages: Record<string, Uint8Array> = {}) {
	return zip(entriesOf(pickle(dict(state)), storages));
}

const float32 = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);
const SIX = float32(0, 1, 2, 3, 4, 5);
const sixOf = (key = "0") => storage("FloatStorage", key, 6);

for (const file of ["zip.bin", "zip-protocol-5.bin", "legacy.bin"]) {
	Deno.test(`${file}, written by PyTorch, is read bit for bit`, () => {
		const expected: Record<string, { dtype: string; shape: number[]; bytes: string }> = JSON.parse(
			Deno.readTextFileSync(join(DATA, "expected.json")),
		);
		const tensors = readPytorch(denoFile(join(DATA, file)));
		assert.deepEqual([...tensors.keys()], Object.keys(expected));
		using reader = new TensorReader(denoFile);
		for (const [name, { dtype, shape, bytes }] of Object.entries(expected)) {
			const tensor = tensors.get(name)!;
			assert.deepEqual([tensor.dtype, tensor.shape], [DTYPES[dtype], shape], name);
			assert.equal(reader.readBytes(tensor).toHex(), bytes, name);
			for (const chunkBytes of [1, 7, 8, 12, 50, 1000]) {
				const chunks = reader.readChunks(tensor, chunkBytes).map((chunk) => chunk.toHex());
				assert.equal([...chunks].join(""), bytes, `${name} in ${chunkBytes}`);
			}
		}
		const { transposed, weight, tied } = Object.fromEntries(tensors);
		assert.deepEqual(transposed.strides, [1, 10]);
		assert.equal(transposed.offset, tied.offset); // one storage
		assert.deepEqual(Object.keys(weight), ["name", "file", "dtype", "shape", "offset", "bytes"]);
	});
}

Deno.test("every element type is read", () => {
	const types: [storage: string, dtype: string, bytes: number][] = [
		["BoolStorage", "BOOL", 1],
		["ByteStorage", "U8", 1],
		["CharStorage", "I8", 1],
		["ShortStorage", "I16", 2],
		["IntStorage", "I32", 4],
		["LongStorage", "I64", 8],
		["HalfStorage", "F16", 2],
		["BFloat16Storage", "BF16", 2],
		["FloatStorage", "F32", 4],
		["DoubleStorage", "F64", 8],
		["ComplexFloatStorage", "C64", 8],
		["UntypedStorage", "U8", 1],
	];
	for (const [type, dtype, width] of types) {
		const content = Uint8Array.from({ length: 3 * width }, (_, i) => i + 1);
		const found = tensorsOf(zipOf({ a: tensor(storage(type, "0", 3), [3]) }, { 0: content }));
		assert.equal(found.get("a")!.tensor.dtype, dtype);
		assert.deepEqual(found.get("a")!.content, content);
	}
});

/** The elements of a view one by one, of four bytes each. */
function elementsOf(storage: Uint8Array, shape: number[], strides: number[], offset: number) {
	let elements = [offset];
	shape.forEach((size, i) => {
		const steps = Array.from({ length: size }, (_, index) => index * strides[i]);
		elements = elements.flatMap((start) => steps.map((step) => start + step));
	});
	return Uint8Array.from(elements.flatMap((e) => [...storage.slice(4 * e, 4 * e + 4)]));
}

Deno.test("views of all kinds are read in their order: whole, by rows and in chunks", () => {
	using folder = new TemporaryFolder();
	// Large enough that one read does not take in the whole storage.
	const content = Uint8Array.from({ length: 4 * 40_000 }, (_, i) => (i * 7919 >> 3) % 251);
	const views: Record<string, [shape: number[], strides: number[], offset: number]> = {
		whole: [[40_000], [1], 0],
		part: [[100, 3], [3, 1], 5],
		scalar: [[], [], 39_999],
		window: [[100, 30], [200, 1], 17],
		wideWindow: [[2, 18_000], [20_000, 1], 5],
		column: [[200, 1], [200, 1], 3],
		everyOther: [[20_000], [2], 1],
		transposed: [[200, 200], [1, 200], 0],
		permuted: [[20, 40, 50], [1, 1000, 20], 0],
		"inner transposed": [[10, 8, 9], [72, 1, 8], 100],
		diagonal: [[200], [201], 0],
		reversedSizes: [[3, 1, 5], [1, 999, 7], 2],
		"only row": [[1, 40], [12_345, 1], 9],
		"row with gaps": [[1, 40], [12_345, 3], 9],
		empty: [[4, 0], [1, 1], 0],
		repeated: [[3, 4], [0, 1], 6],
		overlapping: [[3, 13_000], [100, 2], 0], // goes back in the file for each row
	};
	const state = dict(Object.fromEntries(
		Object.entries(views).map(([name, [shape, strides, offset]]) => [
			name,
			tensor(storage("FloatStorage", "s", 40_000), shape, strides, offset),
		]),
	));
	Deno.writeFileSync(
		join(folder.path, "pytorch_model.bin"),
		zip(entriesOf(pickle(state), { s: content })),
	);
	using checkpoint = Checkpoint.open(denoFolder(folder.path));
	assert.deepEqual([...checkpoint.tensors.keys()], Object.keys(views));
	for (const [name, [shape, strides, offset]] of Object.entries(views)) {
		const expected = elementsOf(content, shape, strides, offset);
		const same = (found: Uint8Array, wanted: Uint8Array, what: string) =>
			assert.ok(found.toHex() === wanted.toHex(), `${name}: ${what}`);
		same(checkpoint.readBytes(name), expected, "whole");
		same(
			new Uint8Array(checkpoint.readFloat32(name).buffer),
			expected,
			"as f32",
		);
		for (const chunkBytes of [4, 36, 1000, 65_536, 1e9]) {
			const pieces: number[] = [];
			let pieceBytes = 0;
			for (const chunk of checkpoint.readChunks(name, chunkBytes)) {
				for (const byte of chunk) pieces.push(byte);
				pieceBytes = Math.max(pieceBytes, chunk.length);
			}
			same(Uint8Array.from(pieces), expected, `in chunks of ${chunkBytes}`);
			assert.ok(pieceBytes <= chunkBytes);
		}
		if (shape.length === 0 || expected.length === 0) continue;
		const rowBytes = expected.length / shape[0];
		for (const [first, rows] of [[0, shape[0]], [shape[0] - 1, 1], [shape[0] >> 1, 1], [0, 0]]) {
			const wanted = expected.subarray(first * rowBytes, (first + rows) * rowBytes);
			const chunks = checkpoint.readChunks(name, 1 << 20, { first, rows });
			same(
				Uint8Array.from([...chunks].flatMap((chunk) => [...chunk])),
				wanted,
				`rows from ${first}`,
			);
		}
	}
	const rowMajor = ["whole", "part", "scalar", "empty", "only row"];
	for (const [name, tensor] of checkpoint.tensors) {
		assert.equal(tensor.strides === undefined, rowMajor.includes(name), name);
	}
});

Deno.test("tensors share storages, and parameters and attributes are read through", () => {
	const parameter = call(global("torch._utils", "_rebuild_parameter"), tensor(sixOf(), [6]), NONE);
	const old = call(
		global("torch._utils", "_rebuild_tensor"),
		sixOf(),
		integer(2),
		call(global("torch", "Size"), tuple(integer(2))),
		tuple(integer(1)),
	);
	const state = bytes(dict({ a: tensor(sixOf(), [2, 3]), parameter, old }), dict({ x: NONE }), "b");
	const found = tensorsOf(zip(entriesOf(pickle(state), { 0: SIX })));
	assert.deepEqual(found.get("a")!.content, SIX);
	assert.deepEqual(found.get("parameter")!.content, SIX);
	assert.deepEqual(found.get("old")!.content, float32(2, 3));
	assert.deepEqual(new Set(found.values().map(({ tensor }) => tensor.file)).size, 1);
});

Deno.test("what is no tensor is left out, and any text may be a name", () => {
	const names = ["", "__proto__", "层.0", "a b"];
	const tensors = names.map((name) => [name, tensor(sixOf(), [6])] as const);
	const rest = { step: integer(7), none: NONE, words: tuple(text("x")), more: dict({}) };
	const file = zipOf({ ...Object.fromEntries(tensors), ...rest }, { 0: SIX });
	assert.deepEqual([...tensorsOf(file).keys()], names);
	assert.equal(tensorsOf(zipOf({})).size, 0);
	const nothing = tensor(storage("FloatStorage", "0", 0), [0, 9]);
	assert.equal(tensorsOf(zipOf({ nothing }, { 0: bytes() })).get("nothing")!.content.length, 0);
});

Deno.test("zip archives of the 64-bit form, with a comment and without a byte order are read", () => {
	const entries = entriesOf(pickle(dict({ a: tensor(sixOf(), [6]) })), { 0: SIX });
	for (const options of [{ wide: true }, { comment: "written by hand" }, {}]) {
		assert.deepEqual(tensorsOf(zip(entries, options)).get("a")!.content, SIX);
	}
	const without = entries.filter(({ name }) => !name.endsWith("byteorder"));
	assert.deepEqual(tensorsOf(zip(without)).get("a")!.content, SIX);
});

Deno.test("a storage that lies beyond 4 GiB is read", () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "x.bin");
	const start = 5 * 2 ** 30;
	const state = pickle(dict({ a: tensor(sixOf(), [6]) }));
	const archive = zip(entriesOf(state, { 0: SIX }), { wide: true, start });
	Deno.writeFileSync(path, bytes("PK"));
	using file = Deno.openSync(path, { write: true });
	file.seekSync(start, Deno.SeekMode.Start); // leaves a hole that takes no space on the disk
	file.writeSync(archive);
	using reader = new TensorReader(denoFile);
	const found = readPytorch(denoFile(path)).get("a")!;
	assert.ok(found.offset > start);
	assert.deepEqual(reader.readBytes(found), SIX);
});

Deno.test("the format before zip is read", () => {
	const state = pickle(dict({
		a: tensor(storage("FloatStorage", "94299", 6, NONE), [2, 3]),
		b: tensor(storage("HalfStorage", "7", 4, NONE), [2, 2], [1, 2]),
		c: tensor(storage("FloatStorage", "94299", 6, NONE), [2], [1], 3),
	}));
	const halves = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
	const found = tensorsOf(legacy(state, {
		7: { elements: 4, content: halves },
		94299: { elements: 6, content: SIX },
	}));
	assert.deepEqual(found.get("a")!.content, SIX);
	assert.deepEqual(found.get("b")!.content, Uint8Array.of(1, 2, 5, 6, 3, 4, 7, 8));
	assert.deepEqual(found.get("c")!.content, float32(3, 4));
});

Deno.test("a hostile pickle is refused by name, before its other faults", () => {
	const system = call(global("posix", "system"), text("touch x"));
	const problem = 'its pickle wants "posix.system", which is not part of weights and might run a ' +
		"program; use weights that are saved as safetensors";
	const state = { a: tensor(sixOf("none"), [6]), b: system };
	assert.equal(refusal(zipOf(state)), problem);
	assert.equal(refusal(legacy(pickle(dict(state)), {})), problem);
	const hidden = bytes(system, "0", dict({})); // its value is dropped
	assert.equal(refusal(zip(entriesOf(pickle(hidden), {}))), problem);
});

Deno.test("tensors that are not as their storages are refused", () => {
	const check = (value: Uint8Array, problem: string) =>
		assert.equal(refusal(zipOf({ a: value }, { 0: SIX })), problem);
	const undescribed = 'tensor "a" is not described by a storage, a shape and strides';
	check(tensor(sixOf(), [-1]), undescribed);
	check(tensor(sixOf(), [6], [-1], 5), undescribed);
	check(tensor(sixOf(), [6], [1], -1), undescribed);
	check(tensor(sixOf(), [2, 3], [1]), undescribed);
	check(tensor(sixOf(), [2n ** 60n], [0]), undescribed);
	check(tensor(NONE, [6]), undescribed);
	check(tensor(sixOf(), Array(65).fill(1)), undescribed);
	check(call(global("torch._utils", "_rebuild_tensor_v2")), undescribed);
	const v3 = global("torch._utils", "_rebuild_tensor_v3");
	const sizes = tuple(integer(6));
	check(call(v3, sixOf(), integer(0), sizes, sizes, NONE, NONE, text("float32")), undescribed);

	const beyond = (shape: string, strides: string, offset: number) =>
		`tensor "a", F32 [${shape}] with strides [${strides}] from element ${offset}, reaches beyond ` +
		`its storage of 24 bytes`;
	check(tensor(sixOf(), [7]), beyond("7", "1", 0));
	check(tensor(sixOf(), [6], [1], 1), beyond("6", "1", 1));
	check(tensor(sixOf(), [], [], 6), beyond("", "", 6));
	check(tensor(sixOf(), [2, 3], [4, 1]), beyond("2, 3", "4, 1", 0));
	check(tensor(sixOf(), [2, 2], [2 ** 52, 1]), beyond("2, 2", "4503599627370496, 1", 0));
	check(
		tensor(sixOf(), [2 ** 40, 2 ** 20], [0, 0]),
		'tensor "a", F32 [1099511627776, 1048576] with strides [0, 0] from element 0, repeats ' +
			"elements of its storage; save it as contiguous",
	);
	const endless = tensor(sixOf(), Array(30).fill(2 ** 52), Array(30).fill(0)); // 2¹⁵⁶⁰ elements
	assert.match(refusal(zipOf({ endless }, { 0: SIX })), /, repeats elements of its storage; /);
	check(
		tensor(sixOf(), [6], [1], 0, dict({ neg: bytes(0x88) })),
		'tensor "a" is stored as its conjugate or negative; save it resolved',
	);

	const short = (elements: string) =>
		`its entry "x/data/0" has 24 bytes, but ${elements}; download it again`;
	check(tensor(storage("FloatStorage", "0", 5), [5]), short("5 × F32 need 20"));
	check(tensor(storage("DoubleStorage", "0", 6), [6]), short("6 × F64 need 48"));
	const huge = 2 ** 52;
	check(tensor(storage("ByteStorage", "0", huge), [huge]), short(`${huge} × U8 need ${huge}`));
	check(tensor(sixOf("1"), [6]), 'it lacks its entry "x/data/1"; download it again');
	check(
		tensor(sixOf("../../y/data/0"), [6]),
		'it lacks its entry "x/data/../../y/data/0"; download it again',
	);
	const noStorage = "its pickle refers to something other than a storage of numbers";
	check(tensor(storage("FloatStorage", "0", -6), [6]), noStorage);
	check(tensor(storage("FloatStorage", "0", 2n ** 60n), [6]), noStorage);
	check(bytes(text("0"), "Q"), noStorage);
	check(bytes(tuple(text("module"), text("x")), "Q"), noStorage);
	check(
		tensor(storage("FloatStorage", "0", 6, tuple(text("1"), integer(0), integer(6))), [6]),
		'its storage "0" is a part of another one, as in files of PyTorch before 0.4; ' +
			"save it with a newer version",
	);
});

Deno.test("what holds no tensors by name is refused", () => {
	const list = zip(entriesOf(pickle(tuple(tensor(sixOf(), [6]))), { 0: SIX }));
	assert.equal(refusal(list), "it holds no dictionary of tensors; save a state_dict()");
	const inner = dict({ a: tensor(sixOf(), [6]) });
	assert.equal(
		refusal(zipOf({ epoch: integer(3), state_dict: inner }, { 0: SIX })),
		'its dictionary holds no tensors, but "epoch", "state_dict"; save the state_dict() alone',
	);
	const numbered = pickle(bytes("}", integer(1), tensor(sixOf(), [6]), "s"));
	assert.equal(
		refusal(zip(entriesOf(numbered, { 0: SIX }))),
		"the name of a tensor in it is not a string",
	);
	const pairs = call(global("collections", "OrderedDict"), tuple());
	assert.equal(
		refusal(zip(entriesOf(pickle(pairs), {}))),
		"its pickle is one of Python 2; save it again with Python 3",
	);
});

Deno.test("archives that PyTorch would not write are refused", () => {
	const entries = entriesOf(pickle(dict({ a: tensor(sixOf(), [6]) })), { 0: SIX });
	const withChange = (name: string, change: Partial<Entry>) =>
		zip(entries.map((entry) => entry.name === name ? { ...entry, ...change } : entry));
	const check = (file: Uint8Array, problem: string) => assert.equal(refusal(file), problem);
	const unusual = (what: string) =>
		`its entry "x/data/0" is ${what}, which torch.save() does not do; download the original file`;
	check(withChange("x/data/0", { method: 8 }), unusual("compressed"));
	check(withChange("x/data/0", { flags: 1 }), unusual("encrypted"));
	const byteOrder = new TextEncoder().encode("big");
	check(
		withChange("x/byteorder", { content: byteOrder }),
		'its byte order is "big", but only "little" is supported; save it on another computer',
	);
	const pickles = (count: number) =>
		`it is a zip archive with ${count} entries "*/data.pkl", not a file of torch.save()`;
	check(zip([]), pickles(0));
	check(zip([{ name: "data.pkl", content: pickle(dict({})) }]), pickles(0));
	check(zip([...entries, { name: "y/data.pkl", content: bytes() }]), pickles(2));
	check(
		zip([...entries, entries[0]]),
		'it is damaged (two entries are named "x/data.pkl"); download it again',
	);
	const damaged = (problem: string) => `it is damaged (${problem}); download it again`;
	check(withChange("x/data/0", { size: 1e6 }), damaged('"x/data/0" reaches beyond the entries'));
	check(withChange("x/data/0", { packed: 23 }), damaged('"x/data/0" has two sizes'));
	check(withChange("x/data/0", { offset: 1 }), damaged('no "x/data/0" where it should be'));
	check(withChange("x/data/0", { offset: 1e9 }), damaged('no "x/data/0" where it should be'));
	check(
		withChange("x/data.pkl", { size: 4e9 }),
		damaged('"x/data.pkl" reaches beyond the entries'),
	);
	const wide = zip(entries, { wide: true });
	const end = wide.length - 22 - 20;
	check(wide.with(end + 15, 1), damaged("the end of its directory is misplaced"));
	check(wide.with(end - 56, 1), damaged("the end of its directory is misplaced"));
	check(wide.with(end - 8 + 6, 1), damaged("its directory is misplaced"));
	check(wide.with(end - 24, 9), damaged("its directory has 4 of 9 entries"));
});

Deno.test("a pickle or directory of many megabytes is not read", () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "x.bin");
	const archive = zip([{ name: "x/data.pkl", content: bytes(), size: 40_000_000 }], {
		start: 50_000_000,
	});
	// The entry is said to start where the file does, before a hole.
	Deno.writeFileSync(path, zip([{ name: "x/data.pkl", content: bytes() }]).slice(0, 64));
	using file = Deno.openSync(path, { write: true });
	file.seekSync(50_000_000, Deno.SeekMode.Start);
	const directory = archive.length - 22 - 46 - "x/data.pkl".length;
	archive.set(little(0, 4), directory + 42);
	file.writeSync(archive);
	assert.throws(
		() => readPytorch(denoFile(path)),
		new UserError(
			`Cannot read "${path}": its data.pkl has 40.0 MB, too many for a list of tensors`,
		),
	);
	file.seekSync(0, Deno.SeekMode.End);
	const ending = archive.slice(-22);
	ending.set(little(40_000_000, 4), 12);
	ending.set(little(0, 4), 16);
	file.writeSync(ending);
	assert.throws(
		() => readPytorch(denoFile(path)),
		new UserError(
			`Cannot read "${path}": its zip directory has 40000000 bytes, too many for weights`,
		),
	);
});

Deno.test("a damaged file of the format before zip is refused", () => {
	const a = tensor(storage("FloatStorage", "5", 6, NONE), [6]);
	const whole = { 5: { elements: 6, content: SIX } };
	const state = pickle(dict({ a }));
	const check = (file: Uint8Array, problem: string) => assert.equal(refusal(file), problem);
	check(
		legacy(state, { 5: { elements: 7, content: SIX } }),
		`its storage "5" has 7 elements at byte ${legacy(state, whole).length - 32}, but should ` +
			`have 6; download it again`,
	);
	check(legacy(state, whole).slice(0, -1), "it lacks 1 byte; download it again");
	check(legacy(state, {}), 'it lacks its storage "5"; download it again');
	check(
		legacy(state, { 6: { elements: 6, content: SIX } }),
		"it lists a storage that it does not contain; download it again",
	);
	const twice = tensor(storage("FloatStorage", "5", 5, NONE), [5]);
	check(
		legacy(pickle(dict({ twice, a })), whole),
		'it lacks its storage "5"; download it again',
	);
	check(
		legacy(state, whole, { littleEndian: false }),
		'its byte order is "big", but only "little" is supported; save it on another computer',
	);
	check(
		legacy(state, whole, { version: 1002 }),
		"it has an unknown version of PyTorch's format before zip; save it with a newer PyTorch",
	);
	check(
		pickle(dict({ a: text("x") })),
		"it is a pickle, but not of torch.save(); use weights that are saved as safetensors",
	);
});

Deno.test("what is no checkpoint at all is refused", () => {
	const check = (content: string, problem: string) =>
		assert.equal(refusal(bytes(content)), problem);
	check(
		"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
		"it is a Git LFS pointer, not the file itself; run `git lfs pull`",
	);
	check(
		"<!DOCTYPE html><p>404",
		"it is an HTML page, perhaps an error message; download it again",
	);
	const start = "that do not start as a file of torch.save(); download it again";
	check("", `it has 0 bytes ${start}`);
	check("weights", `it has 7 bytes ${start}`);
	check("PK", "it is a zip archive without its end; download it again");
	const error = (path: string, problem: string) =>
		new UserError(`Cannot read "${path}": ${problem}`);
	assert.throws(() => readPytorch(denoFile("no/x")), error("no/x", "there is no such file"));
	assert.throws(() => readPytorch(denoFile(DATA)), error(DATA, "it is a folder"));
});

/** A small checkpoint in each format. */
function smallFiles(): Record<string, Uint8Array<ArrayBuffer>> {
	const stateOf = (...more: Uint8Array[]) =>
		pickle(dict({
			a: tensor(storage("FloatStorage", "0", 6, ...more), [2, 3]),
			b: tensor(storage("FloatStorage", "0", 6, ...more), [3, 2], [1, 3]),
		}));
	return {
		zip: zip(entriesOf(stateOf(), { 0: SIX })),
		"64-bit zip": zip(entriesOf(stateOf(), { 0: SIX }), { wide: true }),
		legacy: legacy(stateOf(NONE), { 0: { elements: 6, content: SIX } }),
	};
}

for (const [format, file] of Object.entries(smallFiles())) {
	Deno.test(`every beginning of a file is refused (${format})`, () => {
		using folder = new TemporaryFolder();
		const path = join(folder.path, "x.bin");
		for (let length = 0; length < file.length; length++) {
			Deno.writeFileSync(path, file.subarray(0, length));
			assert.throws(() => readPytorch(denoFile(path)), UserError, `${length} bytes`);
		}
		assert.equal(tensorsOf(file).size, 2);
	});

	Deno.test(`a file with some bytes changed is read or refused, and nothing else (${format})`, () => {
		using folder = new TemporaryFolder();
		const path = join(folder.path, "x.bin");
		const random = seededRandom(5);
		const below = (end: number) => Math.floor(random() * end);
		let read = 0;
		const rounds = 1500;
		for (let round = 0; round < rounds; round++) {
			const changed = file.slice();
			for (let count = 1 + below(3); count > 0; count--) {
				changed[below(file.length)] = random() < 0.3 ? below(256) : file[below(file.length)];
			}
			Deno.writeFileSync(path, changed);
			try {
				readAll(path);
				read++;
			} catch (error) {
				if (!(error instanceof UserError)) throw error;
			}
		}
		assert.ok(read > 50 && read < rounds - 50, `${read} of ${rounds} were read`);
	});
}

Deno.test("Checkpoint opens pytorch_model.bin, alone or in shards, after safetensors", () => {
	using folder = new TemporaryFolder();
	const write = (name: string, content: Uint8Array) =>
		Deno.writeFileSync(join(folder.path, name), content);
	const open = () => {
		using checkpoint = Checkpoint.open(denoFolder(folder.path));
		const names = [...checkpoint.tensors.keys()];
		return { files: checkpoint.files, values: names.map((name) => checkpoint.readFloat32(name)) };
	};
	const [single, index] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
	const shards = [1, 2].map((n) => `pytorch_model-0000${n}-of-00002.bin`);
	write(single, zipOf({ a: tensor(sixOf(), [6]) }, { 0: SIX }));
	assert.deepEqual(open(), { files: [single], values: [new Float32Array(SIX.buffer)] });

	shards.forEach((name, i) =>
		write(name, zipOf({ [`t${i}`]: tensor(sixOf(), [1], [1], i + 1) }, { 0: SIX }))
	);
	const writeIndex = (weight_map: Record<string, string>) =>
		write(index, bytes(JSON.stringify({ metadata: {}, weight_map })));
	writeIndex({ t1: shards[1], t0: shards[0] });
	assert.deepEqual(open().files, [single]); // wins over an index
	Deno.removeSync(join(folder.path, single));
	const values = [Float32Array.of(2), Float32Array.of(1)];
	assert.deepEqual(open(), { files: [index, ...shards], values });

	const refused = (problem: string) => assert.throws(open, new UserError(problem));
	writeIndex({ t0: shards[1] });
	assert.throws(
		() => {
			using checkpoint = Checkpoint.open(denoFolder(folder.path));
			checkpoint.get("t0");
		},
		new UserError(
			`Cannot open "${folder.path}": "${
				shards[1]
			}" has no tensor "t0", which the index puts there; ` +
				`download both again`,
		),
	);
	writeIndex({ t0: "other.bin" });
	refused(
		`Cannot open "${folder.path}": the index puts "t0" in "other.bin", which is not there; ` +
			`download the missing file`,
	);
	writeIndex({ t0: "../x.bin" });
	refused(
		`Cannot read "${
			join(folder.path, index)
		}": it puts "t0" in "../x.bin", which is not the name ` +
			`of a file in its folder`,
	);

	writeSafetensors(join(folder.path, "model.safetensors"), [
		{ name: "s", dtype: "F32", shape: [6], data: SIX },
	]);
	assert.deepEqual(open().files, ["model.safetensors"]);
});

/** The folders of checkpoints that PyTorch wrote, and the models that they were made from. */
const FIXTURES = {
	single: "opt",
	legacy: "opt",
	sharded: "opt",
	"shared-storage": "llama-gqa-tied",
	parameters: "qwen2",
};
for (const [name, model] of Object.entries(FIXTURES)) {
	Deno.test({
		name: `a whole model of PyTorch is read bit for bit: ${name} (needs ../shared)`,
		ignore: noShared,
		fn() {
			using checkpoint = Checkpoint.open(denoFolder(join(SHARED, "pytorch-checkpoints", name)));
			using original = Checkpoint.open(denoFolder(join(SHARED, "architectures", model)));
			assert.ok(original.tensors.size > 10);
			const sha256 = (content: Uint8Array) => createHash("sha256").update(content).digest("hex");
			for (const [tensor, { dtype, shape }] of original.tensors) {
				const found = checkpoint.get(tensor);
				assert.deepEqual(found.shape, shape);
				assert.equal(found.dtype, name === "parameters" ? "F32" : dtype);
				const expected = name === "parameters"
					? new Uint8Array(original.readFloat32(tensor).buffer)
					: original.readBytes(tensor);
				assert.equal(sha256(checkpoint.readBytes(tensor)), sha256(expected), tensor);
			}
			const others = [...checkpoint.tensors.keys()].filter((tensor) => !original.has(tensor));
			assert.deepEqual(others, name === "shared-storage" ? ["lm_head.weight"] : []);
			if (name !== "shared-storage") return;
			const [head, embedding] = ["lm_head", "model.embed_tokens"]
				.map((module) => sha256(checkpoint.readBytes(`${module}.weight`)));
			assert.equal(head, embedding);
			assert.ok(checkpoint.get("model.layers.0.mlp.gate_proj.weight").strides);
		},
	});
}

Deno.test({
	name: "PyTorch's hostile checkpoint is refused and not run (needs ../shared)",
	ignore: noShared,
	fn() {
		const folder = join(SHARED, "pytorch-checkpoints/hostile");
		assert.throws(
			() => Checkpoint.open(denoFolder(folder)),
			new UserError(
				`Cannot read "${join(folder, "pytorch_model.bin")}": its pickle wants "posix.system", ` +
					`which is not part of weights and might run a program; use weights that are saved as ` +
					`safetensors`,
			),
		);
		const names = [Deno.cwd(), folder].flatMap((path) => readdirSync(path));
		assert.ok(!names.includes("hostile-pickle-was-run"));
	},
});
