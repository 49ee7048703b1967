/** A value that holds for some work and what that awaits, and for nobody else. */
export interface Scope<Value> {
  /** The value that holds for the caller. */
  getStore(): Value | undefined;
  run(value: Value, work: () => Promise<void>): Promise<void>;
  /** Before the caller waits for what others may get ahead of; ends the scope where it cannot follow. */
  leave?(): void;
}

/**
 * A scope for hosts that do not follow what a function awaits. The work has a task of the host to
 * itself: it goes on as long as what it awaits is there already, and nobody else runs meanwhile. If it
 * has to wait for more, its value holds no longer, and the work sees that.
 */
export class TurnScope<Value> implements Scope<Value> {
  #value?: Value;

  /** @param nextTask Resolves in a task of the host in which nothing else has run yet. */
  constructor(readonly nextTask: () => Promise<void>) {}

  getStore(): Value | undefined {
    return this.#value;
  }

  async run(value: Value, work: () => Promise<void>): Promise<void> {
    await this.nextTask();
    this.#value = value;
    const end = () => {
      if (this.#value === value) this.#value = undefined;
    };
    this.nextTask().then(end);
    try {
      await work();
    } finally {
      end();
    }
  }

  leave(): void {
    this.#value = undefined;
  }
}
