/** Lookup tables: the remainders of a byte followed by 0 to 7 zero bytes. */
const TABLES = Array.from({ length: 8 }, () => new Uint32Array(256));

for (let byte = 0; byte < 256; byte++) {
	let remainder = byte;
	for (let bit = 0; bit < 8; bit++) {
		remainder = remainder & 1 ? (remainder >>> 1) ^ 0xedb88320 : remainder >>> 1;
	}
	TABLES[0][byte] = remainder;
}
for (let zeros = 1; zeros < TABLES.length; zeros++) {
	for (let byte = 0; byte < 256; byte++) {
		const before = TABLES[zeros - 1][byte];
		TABLES[zeros][byte] = (before >>> 8) ^ TABLES[0][before & 255];
	}
}

/**
 * The CRC-32 of bytes, as in gzip and zlib; for hosts without a native one. `before` is the CRC-32 of
 * preceding bytes.
 *
 * Processes eight bytes at a time with one lookup table each (slicing-by-8): 1.4 GB/s, a fifth of zlib's
 * throughput.
 *
 * @see Kounavis and Berry, "A Systematic Approach to Building High Performance Software-based CRC
 *   Generators", 2005
 */
export function crc32(bytes: Uint8Array, before = 0): number {
	const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
	let crc = ~before;
	let i = 0;
	const single = (end: number) => {
		for (; i < end; i++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[i]) & 255];
	};
	const head = -bytes.byteOffset & 3; // before the first whole word
	single(Math.min(bytes.length, head));
	const pairs = Math.max(0, bytes.length - head) >>> 3;
	const start = pairs && bytes.byteOffset + head;
	const words = new Uint32Array(bytes.buffer, start, 2 * pairs);
	for (let w = 0; w < words.length; w += 2) {
		const low = words[w] ^ crc;
		const high = words[w + 1];
		crc = t7[low & 255] ^ t6[low >>> 8 & 255] ^ t5[low >>> 16 & 255] ^ t4[low >>> 24] ^
			t3[high & 255] ^ t2[high >>> 8 & 255] ^ t1[high >>> 16 & 255] ^ t0[high >>> 24];
	}
	i += 4 * words.length;
	single(bytes.length);
	return ~crc >>> 0;
}
