/** Bytes of events that wait for a reader before generation waits too. */
const MOST_BYTES = 65_536;

/**
 * Server-sent events. A reader that is slow slows down what sends them.
 *
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
export class EventStream {
	readonly body: ReadableStream<Uint8Array>;
	#controller!: ReadableStreamDefaultController<Uint8Array>;
	/** Resolved when there is room again; all who send wait for it. */
	#room?: PromiseWithResolvers<void>;
	#isOpen = true;

	/**
	 * @param patience Milliseconds that a reader may take for the bytes that wait.
	 * @param left Called if the reader goes away or takes longer.
	 */
	constructor(readonly patience: number, readonly left: (reason: Error) => void) {
		this.body = new ReadableStream<Uint8Array>({
			start: (controller) => {
				this.#controller = controller;
			},
			pull: () => this.#resume(),
			cancel: () => this.#leave("The client has left"),
		}, { highWaterMark: MOST_BYTES, size: ({ length }) => length });
	}

	/** Sends an event, and waits until there is room for another one or the reader has left. */
	async send(data: unknown): Promise<void> {
		const text = typeof data === "string" ? data : JSON.stringify(data);
		if (!this.#isOpen) return;
		this.#controller.enqueue(new TextEncoder().encode(`data: ${text}\n\n`));
		// The reader may leave during that call.
		if (!this.#isOpen || this.#controller.desiredSize! > 0) return;
		this.#room ??= Promise.withResolvers();
		const timer = setTimeout(() => {
			if (!this.#isOpen) return;
			this.#leave(`The client has read nothing for ${this.patience / 1000} s`);
			this.#controller.error(new Error("too slow"));
		}, this.patience);
		await this.#room.promise;
		clearTimeout(timer);
	}

	close(): void {
		if (this.#isOpen) this.#controller.close();
		this.#isOpen = false;
	}

	#resume(): void {
		this.#room?.resolve();
		this.#room = undefined;
	}

	#leave(message: string): void {
		this.#isOpen = false;
		this.#resume();
		this.left(new Error(message));
	}
}
