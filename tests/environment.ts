/** Sets variables of the environment until it goes out of scope. */
export class Environment implements Disposable {
	#before: Record<string, string | undefined> = {};

	constructor(variables: Record<string, string | undefined>) {
		for (const [name, value] of Object.entries(variables)) {
			this.#before[name] = Deno.env.get(name);
			Environment.#set(name, value);
		}
	}

	static #set(name: string, value: string | undefined): void {
		if (value === undefined) Deno.env.delete(name);
		else Deno.env.set(name, value);
	}

	[Symbol.dispose](): void {
		for (const [name, value] of Object.entries(this.#before)) Environment.#set(name, value);
	}
}
