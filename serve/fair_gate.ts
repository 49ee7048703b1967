/** The time that clients have used of something they share. Only clients that are present count. */
export class Shares {
	readonly #clients = new Map<string, { used: number; present: number }>();

	/**
	 * Notes that a client has a request, until the result is disposed. It begins with what the client
	 * with the least time has: time that it did not want is not saved up.
	 */
	join(client: string): Disposable {
		let share = this.#clients.get(client);
		if (!share) {
			const others = [...this.#clients.values()].map(({ used }) => used);
			share = { used: others.length > 0 ? Math.min(...others) : 0, present: 0 };
			this.#clients.set(client, share);
		}
		share.present++;
		return {
			[Symbol.dispose]: () => {
				if (--share.present === 0) this.#clients.delete(client);
			},
		};
	}

	used(client: string): number {
		return this.#clients.get(client)?.used ?? 0;
	}

	/** Adds milliseconds. */
	add(client: string, used: number): void {
		const share = this.#clients.get(client);
		if (share) share.used += used;
	}
}

interface Waiting {
	client: string;
	enter: () => void;
}

/** Limits how many requests do something at a time. Those of the client that has used the least go first. */
export class FairGate {
	readonly #waiting: Waiting[] = [];
	readonly #inside = new Map<string, number>();
	#free: number;

	/** @param places Requests at a time; a client that has one leaves the last free one to others. */
	constructor(readonly places: number, readonly shares: Shares) {
		this.#free = places;
	}

	get waiting(): number {
		return this.#waiting.length;
	}

	get inside(): number {
		return this.places - this.#free;
	}

	/**
	 * Waits for a place, which is held until the result is disposed.
	 *
	 * @throws The signal's reason, if it is aborted before.
	 */
	async enter(client: string, signal: AbortSignal): Promise<Disposable> {
		signal.throwIfAborted();
		const { promise, resolve, reject } = Promise.withResolvers<void>();
		const waiting = { client, enter: resolve };
		const leave = () => {
			const at = this.#waiting.indexOf(waiting);
			if (at < 0) return; // it has entered
			this.#waiting.splice(at, 1);
			reject(signal.reason);
		};
		signal.addEventListener("abort", leave);
		this.#waiting.push(waiting);
		this.#admit();
		try {
			await promise;
		} finally {
			signal.removeEventListener("abort", leave);
		}
		return {
			[Symbol.dispose]: () => {
				this.#free++;
				this.#count(client, -1);
				this.#admit();
			},
		};
	}

	#admit(): void {
		for (;;) {
			const mayEnter = ({ client }: Waiting) =>
				this.#free > 1 || this.#free === 1 && (this.places === 1 || !this.#inside.has(client));
			const next = this.#waiting.filter(mayEnter).reduce<Waiting | undefined>(
				(a, b) => a && this.shares.used(a.client) <= this.shares.used(b.client) ? a : b,
				undefined,
			);
			if (!next) return;
			this.#waiting.splice(this.#waiting.indexOf(next), 1);
			this.#free--;
			this.#count(next.client, 1);
			next.enter();
		}
	}

	#count(client: string, change: number): void {
		const count = (this.#inside.get(client) ?? 0) + change;
		if (count > 0) this.#inside.set(client, count);
		else this.#inside.delete(client);
	}
}
