import { UserError } from "../../base/errors.ts";
import { type ActivationName, ACTIVATIONS } from "../../gpu/kernels/elementwise/activation.ts";

/** The greatest whole number, as sizes and positions are i32 on the GPU. */
const MOST = 2 ** 31 - 1;

/** The most decoder layers: several times those of the deepest models. */
const MOST_LAYERS = 4096;

/** A reader of the fields of a config.json; its errors name the file and the field. */
export class Fields {
	/**
	 * The fields of an object.
	 *
	 * @param prefix The prefix of field names in messages.
	 */
	constructor(
		readonly json: Record<string, unknown>,
		readonly file: string,
		readonly prefix = "",
	) {}

	/** The fields of a nested object. */
	within(key: string): Fields {
		const value = this.json[key];
		if (typeof value !== "object" || value === null || Array.isArray(value)) {
			this.fail(key, "an object");
		}
		return new Fields(value as Record<string, unknown>, this.file, `${this.prefix}${key}.`);
	}

	/** The same fields, some of them with other values. */
	replaced(values: Record<string, unknown>): Fields {
		return new Fields({ ...this.json, ...values }, this.file, this.prefix);
	}

	/** The same fields, with others where they are absent or null. */
	withDefaults(defaults: Record<string, unknown>): Fields {
		const json = { ...this.json };
		for (const [key, value] of Object.entries(defaults)) json[key] ??= value;
		return new Fields(json, this.file, this.prefix);
	}

	/**
	 * Refuses the value of a field.
	 *
	 * @param reason What is said behind the value that was found.
	 */
	fail(key: string, wanted: string, reason?: string): never {
		const found = this.json[key] === undefined ? "nothing" : JSON.stringify(this.json[key]);
		throw new UserError(
			`"${this.file}": ${this.prefix}${key} must be ${wanted}, found ${found}${
				reason ? `: ${reason}` : ""
			}`,
		);
	}

	/** An integer. */
	integer(key: string, fallback?: number): number {
		const value = this.json[key] ?? fallback;
		if (!Number.isSafeInteger(value) || (value as number) < 1) {
			this.fail(key, "a whole number of at least 1");
		}
		return this.#atMost(MOST, key, value as number);
	}

	/** The number of decoder layers. */
	layers(key: string): number {
		return this.#atMost(MOST_LAYERS, key, this.integer(key));
	}

	#atMost(most: number, key: string, value: number): number {
		if (value > most) this.fail(key, `at most ${most}`);
		return value;
	}

	/** A positive integer. */
	count(key: string, fallback: number): number {
		const value = this.json[key] ?? fallback;
		if (!Number.isSafeInteger(value) || (value as number) < 0) {
			this.fail(key, "a whole number of at least 0");
		}
		return this.#atMost(MOST, key, value as number);
	}

	/** A number. */
	number(key: string, fallback?: number): number {
		const value = this.json[key] ?? fallback;
		if (typeof value !== "number" || !(value > 0)) this.fail(key, "a number above 0");
		const single = Math.fround(value as number);
		if (single === 0 || single === Infinity) this.fail(key, "a number that f32 can hold");
		return value as number;
	}

	/** A number above 0, or undefined if it is absent or null. */
	optional(key: string): number | undefined {
		return this.json[key] == null ? undefined : this.number(key);
	}

	/** A list of numbers above 0. */
	numbers(key: string, count: number): number[] {
		const values = this.json[key];
		const isRight = Array.isArray(values) && values.length === count &&
			values.every((value) => typeof value === "number" && value > 0);
		if (!isRight) this.fail(key, `a list of ${count} numbers above 0`);
		return values as number[];
	}

	/** A boolean. */
	boolean(key: string, fallback: boolean): boolean {
		const value = this.json[key] ?? fallback;
		if (typeof value !== "boolean") this.fail(key, "true or false");
		return value as boolean;
	}

	/** An activation function by its name. */
	activation(key: string, fallback: ActivationName): ActivationName {
		const value = this.json[key] ?? fallback;
		if (typeof value !== "string" || !Object.hasOwn(ACTIVATIONS, value)) {
			this.fail(key, `one of ${Object.keys(ACTIVATIONS).join(", ")}`);
		}
		return value as ActivationName;
	}
}
