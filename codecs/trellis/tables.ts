import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { pairWords, type TableForm } from "./row_code.ts";
import { TABLE_DATA } from "./tables_data.ts";
import { hasTable, stepsOf, type Trellis } from "./trellis.ts";

const tables = new Map<string, Float32Array<ArrayBuffer>>();
const onGpus = new WeakMap<Gpu, Map<string, Tensor>>();

/** The f16 bytes of a table, little-endian. */
export function tableBytes(trellis: Trellis): Uint8Array<ArrayBuffer> {
  if (!hasTable(trellis)) throw new RangeError(`There is no table for ${JSON.stringify(trellis)}`);
  const text = TABLE_DATA[nameOf(trellis)];
  const words = Uint32Array.from({ length: text.length / 5 }, (_, i) => {
    const digits = [...text.slice(5 * i, 5 * i + 5)];
    return digits.reduce((word, digit) => 85 * word + Z85.indexOf(digit), 0);
  });
  let place = 0;
  const bit = () => words[place >> 5] >>> (31 - (place++ & 31)) & 1;
  const values = new Uint16Array(2 ** trellis.stateBits * stepsOf(trellis).stepWeights).map(() => {
    const sign = bit();
    let rank = 0;
    while (bit()) rank++;
    let value = sign << 5 | EXPONENTS[rank];
    for (let i = 0; i < 10; i++) value = value << 1 | bit();
    return value;
  });
  return new Uint8Array(values.buffer);
}

/** The digits of Z85, ZeroMQ's base 85. */
const Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/** The exponent bits of f16 by the number of 1s that encodes them, the most frequent first. */
const EXPONENTS = [14, 15, 13, 12, 11, 16, 10, 9, 8, 7, 6, 5, 4, 2, 3, 1];

/**
 * The table of a trellis: the weights of each state before they are multiplied by their row's scale, f32
 * `[2^stateBits, stepWeights]`, exact f16 values.
 *
 * @throws {RangeError} If there is none.
 */
export function tableOf(trellis: Trellis): Float32Array<ArrayBuffer> {
  const name = nameOf(trellis);
  let table = tables.get(name);
  if (!table) {
    table = new Float32Array(new Float16Array(tableBytes(trellis).buffer));
    tables.set(name, table);
  }
  return table;
}

/**
 * {@link tableOf} on the GPU, kept for the lifetime of the device; a view, which needs no freeing.
 *
 * @param form The u32 words of {@link pairWords} for "pairs", else f32 entries.
 */
export function tableOnGpu(gpu: Gpu, trellis: Trellis, form: TableForm = "stored"): Tensor {
  const isPaired = form === "pairs";
  const name = `${nameOf(trellis)}${isPaired ? " pairs" : ""}`;
  const known = onGpus.get(gpu) ?? new Map<string, Tensor>();
  onGpus.set(gpu, known);
  let tensor = known.get(name);
  if (!tensor) {
    const entries = tableOf(trellis);
    const table = isPaired ? pairWords(trellis, entries) : entries;
    const owner = gpu.upload(table, [table.length]);
    tensor = owner.view(0, owner.shape);
    known.set(name, tensor);
  }
  return tensor;
}

function nameOf({ stateBits, bits }: Trellis): string {
  return `${stateBits}-${bits}`;
}
