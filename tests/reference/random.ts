/** Numbers in 0 .. 1 (without 1) that depend on the seed only (mulberry32). */
export function seededRandom(seed: number): () => number {
	let state = seed >>> 0;
	return () => {
		state = (state + 0x6d2b79f5) >>> 0;
		let t = state;
		t = Math.imul(t ^ (t >>> 15), t | 1);
		t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
		return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
	};
}

/** `count` numbers, evenly distributed in `low` .. `high`. */
export function uniforms(count: number, seed: number, low = -1, high = 1): Float32Array {
	const random = seededRandom(seed);
	const values = new Float32Array(count); // filled in a loop: from() takes ten times as long
	for (let i = 0; i < count; i++) values[i] = low + (high - low) * random();
	return values;
}

/** `count` normally distributed numbers. */
export function normals(count: number, seed: number, deviation = 1): Float32Array {
	const random = seededRandom(seed);
	const values = new Float32Array(count);
	for (let i = 0; i < count; i++) {
		const radius = Math.sqrt(-2 * Math.log(1 - random()));
		values[i] = deviation * radius * Math.cos(2 * Math.PI * random());
	}
	return values;
}
