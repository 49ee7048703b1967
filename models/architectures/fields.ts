import { UserError } from "../../base/errors.ts";
import { type ActivationName, ACTIVATIONS } from "../../gpu/kernels/elementwise/activation.ts";

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
    return value as number;
  }

  count(key: string, fallback: number): number {
    const value = this.json[key] ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 0) {
      this.fail(key, "a whole number of at least 0");
    }
    return value as number;
  }

  number(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !(value > 0)) this.fail(key, "a number above 0");
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
