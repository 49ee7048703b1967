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
	return decodeTable(
		TABLE_DATA[nameOf(trellis)],
		2 ** trellis.stateBits * stepsOf(trellis).stepWeights,
	);
}

/** The exponents of f16 numbers in the tables, as stored, from the most to the least frequent one. */
const EXPONENTS = [14, 15, 13, 12, 11, 16, 10, 9, 8, 7, 6, 5, 4, 2, 3, 1];

/**
 * The f16 bytes of a table from its text. Two characters, digits in base 91, are 13 bits. A number is the
 * place of its exponent in {@link EXPONENTS} as so many ones and a zero, then its sign and mantissa. The
 * digits are the printable characters of ASCII but space, `"`, `<` and the backslash.
 */
function decodeTable(text: string, count: number): Uint8Array<ArrayBuffer> {
	const digit = (at: number) => {
		const code = text.charCodeAt(at);
		return code - 33 - Number(code > 34) - Number(code > 60) - Number(code > 92);
	};
	let [at, buffer, left] = [0, 0, 0];
	const take = (bits: number) => {
		while (left < bits) {
			buffer = buffer * 8192 + digit(at) * 91 + digit(at + 1);
			at += 2;
			left += 13;
		}
		left -= bits;
		const value = Math.floor(buffer / 2 ** left);
		buffer %= 2 ** left;
		return value;
	};
	const values = new Uint16Array(count);
	for (let i = 0; i < count; i++) {
		let place = 0;
		while (take(1) === 1) place++;
		const [sign, mantissa] = [take(1), take(10)];
		values[i] = sign << 15 | EXPONENTS[place] << 10 | mantissa;
	}
	return new Uint8Array(values.buffer);
}

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
