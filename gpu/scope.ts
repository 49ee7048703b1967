/** A value in the asynchronous context of some work. */
export interface Scope<Value> {
	/** The value in the caller's context. */
	getStore(): Value | undefined;
	run(value: Value, work: () => Promise<void>): Promise<void>;
	/** Called before the caller waits for another task; ends a scope that cannot track its context. */
	leave?(): void;
}

/**
 * A scope for hosts without asynchronous context tracking. The work runs alone in a task of the host, as
 * long as everything that it awaits is already settled. If it has to wait longer, the value is
 * withdrawn, which the work can detect.
 */
export class TurnScope<Value> implements Scope<Value> {
	#value?: Value;

	/** @param nextTask Resolves at the start of a new task of the host. */
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
