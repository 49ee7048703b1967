import assert from "node:assert/strict";
import { CHUNK_ROWS, decodeFlags, encodeFlags, type FlagPlane } from "~/codecs/flag_codes.ts";
import { seededRandom } from "../reference/random.ts";

/** Flags that are 1 with a probability, and how many there are outside the salient columns. */
function randomFlags(rows: number, cols: number, ones: number, salientShare: number, seed: number) {
	const random = seededRandom(seed);
	const width = Math.ceil(cols / 32);
	const plane = new Uint32Array(rows * width);
	const salient = new Uint32Array(width);
	let others = 0;
	for (let col = 0; col < cols; col++) {
		if (random() < salientShare) {
			salient[col >> 5] |= 1 << (col & 31);
			continue;
		}
		others += rows;
		for (let row = 0; row < rows; row++) {
			if (random() < ones) plane[row * width + (col >> 5)] |= 1 << (col & 31);
		}
	}
	return { flags: { rows, cols, plane, salient }, others };
}

function emptyLike(flags: FlagPlane): FlagPlane {
	return { ...flags, plane: new Uint32Array(flags.plane.length) };
}

for (const ones of [0, 0.001, 0.1, 0.34, 0.5, 0.9, 1]) {
	Deno.test(`flags come back whatever their number and form, ${ones} of them 1`, () => {
		const sizes = [[1, 1], [1, 7], [1, 32], [3, 33], [CHUNK_ROWS - 1, 65], [CHUNK_ROWS, 64], [
			CHUNK_ROWS + 1,
			40,
		], [3 * CHUNK_ROWS + 5, 100]];
		for (const [rows, cols] of sizes) {
			for (const share of [0, 0.1, 1]) {
				const { flags } = randomFlags(rows, cols, ones, share, rows + cols);
				const found = emptyLike(flags);
				assert.ok(decodeFlags(encodeFlags(flags), found), `${rows} x ${cols}, ${share} salient`);
				assert.deepEqual(found.plane, flags.plane, `${rows} x ${cols}, ${share} salient`);
			}
		}
	});
}

Deno.test("the code takes what the flags hold as information, and little more", () => {
	const entropy = (p: number) => p === 0 ? 0 : -p * Math.log2(p) - (1 - p) * Math.log2(1 - p);
	for (const ones of [0, 0.02, 0.1, 0.34, 0.5, 0.8]) {
		const { flags, others } = randomFlags(512, 1024, ones, 0.05, 1);
		const bits = 16 * encodeFlags(flags).length / others;
		// Groups of eight flags have a frequency of at least 2^-15: 256 of them take 0.01 bits of eight.
		const most = entropy(ones) * 1.002 + 0.003;
		assert.ok(bits < most, `${bits} bits for ${ones}, at most ${most}`);
	}
});

Deno.test("bits of salient columns neither count nor change", () => {
	const { flags } = randomFlags(100, 70, 0.3, 0.3, 2);
	const noisy = { ...flags, plane: flags.plane.slice() };
	const mark = (plane: Uint32Array) => {
		for (let i = 0; i < plane.length; i++) plane[i] |= flags.salient[i % 3];
	};
	mark(noisy.plane);
	assert.deepEqual(encodeFlags(noisy), encodeFlags(flags));
	const found = emptyLike(flags);
	mark(found.plane);
	decodeFlags(encodeFlags(flags), found);
	assert.deepEqual(found.plane, noisy.plane);
});

Deno.test("the code of known flags is the one that the format describes", () => {
	// 20 columns, the last salient; the flags 0 1 0 0 1 and so on in groups of eight.
	const flags: FlagPlane = {
		rows: 2,
		cols: 20,
		plane: Uint32Array.of(0b0000_0100_1000_0100_1001, 0b0000_1000_0000_0000_0001),
		salient: Uint32Array.of(1 << 19),
	};
	const codes = encodeFlags(flags);
	// 7 of 38 flags are 1; one chunk.
	assert.deepEqual([...codes.subarray(0, 3)], [Math.round(65536 * 7 / 38), codes.length - 3, 0]);
	assert.deepEqual(
		decodeByHand(codes, 38),
		[..."1001001000010010000", ..."1000000000000001000"].map(Number),
	);
});

/** Decodes one chunk straight from the description, in whole numbers of any size. */
function decodeByHand(codes: Uint16Array, count: number): number[] {
	const p = codes[0] / 65536;
	const parts = Array.from({ length: 256 }, (_, group) => {
		let part = 32768;
		for (let i = 0; i < 8; i++) {
			part *= i < [...group.toString(2)].filter((b) => b === "1").length ? p : 1 - p;
		}
		return Math.max(1, Math.floor(part));
	});
	parts[0] += 32768 - parts.reduce((sum, part) => sum + part);
	const words = [...codes.subarray(3)].map(BigInt);
	let state = words.shift()! * 65536n + words.shift()!;
	const flags: number[] = [];
	while (flags.length < count) {
		const place = Number(state % 32768n);
		let group = 0;
		let start = 0;
		while (place >= start + parts[group]) start += parts[group++];
		for (let bit = 0; bit < 8; bit++) flags.push((group >> bit) & 1);
		state = state / 32768n * BigInt(parts[group]) + BigInt(place - start);
		if (state < 65536n) state = state * 65536n + words.shift()!;
	}
	assert.deepEqual([state, words.length], [65536n, 0]);
	return flags.slice(0, count);
}

Deno.test("codes that are cut short, too long or changed are noticed, or give other flags", () => {
	const { flags } = randomFlags(2 * CHUNK_ROWS, 100, 0.3, 0.1, 3);
	const codes = encodeFlags(flags);
	for (const length of [0, 1, 4, 5, codes.length - 1]) {
		assert.equal(decodeFlags(codes.slice(0, length), emptyLike(flags)), false, `${length} words`);
	}
	assert.equal(decodeFlags(Uint16Array.of(...codes, 0), emptyLike(flags)), false);
	for (let at = 0; at < codes.length; at += 7) {
		const changed = codes.slice();
		changed[at] ^= 0x10;
		const found = emptyLike(flags);
		const ok = decodeFlags(changed, found);
		assert.ok(!ok || found.plane.some((word, i) => word !== flags.plane[i]), `word ${at}`);
	}
});
