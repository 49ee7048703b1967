import { bitCount, bitWords, countOnes } from "../base/bits.ts";
/** Rows whose flags are coded together; bounds the memory of a decoder. */
export const CHUNK_ROWS = 64;

/** The frequencies of the 256 groups of eight flags sum to 2^15. */
const SCALE_BITS = 15;
const SCALE = 1 << SCALE_BITS;

/** Lower bound of the coder's state between two groups; the upper bound is 2^32. */
const LEAST_STATE = 1 << 16;

/** The flags of a linear layer: a bit plane without its salient columns. */
export interface FlagPlane {
	rows: number;
	cols: number;
	/** u32 `[rows, ⌈cols / 32⌉]`; bits of salient columns are neither read nor written. */
	plane: Uint32Array;
	/** One bit per column, u32 `[⌈cols / 32⌉]`. */
	salient: Uint32Array;
}

/**
 * Entropy-codes the flags of a linear layer with rANS, eight flags per symbol. The model assumes that
 * each flag is 1 independently, with the measured frequency of ones.
 *
 * @returns The frequency of ones in units of 1 / 65536; the word count of the stream of each chunk of
 *   {@link CHUNK_ROWS} rows, low half first; the streams.
 * @see Duda, "Asymmetric numeral systems", https://arxiv.org/abs/1311.2540
 */
export function encodeFlags(flags: FlagPlane): Uint16Array<ArrayBuffer> {
	const { rows } = flags;
	const chunks: Uint8Array[] = [];
	let ones = 0;
	let total = 0;
	for (let first = 0; first < rows; first += CHUNK_ROWS) {
		const { bytes, count } = gather(flags, first, Math.min(CHUNK_ROWS, rows - first));
		chunks.push(bytes);
		total += count;
		ones += countOnes(bytes);
	}
	const frequency = Math.min(65535, Math.max(1, Math.round(65536 * ones / Math.max(total, 1))));
	const model = modelOf(frequency);
	const streams = chunks.map((bytes) => encode(bytes, model));
	const lengths = streams.flatMap(({ length }) => [length & 0xffff, length >>> 16]);
	const size = 1 + lengths.length + streams.reduce((sum, { length }) => sum + length, 0);
	const codes = new Uint16Array(size);
	codes[0] = frequency;
	codes.set(lengths, 1);
	let at = 1 + lengths.length;
	for (const stream of streams) {
		codes.set(stream, at);
		at += stream.length;
	}
	return codes;
}

/**
 * Decodes the output of {@link encodeFlags}.
 *
 * @param flags Receives the flags in `plane`.
 * @returns Whether the codes are intact: each stream has the expected length and ends in the initial
 *   state.
 */
export function decodeFlags(codes: Uint16Array, flags: FlagPlane): boolean {
	const { rows, cols, salient } = flags;
	const chunks = Math.ceil(rows / CHUNK_ROWS);
	const others = cols - countOnes(salient);
	if (codes.length < 1 + 2 * chunks || codes[0] === 0) return false;
	const model = modelOf(codes[0]);
	let at = 1 + 2 * chunks;
	for (let chunk = 0; chunk < chunks; chunk++) {
		const first = chunk * CHUNK_ROWS;
		const count = Math.min(CHUNK_ROWS, rows - first);
		const length = codes[1 + 2 * chunk] + 65536 * codes[2 + 2 * chunk];
		if (at + length > codes.length) return false;
		const bytes = decode(codes.subarray(at, at + length), Math.ceil(count * others / 8), model);
		if (!bytes) return false;
		scatter(flags, first, count, bytes);
		at += length;
	}
	return at === codes.length;
}

/**
 * The symbol model: the frequency of each group of eight flags, and the start of its slots in 0 ..
 * SCALE.
 */
interface Model {
	frequencies: Uint32Array;
	starts: Uint32Array;
	/** The group of each slot. */
	groups: Uint8Array;
}

/** @param frequency The frequency of ones in units of 1 / 65536. */
function modelOf(frequency: number): Model {
	const p = frequency / 65536;
	const byOnes = Array.from({ length: 9 }, (_, ones) => {
		let part = SCALE;
		for (let i = 0; i < 8; i++) part *= i < ones ? p : 1 - p;
		return Math.max(1, Math.floor(part));
	});
	const frequencies = Uint32Array.from({ length: 256 }, (_, group) => byOnes[bitCount(group)]);
	// The most frequent group absorbs the rounding error, so that the frequencies sum to SCALE.
	const rest = SCALE - frequencies.reduce((sum, part) => sum + part);
	frequencies[p < 0.5 ? 0 : 255] += rest;
	const starts = new Uint32Array(256);
	const groups = new Uint8Array(SCALE);
	let start = 0;
	for (let group = 0; group < 256; group++) {
		starts[group] = start;
		groups.fill(group, start, start += frequencies[group]);
	}
	return { frequencies, starts, groups };
}

