const WORDS = 624;
const MIDDLE = 397;

/**
 * The random number generator of Python's `random` module, with identical results: the Mersenne
 * Twister MT19937, seeded and read as in CPython.
 *
 * @see Matsumoto and Nishimura, "Mersenne Twister", 1998
 * @see https://github.com/python/cpython/blob/main/Modules/_randommodule.c
 */
export class PythonRandom {
	readonly #state = new Uint32Array(WORDS);
	#next = WORDS;

	/**
	 * Equals `random.seed(seed)`.
	 *
	 * @param seed An integer of at most 53 bits. Its sign is ignored.
	 */
	constructor(seed: number) {
		if (!Number.isSafeInteger(seed)) throw new RangeError(`Cannot seed with ${seed}`);
		const magnitude = Math.abs(seed);
		const high = Math.floor(magnitude / 2 ** 32);
		this.#seedWith(high === 0 ? [magnitude] : [magnitude >>> 0, high]);
	}

	/** A copy of the generator with the same state. */
	clone(): PythonRandom {
		const copy = new PythonRandom(0);
		copy.#state.set(this.#state);
		copy.#next = this.#next;
		return copy;
	}

	/** `random.getrandbits(bits)` for 0 to 53 bits. Up to 32 bits take one word of the generator. */
	getrandbits(bits: number): number {
		if (!(Number.isInteger(bits) && bits >= 0 && bits <= 53)) {
			throw new RangeError(`Cannot draw ${bits} bits`);
		}
		if (bits === 0) return 0;
		if (bits <= 32) return this.#word() >>> (32 - bits);
		const low = this.#word();
		return (this.#word() >>> (64 - bits)) * 2 ** 32 + low;
	}

	/** `random.randint(first, last)`: an integer from `first` to `last`, inclusive. */
	randint(first: number, last: number): number {
		const values = last - first + 1;
		if (!(Number.isSafeInteger(first) && Number.isSafeInteger(values) && values >= 1)) {
			throw new RangeError(`Cannot draw an integer from ${first} to ${last}`);
		}
		const bits = bitLength(values);
		let drawn = this.getrandbits(bits);
		while (drawn >= values) drawn = this.getrandbits(bits);
		return first + drawn;
	}

	/** The generator's `init_by_array`. */
	#seedWith(key: number[]): void {
		const state = this.#state;
		state[0] = 19650218;
		for (let i = 1; i < WORDS; i++) state[i] = Math.imul(1812433253, mixed(state[i - 1])) + i;
		let i = 1;
		const advance = () => {
			if (++i === WORDS) {
				state[0] = state[WORDS - 1];
				i = 1;
			}
		};
		for (let step = 0; step < WORDS; step++) { // a key is shorter than the state
			const digit = step % key.length;
			state[i] = (state[i] ^ Math.imul(mixed(state[i - 1]), 1664525)) + key[digit] + digit;
			advance();
		}
		for (let step = 0; step < WORDS - 1; step++) {
			state[i] = (state[i] ^ Math.imul(mixed(state[i - 1]), 1566083941)) - i;
			advance();
		}
		state[0] = 0x80000000;
	}

	/** The next 32 bits. */
	#word(): number {
		if (this.#next === WORDS) this.#twist();
		let word = this.#state[this.#next++];
		word ^= word >>> 11;
		word ^= (word << 7) & 0x9d2c5680;
		word ^= (word << 15) & 0xefc60000;
		return (word ^ (word >>> 18)) >>> 0;
	}

	#twist(): void {
		const state = this.#state;
		for (let i = 0; i < WORDS; i++) {
			const word = (state[i] & 0x80000000) | (state[(i + 1) % WORDS] & 0x7fffffff);
			state[i] = state[(i + MIDDLE) % WORDS] ^ (word >>> 1) ^ (word & 1 ? 0x9908b0df : 0);
		}
		this.#next = 0;
	}
}

/** The bit length of a positive integer: 8 for 255, 9 for 256. */
export function bitLength(value: number): number {
	const high = Math.floor(value / 2 ** 32);
	return high > 0 ? 64 - Math.clz32(high) : 32 - Math.clz32(value);
}

function mixed(word: number): number {
	return word ^ (word >>> 30);
}
