/** What ends the program, or the part of it that waits, if work takes longer than it may. */
export interface Watch {
	/** @param what The work, as in "encoding 12 characters". */
	begin(what: string, seconds: number): void;
	end(): void;
}

/** Seconds that any such work may take. */
const SECONDS = 60;
/** Characters that take a second more: many times fewer than are treated in it. */
const CHARACTERS_PER_SECOND = 50_000;

let watch: Watch | undefined;
let isRunning = false;

/** Has work that cannot be interrupted watched from now on. Without a watch it may take any time. */
export function watchTime(by: Watch): void {
	watch = by;
}

/**
 * Runs work that might never end, such as a regular expression of a file, and that nothing in its own thread
 * can interrupt.
 *
 * @param what The work in messages, as in "encoding 12 characters".
 * @param size Characters that it treats.
 */
export function withTimeLimit<Result>(what: string, size: number, run: () => Result): Result {
	if (!watch || isRunning) return run(); // the limit around it holds
	isRunning = true;
	watch.begin(what, SECONDS + Math.ceil(size / CHARACTERS_PER_SECOND));
	try {
		return run();
	} finally {
		watch.end();
		isRunning = false;
	}
}
