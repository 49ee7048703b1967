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
  #room = Promise.withResolvers<void>();
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
      pull: () => this.#room.resolve(),
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
    this.#room = Promise.withResolvers();
    const timer = setTimeout(() => {
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

  #leave(message: string): void {
    this.#isOpen = false;
    this.#room.resolve();
    this.left(new Error(message));
  }
}
