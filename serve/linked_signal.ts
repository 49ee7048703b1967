/**
 * A signal that is aborted with any of some others, or by itself. It listens to them until it is disposed, so
 * that those that live long, such as a server's, do not collect listeners.
 */
export class LinkedSignal implements Disposable {
	readonly #controller = new AbortController();
	readonly #links: [of: AbortSignal, listener: () => void][];

	constructor(...others: readonly AbortSignal[]) {
		this.#links = others.map((other) => {
			const listener = () => this.abort(other.reason);
			other.addEventListener("abort", listener);
			if (other.aborted) listener();
			return [other, listener];
		});
	}

	get signal(): AbortSignal {
		return this.#controller.signal;
	}

	abort(reason: unknown): void {
		this.#controller.abort(reason);
	}

	[Symbol.dispose](): void {
		for (const [other, listener] of this.#links) other.removeEventListener("abort", listener);
	}
}
