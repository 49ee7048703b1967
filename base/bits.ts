/** The number of u32 words that hold `bits` bits. */
export function bitWords(bits: number): number {
	return Math.ceil(bits / 32);
}

/** The number of ones in a word of 32 bits. */
export function bitCount(word: number): number {
	word -= (word >>> 1) & 0x55555555;
	word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
	return Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** The number of ones in words of 32 bits, or in bytes. */
export function countOnes(words: Iterable<number>): number {
	let ones = 0;
	for (const word of words) ones += bitCount(word);
	return ones;
}
