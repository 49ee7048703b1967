import { count, FormatError } from "./safetensors.ts";

/** A range of a file. */
export interface FileRange {
	offset: number;
	bytes: number;
}

/** A function that reads bytes of a file; the range must exist. */
export type ReadBytes = (offset: number, bytes: number) => Uint8Array<ArrayBuffer>;

interface ZipEntry {
	/** The compression method: 0 is stored, 8 is deflated. */
	method: number;
	encrypted: boolean;
	bytes: number;
	/** The offset of its local header. */
	offset: number;
}

const END = 0x06054b50;
const END_BYTES = 22;
const END64 = 0x06064b50;
const END64_BYTES = 56;
const LOCATOR = 0x07064b50;
const LOCATOR_BYTES = 20;
const CENTRAL = 0x02014b50;
const CENTRAL_BYTES = 46;
const LOCAL = 0x04034b50;
const LOCAL_BYTES = 30;
const MAX_COMMENT_BYTES = 0xffff;
/** Limit of the directory's size: enough for 100 000 tensors. */
const MAX_DIRECTORY_BYTES = 32_000_000;

/**
 * The directory of a zip archive, including zip64. It locates entries and does not decompress them.
 *
 * All methods throw a {@link FormatError} if the archive is damaged.
 *
 * @see https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
 */
export class ZipArchive {
	readonly #read: ReadBytes;
	readonly #entries: Map<string, ZipEntry>;
	/** The end of the entries, which is the start of the directory. */
	readonly #end: number;

	/** @param size The size of the file in bytes. */
	constructor(read: ReadBytes, size: number) {
		this.#read = read;
		const { offset, bytes, entries } = findDirectory(read, size);
		if (bytes > MAX_DIRECTORY_BYTES) {
			throw new FormatError(`its zip directory has ${count(bytes)}, too many for weights`);
		}
		this.#end = offset;
		this.#entries = readDirectory(read(offset, bytes), entries);
	}

	get names(): string[] {
		return [...this.#entries.keys()];
	}

	has(name: string): boolean {
		return this.#entries.has(name);
	}

	/** The range of an entry's content; undefined if there is no entry of this name. */
	locate(name: string): FileRange | undefined {
		const entry = this.#entries.get(name);
		if (!entry) return undefined;
		if (entry.encrypted || entry.method !== 0) {
			throw new FormatError(
				`its entry "${name}" is ${entry.encrypted ? "encrypted" : "compressed"}, ` +
					`which torch.save() does not do; download the original file`,
			);
		}
		if (entry.offset > this.#end - LOCAL_BYTES) damaged(`no "${name}" where it should be`);
		const header = viewOf(this.#read(entry.offset, LOCAL_BYTES));
		if (header.getUint32(0, true) !== LOCAL) damaged(`no "${name}" where it should be`);
		// The local extra field differs from the directory's: it has padding that aligns the content.
		const offset = entry.offset + LOCAL_BYTES + header.getUint16(26, true) +
			header.getUint16(28, true);
		if (offset + entry.bytes > this.#end) damaged(`"${name}" reaches beyond the entries`);
		return { offset, bytes: entry.bytes };
	}
}

function findDirectory(read: ReadBytes, size: number): FileRange & { entries: number } {
	const tailBytes = Math.min(size, LOCATOR_BYTES + END_BYTES + MAX_COMMENT_BYTES);
	const tailStart = size - tailBytes;
	const tail = viewOf(read(tailStart, tailBytes));
	let at = tailBytes - END_BYTES;
	const isEnd = () =>
		tail.getUint32(at, true) === END &&
		tail.getUint16(at + 20, true) === tailBytes - at - END_BYTES; // the rest is a comment
	while (at >= 0 && !isEnd()) at--;
	if (at < 0) throw new FormatError("it is a zip archive without its end; download it again");

	let entries = tail.getUint16(at + 10, true);
	let bytes = tail.getUint32(at + 12, true);
	let offset = tail.getUint32(at + 16, true);
	let end = tailStart + at;
	const locator = at - LOCATOR_BYTES;
	if (locator >= 0 && tail.getUint32(locator, true) === LOCATOR) {
		end = Number(tail.getBigUint64(locator + 8, true));
		if (end + END64_BYTES > tailStart + locator) damaged("the end of its directory is misplaced");
		const end64 = viewOf(read(end, END64_BYTES));
		if (end64.getUint32(0, true) !== END64) damaged("the end of its directory is misplaced");
		entries = Number(end64.getBigUint64(32, true));
		bytes = Number(end64.getBigUint64(40, true));
		offset = Number(end64.getBigUint64(48, true));
	}
	if (offset + bytes > end) damaged("its directory is misplaced");
	return { offset, bytes, entries };
}

function readDirectory(bytes: Uint8Array<ArrayBuffer>, count: number): Map<string, ZipEntry> {
	const view = viewOf(bytes);
	const entries = new Map<string, ZipEntry>();
	let at = 0;
	while (at < bytes.length) {
		if (at + CENTRAL_BYTES > bytes.length || view.getUint32(at, true) !== CENTRAL) {
			damaged("its directory has something else");
		}
		const nameEnd = at + CENTRAL_BYTES + view.getUint16(at + 28, true);
		const extraEnd = nameEnd + view.getUint16(at + 30, true);
		const next = extraEnd + view.getUint16(at + 32, true);
		if (next > bytes.length) damaged("its directory ends early");
		const name = new TextDecoder().decode(bytes.subarray(at + CENTRAL_BYTES, nameEnd));
		if (entries.has(name)) damaged(`two entries are named "${name}"`);

		let [packed, size, offset] = [20, 24, 42].map((field) => view.getUint32(at + field, true));
		const wide = wideFields(view, nameEnd, extraEnd);
		const widen = (value: number): number =>
			value === 0xffffffff ? wide.shift() ?? damaged(`the place of "${name}" is missing`) : value;
		size = widen(size); // the order of the fields is fixed
		packed = widen(packed);
		offset = widen(offset);
		const method = view.getUint16(at + 10, true);
		if (method === 0 && packed !== size) damaged(`"${name}" has two sizes`);
		const encrypted = (view.getUint16(at + 8, true) & 1) === 1;
		entries.set(name, { method, encrypted, bytes: size, offset });
		at = next;
	}
	if (entries.size !== count) damaged(`its directory has ${entries.size} of ${count} entries`);
	return entries;
}

/** The zip64 numbers in the extra fields of an entry, which replace numbers that overflow 32 bits. */
function wideFields(view: DataView, start: number, end: number): number[] {
	for (let at = start; at + 4 <= end;) {
		const fieldEnd = at + 4 + view.getUint16(at + 2, true);
		if (view.getUint16(at, true) === 1 && fieldEnd <= end) {
			const fields: number[] = [];
			for (let field = at + 4; field + 8 <= fieldEnd; field += 8) {
				fields.push(Number(view.getBigUint64(field, true)));
			}
			return fields;
		}
		at = fieldEnd;
	}
	return [];
}

function damaged(problem: string): never {
	throw new FormatError(`it is damaged (${problem}); download it again`);
}

function viewOf(bytes: Uint8Array<ArrayBuffer>): DataView {
	return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
