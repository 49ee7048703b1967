/**
 * A signal that is aborted with any of some others. Unlike that of `AbortSignal.any()`, which Deno loses to
 * the garbage collector together with a request that nothing else uses, it is kept until it is disposed.
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
