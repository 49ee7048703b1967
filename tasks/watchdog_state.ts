/** What the watchdog is told when it starts. */
export interface Orders {
	memory: SharedArrayBuffer;
	/** What follows "Interrupted." */
	interrupted: string;
	/** Whether the main thread may take any time to end after the first signal, which may be SIGTERM. */
	drains: boolean;
}

/** Work that the main thread does, with the time that it may take. */
export interface Work {
	what: string;
	seconds: number;
	/** A number that no other work has. */
	number: number;
}

/** Places in the shared memory: four integers, a number, and a text in UTF-8. */
const [ENDING, NUMBER, LENGTH] = [0, 1, 2];
const SECONDS_AT = 16;
const TEXT_AT = 24;
const SIZE = 1024;

const encoder = new TextEncoder();

/** What the main thread and its watchdog know of each other, in memory that both have. */
export class SharedState {
	readonly #integers: Int32Array;
	readonly #seconds: Float64Array;
	readonly #text: Uint8Array;

	constructor(readonly memory = new SharedArrayBuffer(SIZE)) {
		this.#integers = new Int32Array(memory, 0, 4);
		this.#seconds = new Float64Array(memory, SECONDS_AT, 1);
		this.#text = new Uint8Array(memory, TEXT_AT);
	}

	/** Notes work of the main thread. Its number is odd while it lasts. */
	begin(what: string, seconds: number): void {
		const text = encoder.encode(what).subarray(0, this.#text.length);
		this.#text.set(text);
		this.#seconds[0] = seconds;
		Atomics.store(this.#integers, LENGTH, text.length);
		Atomics.add(this.#integers, NUMBER, 1);
	}

	end(): void {
		Atomics.add(this.#integers, NUMBER, 1);
	}

	/** The work that the main thread does now. */
	get work(): Work | undefined {
		const number = Atomics.load(this.#integers, NUMBER);
		if (number % 2 === 0) return undefined;
		const length = Atomics.load(this.#integers, LENGTH);
		const what = new TextDecoder().decode(this.#text.slice(0, length));
		const [seconds] = this.#seconds;
		return Atomics.load(this.#integers, NUMBER) === number ? { what, seconds, number } : undefined;
	}

	/** Claims the last words, which only one thread may have. @returns Whether this one has them. */
	claimEnd(): boolean {
		return Atomics.compareExchange(this.#integers, ENDING, 0, 1) === 0;
	}
}
