import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 as zlibCrc32 } from "node:zlib";
import { UserError } from "~/base/errors.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";
import { crc32 } from "~/storage/crc32.ts";
import { denoFile, denoFolder } from "~/storage/deno_folder.ts";
import { type Folder, readFile, readText } from "~/storage/folder.ts";
import { readJson } from "~/storage/json.ts";
import { MemoryFolder } from "~/storage/memory_folder.ts";
import { packedMetadata } from "~/storage/packed_metadata.ts";
import { readHeader, type TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { openCheckpoint } from "../open.ts";
import { uniforms } from "../reference/random.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

/** The files of a folder of the disk, in memory. */
function inMemory(folder: string): MemoryFolder {
	const files = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile());
	return new MemoryFolder(
		new Map(files.map(({ name }) => [name, Uint8Array.from(readFileSync(join(folder, name)))])),
		folder,
	);
}

const DATA = Uint8Array.from(new Uint8Array(uniforms(1000, 1).buffer));

function writeShards(folder: string): void {
	const tensors: TensorToWrite[] = ["a.signs", "b.signs"].map((name, i) => ({
		name,
		dtype: "U8",
		shape: [5 + i, 7],
		data: DATA.subarray(i, i + 7 * (5 + i)),
	}));
	const files = ["one.safetensors", "two.safetensors"];
	files.forEach((file, i) => {
		writeSafetensors(join(folder, file), [tensors[i]], packedMetadata([tensors[i]], 2));
	});
	const weight_map = Object.fromEntries(tensors.map(({ name }, i) => [name, files[i]]));
	writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
}

Deno.test("crc32() equals zlib's, however the bytes lie and are cut", () => {
	for (let start = 0; start < 9; start++) {
		for (const length of [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 63, 1000]) {
			const bytes = DATA.subarray(start, start + length);
			assert.equal(crc32(bytes), zlibCrc32(bytes));
			assert.equal(crc32(bytes, 0xdeadbeef), zlibCrc32(bytes, 0xdeadbeef));
			const cut = length >> 1;
			assert.equal(crc32(bytes.subarray(cut), crc32(bytes.subarray(0, cut))), zlibCrc32(bytes));
		}
	}
});

Deno.test("packedMetadata() gives the same checksums whoever computes them", () => {
	const tensors = [{ name: "a", data: DATA }, { name: "b", data: [DATA, DATA.subarray(3)] }];
	assert.deepEqual(packedMetadata(tensors, 2), packedMetadata(tensors, 2, zlibCrc32));
});

Deno.test("a checkpoint in memory reads and refuses as one of the disk does", () => {
	using folder = new TemporaryFolder();
	const { path } = folder;
	writeShards(path);
	const read = (source: Folder) => {
		using checkpoint = Checkpoint.open(source);
		const { files, tensors, folder } = checkpoint;
		const names = [...tensors.keys()];
		return { files, tensors, folder, bytes: names.map((name) => checkpoint.readBytes(name)) };
	};
	assert.deepEqual(read(inMemory(path)), read(denoFolder(path)));
	const bytes = readFileSync(join(path, "two.safetensors"));
	bytes[bytes.length - 1] ^= 1;
	writeFileSync(join(path, "two.safetensors"), bytes);
	const refusal = (source: Folder) => {
		try {
			read(source);
		} catch (error) {
			return error;
		}
	};
	const damage = refusal(denoFolder(path)) as UserError;
	assert.match(damage.message, /^Cannot read ".*two\.safetensors": tensor "b\.signs" has the/);
	assert.deepEqual(refusal(inMemory(path)), damage);
	writeFileSync(join(path, "two.safetensors"), bytes.subarray(0, -1));
	assert.deepEqual(refusal(inMemory(path)), refusal(denoFolder(path)));
	assert.deepEqual(
		refusal(new MemoryFolder(new Map())),
		new UserError(
			'Cannot open "memory": it has no weights as "model.safetensors" or "pytorch_model.bin", ' +
				`nor an index of such files`,
		),
	);
});

Deno.test("a file that ends early while it is read is refused, in memory too", () => {
	const whole = Uint8Array.of(1, 2, 3, 4);
	const file = new MemoryFolder(new Map([["x", whole]])).file("x");
	using open = file.open();
	const target = new Uint8Array(3);
	assert.deepEqual([open.read(2, target), ...target], [2, 3, 4, 0]);
	assert.deepEqual([open.read(4, target), open.size], [0, 4]);
});

Deno.test("folders of the disk and of memory say what they have", () => {
	using folder = new TemporaryFolder();
	mkdirSync(folder.file("sub"));
	writeFileSync(folder.file("b.json"), '{"a": 1}');
	writeFileSync(folder.file("a.txt"), "\uFEFFtext");
	const disk = denoFolder(folder.path);
	const memory = inMemory(folder.path);
	assert.deepEqual(disk.names(), ["a.txt", "b.json", "sub"]);
	assert.deepEqual(memory.names(), ["a.txt", "b.json"]);
	for (const source of [disk, memory]) {
		assert.deepEqual(
			["a.txt", "sub", "a.txt/x", "c"].map((name) => source.has(name)),
			[true, false, false, false],
		);
		assert.equal(source.file("a.txt").path, folder.file("a.txt"));
		assert.equal(readText(source.file("a.txt")), "\uFEFFtext");
		assert.deepEqual(readJson(source.file("b.json")), { a: 1 });
		const missing = folder.file("c");
		const reason = `Cannot read "${missing}": no such file or folder`;
		assert.throws(() => readFile(source.file("c")), new UserError(reason));
		const header = `Cannot read "${missing}": there is no such file`;
		assert.throws(() => readHeader(source.file("c")), new UserError(header));
	}
	assert.throws(
		() => readFile(denoFile(folder.path)),
		new UserError(`Cannot read "${folder.path}": it is a folder`),
	);
	for (
		const [path, problem] of [["no", "there is no such folder"], ["a.txt", "it is not a folder"]]
	) {
		const place = folder.file(path);
		assert.throws(() => openCheckpoint(place), new UserError(`Cannot open "${place}": ${problem}`));
	}
});