/** Encodes back to front, because rANS decodes in reverse order. */
function encode(bytes: Uint8Array, { frequencies, starts }: Model): Uint16Array {
	const words = new Uint16Array(bytes.length + 2); // at most 15 bits a group
	let at = words.length;
	let state = LEAST_STATE;
	for (let i = bytes.length - 1; i >= 0; i--) {
		const frequency = frequencies[bytes[i]];
		if (state >= frequency * 2 ** (32 - SCALE_BITS)) {
			words[--at] = state;
			state = state >>> 16;
		}
		const quotient = (state / frequency) >>> 0;
		state = quotient * SCALE + (state - quotient * frequency) + starts[bytes[i]];
	}
	words[--at] = state;
	words[--at] = state / 65536;
	return words.subarray(at);
}

function decode(words: Uint16Array, count: number, model: Model): Uint8Array | undefined {
	const { frequencies, starts, groups } = model;
	const bytes = new Uint8Array(count);
	let state = words[0] * 65536 + words[1];
	let at = 2;
	for (let i = 0; i < count; i++) {
		const place = state & (SCALE - 1);
		const group = groups[place];
		bytes[i] = group;
		state = frequencies[group] * (state >>> SCALE_BITS) + place - starts[group];
		if (state < LEAST_STATE) state = state * 65536 + words[at++];
	}
	return at === words.length && state === LEAST_STATE ? bytes : undefined;
}

/** The flags of some rows without the salient columns, packed eight to a byte. */
function gather(
	{ cols, plane, salient }: FlagPlane,
	first: number,
	rows: number,
): { bytes: Uint8Array; count: number } {
	const width = bitWords(cols);
	const bytes = new Uint8Array(Math.ceil(rows * cols / 8));
	let at = 0; // in bits
	for (let row = first; row < first + rows; row++) {
		for (let word = 0; word < width; word++) {
			const flags = plane[row * width + word];
			const count = Math.min(32, cols - 32 * word);
			if (salient[word] === 0 && count === 32) {
				// The 32 flags may begin at any bit of a byte.
				const [byte, shift] = [at >> 3, at & 7];
				bytes[byte] |= flags << shift;
				bytes[byte + 1] = flags >>> (8 - shift);
				bytes[byte + 2] = flags >>> (16 - shift);
				bytes[byte + 3] = flags >>> (24 - shift);
				if (shift > 0) bytes[byte + 4] = flags >>> (32 - shift);
				at += 32;
			} else {
				for (let i = 0; i < count; i++) {
					if ((salient[word] >>> i) & 1) continue;
					bytes[at >> 3] |= ((flags >>> i) & 1) << (at & 7);
					at++;
				}
			}
		}
	}
	return { bytes: bytes.subarray(0, Math.ceil(at / 8)), count: at };
}

/** The inverse of {@link gather}; bits of salient columns are unchanged. */
function scatter(
	{ cols, plane, salient }: FlagPlane,
	first: number,
	rows: number,
	bytes: Uint8Array,
): void {
	const width = bitWords(cols);
	let at = 0; // in bits
	for (let row = first; row < first + rows; row++) {
		for (let word = 0; word < width; word++) {
			const count = Math.min(32, cols - 32 * word);
			let flags = 0;
			if (salient[word] === 0 && count === 32) {
				// The 32 flags may begin at any bit of a byte.
				const [byte, shift] = [at >> 3, at & 7];
				flags = (bytes[byte] | bytes[byte + 1] << 8 | bytes[byte + 2] << 16 |
					bytes[byte + 3] << 24) >>> shift;
				if (shift > 0) flags |= bytes[byte + 4] << (32 - shift);
				at += 32;
			} else {
				for (let i = 0; i < count; i++) {
					if ((salient[word] >>> i) & 1) continue;
					flags |= ((bytes[at >> 3] >>> (at & 7)) & 1) << i;
					at++;
				}
			}
			plane[row * width + word] |= flags;
		}
	}
}
