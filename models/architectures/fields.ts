import { UserError } from "../../base/errors.ts";
import { type ActivationName, ACTIVATIONS } from "../../gpu/kernels/elementwise/activation.ts";

/** The greatest whole number, as sizes and positions are i32 on the GPU. */
const MOST = 2 ** 31 - 1;

/** The most decoder layers: several times those of the deepest models. */
const MOST_LAYERS = 4096;

/** A reader of the fields of a config.json; its errors name the file and the field. */
export class Fields {
  /** @param prefix The prefix of field names in messages. */
  constructor(
    readonly json: Record<string, unknown>,
    readonly file: string,
    readonly prefix = "",
  ) {}

  /** The fields of a nested object. */
  within(key: string): Fields {
    return new Fields(this.json[key] as Record<string, unknown>, this.file, `${key}.`);
  }

  fail(key: string, wanted: string): never {
    const found = this.json[key] === undefined ? "nothing" : JSON.stringify(this.json[key]);
    throw new UserError(`"${this.file}": ${this.prefix}${key} must be ${wanted}, found ${found}`);
  }

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

  count(key: string, fallback: number): number {
    const value = this.json[key] ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 0) {
      this.fail(key, "a whole number of at least 0");
    }
    return this.#atMost(MOST, key, value as number);
  }

  number(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !(value > 0)) this.fail(key, "a number above 0");
    const single = Math.fround(value as number);
    if (single === 0 || single === Infinity) this.fail(key, "a number that f32 can hold");
    return value as number;
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "boolean") this.fail(key, "true or false");
    return value as boolean;
  }

  activation(key: string, fallback: ActivationName): ActivationName {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "string" || !Object.hasOwn(ACTIVATIONS, value)) {
      this.fail(key, `one of ${Object.keys(ACTIVATIONS).join(", ")}`);
    }
    return value as ActivationName;
  }
}
