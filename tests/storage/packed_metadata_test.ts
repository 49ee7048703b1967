import assert from "node:assert/strict";
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { UserError } from "~/base/errors.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";
import { denoFile } from "~/storage/deno_folder.ts";
import { FORMAT_VERSION, packedMetadata } from "~/storage/packed_metadata.ts";
import { readHeader, TensorReader, type TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { openCheckpoint } from "../open.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

function tensor(name: string, shape: number[], seed: number): TensorToWrite {
	const data = new Uint8Array(shape.reduce((product, size) => product * size, 1))
		.map((_, i) => i * 7 + seed);
	return { name, dtype: "U8", shape, data };
}

const TENSORS = [tensor("a.signs", [3, 5], 1), tensor("embed.weight", [7, 11], 2)];

/** Writes the tensors with their checksums, then changes what `metadata` says. */
function writeWith(folder: string, metadata: Record<string, string | undefined> = {}): string {
	const path = join(folder, "model.safetensors");
	const all = { ...packedMetadata(TENSORS, 2), ...metadata };
	const given = Object.entries(all).filter(([, value]) => value !== undefined);
	writeSafetensors(path, TENSORS, Object.fromEntries(given) as Record<string, string>);
	return path;
}

/** Turns one bit of a tensor round, `byte` bytes after its start. */
function flip(path: string, name: string, byte: number): void {
	const content = readFileSync(path);
	content[readHeader(denoFile(path)).tensors.get(name)!.offset + byte] ^= 4;
	writeFileSync(path, content);
}

/** What is said of a tensor whose bit was turned round. */
function damage(path: string, name: string): UserError {
	const { offset, bytes, checksum } = readHeader(denoFile(path)).tensors.get(name)!;
	const found = crc32(readFileSync(path).subarray(offset, offset + bytes));
	const text = (sum: number) => sum.toString(16).padStart(8, "0");
	return new UserError(
		`Cannot read "${path}": tensor "${name}" has the checksum ${text(found)}, not ` +
			`${text(checksum!)}; the file is damaged`,
	);
}

Deno.test("a packed file says its version and the CRC-32 of each tensor", () => {
	using folder = new TemporaryFolder();
	const { tensors, metadata } = readHeader(denoFile(writeWith(folder.path)));
	assert.equal(FORMAT_VERSION, 6);
	assert.deepEqual(metadata, {
		format: "billm",
		format_version: "2",
		checksums: "76c5b653 9580b0c8",
	});
	for (const { name, data } of TENSORS) {
		assert.equal(tensors.get(name)!.checksum, crc32(data as Uint8Array));
	}
});

Deno.test("checksums do not depend on the order of tensors nor on the pieces that they are given in", () => {
	const pieces = TENSORS.map(({ data, ...rest }) => {
		const bytes = data as Uint8Array;
		return { ...rest, data: [bytes.subarray(0, 4), bytes.subarray(4, 4), bytes.subarray(4)] };
	});
	assert.deepEqual(packedMetadata(pieces.reverse(), 2), packedMetadata(TENSORS, 2));
});

Deno.test("a tensor with a turned bit is refused however it is read, its neighbours are not", () => {
	using folder = new TemporaryFolder();
	for (const byte of [0, 38, 76]) {
		const path = writeWith(folder.path);
		flip(path, "embed.weight", byte);
		const expected = damage(path, "embed.weight");
		const reads: ((checkpoint: Checkpoint) => unknown)[] = [
			(checkpoint) => checkpoint.readBytes("embed.weight"),
			(checkpoint) => [...checkpoint.readChunks("embed.weight", 16)],
			// Rows with the bit or without: nothing of a damaged tensor is used.
			(checkpoint) => checkpoint.readChunks("embed.weight", 16, { first: 2, rows: 2 }).next(),
		];
		for (const read of reads) {
			using checkpoint = openCheckpoint(folder.path);
			assert.throws(() => read(checkpoint), expected);
			assert.throws(() => read(checkpoint), expected, "a second time");
			assert.deepEqual(checkpoint.readBytes("a.signs"), TENSORS[0].data);
		}
	}
});

Deno.test("a tensor is compared with its checksum only when it is first read", () => {
	using folder = new TemporaryFolder();
	const path = writeWith(folder.path);
	const rows = (checkpoint: Checkpoint) => [
		...checkpoint.readChunks("embed.weight", 4, { first: 1, rows: 1 }),
	];
	const whole = (checkpoint: Checkpoint) => [...checkpoint.readChunks("embed.weight", 100)];
	for (const first of [rows, whole]) {
		using checkpoint = openCheckpoint(folder.path);
		first(checkpoint);
		flip(path, "embed.weight", 3); // not noticed, as it was read before
		rows(checkpoint);
		whole(checkpoint);
		checkpoint.readBytes("embed.weight");
		flip(path, "embed.weight", 3);
	}
});

Deno.test("an empty tensor has a checksum too", () => {
	using folder = new TemporaryFolder();
	const path = folder.file("model.safetensors");
	const empty = [tensor("empty", [0, 4], 0)];
	writeSafetensors(path, empty, packedMetadata(empty, 2));
	using reader = new TensorReader(denoFile);
	const found = readHeader(denoFile(path)).tensors.get("empty")!;
	assert.equal(found.checksum, 0);
	assert.deepEqual(reader.readBytes(found), new Uint8Array());
	assert.deepEqual([...reader.readChunks(found, 8)], []);
});

Deno.test("a file of version 1 has no checksums, and a turned bit goes unseen", () => {
	using folder = new TemporaryFolder();
	const path = writeWith(folder.path, { format_version: "1", checksums: undefined });
	flip(path, "embed.weight", 0);
	assert.equal(readHeader(denoFile(path)).tensors.get("embed.weight")!.checksum, undefined);
	using checkpoint = openCheckpoint(folder.path);
	assert.equal(checkpoint.readBytes("embed.weight")[0], 2 ^ 4);
});

const LACKS = "its metadata lacks checksums; the file is damaged";

const REFUSED: [metadata: Record<string, string | undefined>, problem: string][] = [
	[
		{ format_version: "7" },
		"the packed format has version 7, this program reads versions up to 6; use a later program",
	],
	[{ format_version: undefined }, "its metadata has no version of the packed format"],
	[{ format_version: "two" }, 'its metadata has the version "two" of the packed format'],
	[{ checksums: undefined }, LACKS],
	[{ checksums: "" }, LACKS],
	[{ checksums: "76c5b653" }, LACKS],
	[{ checksums: "76c5b653 9580b0c8 00000000" }, LACKS],
	[{ checksums: "76c5b65 9580b0c80" }, LACKS],
	[{ checksums: "76c5b653 9580b0cg" }, LACKS],
];

for (const [metadata, problem] of REFUSED) {
	Deno.test(`a packed file is refused: ${JSON.stringify(metadata)}`, () => {
		using folder = new TemporaryFolder();
		const path = writeWith(folder.path, metadata);
		assert.throws(
			() => openCheckpoint(folder.path),
			new UserError(`Cannot read "${path}": ${problem}`),
		);
	});
}

Deno.test("metadata of other programs are nobody's concern", () => {
	using folder = new TemporaryFolder();
	const path = writeWith(folder.path, { format: "pt", format_version: "99", checksums: "x" });
	assert.equal(readHeader(denoFile(path)).tensors.get("a.signs")!.checksum, undefined);
});

Deno.test("a packed file that was cut short is refused", () => {
	using folder = new TemporaryFolder();
	const path = writeWith(folder.path);
	const { size } = statSync(path);
	truncateSync(path, size - 5);
	assert.throws(
		() => openCheckpoint(folder.path),
		new UserError(`Cannot read "${path}": it lacks 5 bytes of ${size}; download it again`),
	);
});

Deno.test("a packed model without one of its shards is refused", () => {
	using folder = new TemporaryFolder();
	const path = writeWith(folder.path);
	const index = { weight_map: { "a.signs": "model.safetensors" } };
	writeFileSync(folder.file("model.safetensors.index.json"), JSON.stringify(index));
	rmSync(path);
	assert.throws(
		() => openCheckpoint(folder.path),
		new UserError(
			`Cannot open "${folder.path}": the index puts "a.signs" in "model.safetensors", which is ` +
				`not there; download the missing file`,
		),
	);
});
