import type { LevelsLayout } from "~/codecs/levels/levels.ts";
import type { LevelsHost } from "~/codecs/levels/store.ts";
import { seededRandom } from "../../reference/random.ts";

/** The multiples of a, or of a and b, that the levels are. */
const LEVELS: Record<string, [a: number, b: number][]> = {
	"2 free": [[-1, 0], [1, 0]],
	"3 free": [[-1, 0], [0, 0], [1, 0]],
	"4 free": [[0, -1], [-1, 0], [1, 0], [0, 1]],
	"5 free": [[0, -1], [-1, 0], [0, 0], [1, 0], [0, 1]],
	"4 gaussian": [-1.51, -0.4528, 0.4528, 1.51].map((level) => [level, 0]),
	"5 gaussian": [-1.724, -0.7646, 0, 0.7646, 1.724].map((level) => [level, 0]),
	"8 gaussian": [-2.152, -1.344, -0.756, -0.2451, 0.2451, 0.756, 1.344, 2.152]
		.map((level) => [level, 0]),
};

/** The levels of a row with parameters a and b. */
export function levelValues(
	{ count, pattern }: Omit<LevelsLayout, "rows" | "cols">,
	theta: ArrayLike<number>,
) {
	const f32 = Math.fround;
	return LEVELS[`${count} ${pattern}`].map(([a, b]) =>
		f32(f32(f32(a) * theta[0]) + f32(b * (theta[1] ?? 0))) + 0
	);
}

/** How many columns a number takes, and how many bits it. */
const PACKED: Record<number, [columns: number, bits: number]> = {
	2: [1, 1],
	3: [5, 8],
	4: [1, 2],
	5: [3, 7],
	8: [1, 3],
};

export function packedRow(codes: ArrayLike<number>, count: number): Uint32Array<ArrayBuffer> {
	const [columns, bits] = PACKED[count];
	const all: number[] = [];
	for (let col = 0; col < codes.length; col += columns) {
		let value = 0;
		for (let i = columns - 1; i >= 0; i--) value = value * count + (codes[col + i] ?? 0);
		for (let bit = 0; bit < bits; bit++) all.push((value >> bit) & 1);
	}
	const words = new Uint32Array(Math.ceil(all.length / 32));
	all.forEach((bit, i) => words[i >> 5] |= bit << (i & 31));
	return words;
}

/** Random codes, one number each, the layer that they are packed into, and the weights they stand for. */
export function randomLevels(
	layout: LevelsLayout,
	seed = 0,
): { host: LevelsHost; codes: Uint32Array<ArrayBuffer>; weight: Float32Array } {
	const { rows, cols, count, pattern } = layout;
	const random = seededRandom(rows + cols + count + seed);
	const parameters = pattern === "free" ? Math.floor(count / 2) : 1;
	const theta = Float32Array.from(
		{ length: rows * parameters },
		() => Math.f16round((0.1 + random()) * 2 ** (Math.floor(random() * 8) - 8)),
	);
	const codes = Uint32Array.from({ length: rows * cols }, () => Math.floor(random() * count));
	const weight = new Float32Array(rows * cols);
	const packed: number[] = [];
	for (let row = 0; row < rows; row++) {
		const values = levelValues(layout, theta.subarray(row * parameters, (row + 1) * parameters));
		const own = codes.subarray(row * cols, (row + 1) * cols);
		own.forEach((code, col) => weight[row * cols + col] = values[code]);
		packed.push(...packedRow(own, count));
	}
	return { host: { ...layout, codes: Uint32Array.from(packed), theta }, codes, weight };
}
