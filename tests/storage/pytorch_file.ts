/** Builds the files that `torch.save()` writes, and others like them, piece by piece. */

const encoder = new TextEncoder();

/** Joins pieces: texts, single bytes, and bytes. */
export function bytes(...pieces: (string | number | Uint8Array)[]): Uint8Array<ArrayBuffer> {
	return Uint8Array.from(
		pieces.flatMap((piece) =>
			typeof piece === "number"
				? [piece]
				: [...typeof piece === "string" ? encoder.encode(piece) : piece]
		),
	);
}

/** A number in `size` bytes, little-endian. */
export function little(value: number | bigint, size: number): Uint8Array<ArrayBuffer> {
	const view = new DataView(new ArrayBuffer(Math.max(size, 8)));
	view.setBigInt64(0, BigInt.asIntN(64, BigInt(value)), true);
	return new Uint8Array(view.buffer, 0, size);
}

export const NONE = bytes("N");

export function text(value: string): Uint8Array {
	const content = encoder.encode(value);
	return bytes("X", little(content.length, 4), content);
}

export function integer(value: number | bigint): Uint8Array {
	return bytes(0x8a, 8, little(value, 8));
}

export function tuple(...items: Uint8Array[]): Uint8Array {
	return bytes("(", ...items, "t");
}

export function dict(entries: Record<string, Uint8Array>): Uint8Array {
	return bytes("}(", ...Object.entries(entries).flatMap(([key, value]) => [text(key), value]), "u");
}

export function global(module: string, name: string): Uint8Array {
	return bytes("c", module, "\n", name, "\n");
}

export function call(callee: Uint8Array, ...parameters: Uint8Array[]): Uint8Array {
	return bytes(callee, tuple(...parameters), "R");
}

/** A pickle of protocol 2. */
export function pickle(value: Uint8Array): Uint8Array<ArrayBuffer> {
	return bytes(0x80, 2, value, ".");
}

/** A reference to a storage; `type` such as "FloatStorage". */
export function storage(
	type: string,
	key: string,
	elements: number | bigint,
	...more: Uint8Array[]
): Uint8Array {
	const parts = [
		text("storage"),
		global("torch", type),
		text(key),
		text("cpu"),
		integer(elements),
		...more,
	];
	return bytes(tuple(...parts), "Q");
}

export function tensor(
	of: Uint8Array,
	shape: (number | bigint)[],
	strides: (number | bigint)[] = rowMajor(shape.map(Number)),
	offset: number | bigint = 0,
	...more: Uint8Array[]
): Uint8Array {
	return call(
		global("torch._utils", "_rebuild_tensor_v2"),
		of,
		integer(offset),
		tuple(...shape.map(integer)),
		tuple(...strides.map(integer)),
		bytes(0x89),
		call(global("collections", "OrderedDict")),
		...more,
	);
}

function rowMajor(shape: number[]): number[] {
	return shape.map((_, i) => shape.slice(i + 1).reduce((product, size) => product * size, 1));
}

/** An entry of a zip archive and what may be odd about it. */
export interface Entry {
	name: string;
	content: Uint8Array;
	method?: number;
	flags?: number;
	/** What the directory says, if not so. */
	size?: number;
	packed?: number;
	offset?: number;
}

/** A zip archive as PyTorch writes it: stored, with the content of each entry on a multiple of 64. */
export function zip(
	entries: Entry[],
	{ wide = false, start = 0, comment = "" } = {},
): Uint8Array<ArrayBuffer> {
	const files: Uint8Array[] = [];
	const directory: Uint8Array[] = [];
	let at = start;
	for (const { name, content, method = 0, flags = 0x0808, ...said } of entries) {
		const end = at + 30 + name.length + 4;
		const padding = (64 - end % 64) % 64;
		const nameAndExtra = [
			little(name.length, 2),
			little(4 + padding, 2),
			name,
			"FB",
			little(padding, 2),
			new Uint8Array(padding).fill(0x5a),
		];
		// Sizes and checksum are left to the directory, as the flag 8 says.
		const local = bytes("PK\x03\x04", little(0, 2), little(flags, 2), little(method, 2));
		const file = bytes(local, new Uint8Array(16), ...nameAndExtra, content);
		const { size = content.length, packed = size, offset = at } = said;
		const extra = wide
			? bytes(little(1, 2), little(24, 2), ...[size, packed, offset].map((n) => little(n, 8)))
			: bytes();
		directory.push(bytes(
			"PK\x01\x02",
			little(0, 4),
			little(flags, 2),
			little(method, 2),
			little(0, 8), // the time and the checksum
			...[packed, size].map((n) => little(wide ? -1 : n, 4)),
			little(name.length, 2),
			little(extra.length, 2),
			little(0, 10),
			little(wide ? -1 : offset, 4),
			name,
			extra,
		));
		files.push(file);
		at += file.length;
	}
	const length = directory.reduce((sum, entry) => sum + entry.length, 0);
	const end64 = bytes(
		"PK\x06\x06",
		little(44, 8),
		little(0, 12),
		...[entries.length, entries.length, length, at].map((n) => little(n, 8)),
		"PK\x06\x07",
		little(0, 4),
		little(at + length, 8),
		little(1, 4),
	);
	const ending = bytes(
		"PK\x05\x06",
		little(0, 4),
		...[entries.length, entries.length].map((n) => little(wide ? -1 : n, 2)),
		...[length, at].map((n) => little(wide ? -1 : n, 4)),
		little(comment.length, 2),
		comment,
	);
	return concatenate([...files, ...directory, ...wide ? [end64] : [], ending]);
}

/** The entries of a checkpoint: the pickle, the byte order and the storages by their keys. */
export function entriesOf(state: Uint8Array, storages: Record<string, Uint8Array>): Entry[] {
	return [
		{ name: "x/data.pkl", content: state },
		{ name: "x/byteorder", content: encoder.encode("little") },
		...Object.entries(storages).map(([key, content]) => ({ name: `x/data/${key}`, content })),
		{ name: "x/version", content: encoder.encode("3\n") },
	];
}

/** The format before zip; `storages` are the count of elements and the bytes of each. */
export function legacy(
	state: Uint8Array,
	storages: Record<string, { elements: number; content: Uint8Array }>,
	{ magic = MAGIC, version = 1001, littleEndian = true } = {},
): Uint8Array<ArrayBuffer> {
	return concatenate([
		pickle(bytes(0x8a, magic.length, magic)),
		pickle(integer(version)),
		pickle(dict({ little_endian: bytes(littleEndian ? 0x88 : 0x89) })),
		state,
		pickle(bytes("](", ...Object.keys(storages).map(text), "e")),
		...Object.values(storages).flatMap(({ elements, content }) => [little(elements, 8), content]),
	]);
}

const MAGIC = Uint8Array.of(0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19);

function concatenate(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
	const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
	let at = 0;
	for (const part of parts) {
		whole.set(part, at);
		at += part.length;
	}
	return whole;
}
