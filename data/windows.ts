import { UserError } from "../base/errors.ts";
import { plural } from "../base/figures.ts";
import { PythonRandom } from "../base/python_random.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { readHeader, TensorReader } from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";

/** Name in messages of the text that token ids come from. */
export interface TextName {
	name?: string;
}

/**
 * Consecutive windows of token ids; an incomplete last window is dropped.
 *
 * @param length Tokens per window.
 * @param options.limit Maximum number of windows; default all.
 * @returns Windows of `length` tokens, at least one.
 * @throws {UserError} If there are fewer tokens than one window has.
 */
export function consecutiveWindows(
	ids: ArrayLike<number>,
	length: number,
	{ limit = Infinity, name }: { limit?: number } & TextName = {},
): Int32Array<ArrayBuffer>[] {
	const available = countWindows(ids, length, name);
	const tokens = Int32Array.from(ids);
	return Array.from(
		{ length: Math.min(available, limit) },
		(_, window) => tokens.slice(window * length, (window + 1) * length),
	);
}

/**
 * Windows at random positions of token ids, equal to the calibration windows of GPTQ and the released BiLLM
 * program for equal token ids. As there, the window at the very end of the text is never drawn, unless it
 * is the only one. Windows may overlap or repeat. A larger count only adds windows.
 *
 * @param length Tokens per window.
 * @param count Number of windows.
 * @param seed Seed of Python's `random`: an integer of at most 53 bits.
 * @throws {UserError} If there are fewer tokens than one window has.
 */
export function randomWindows(
	ids: ArrayLike<number>,
	length: number,
	count: number,
	seed: number,
	{ name }: TextName = {},
): Int32Array<ArrayBuffer>[] {
	countWindows(ids, length, name);
	const tokens = Int32Array.from(ids);
	const random = new PythonRandom(seed);
	const last = Math.max(0, tokens.length - length - 1);
	return Array.from({ length: count }, () => {
		const start = random.randint(0, last);
		return tokens.slice(start, start + length);
	});
}

/** The number of complete windows, at least one. */
function countWindows(ids: ArrayLike<number>, length: number, name?: string): number {
	if (!(Number.isInteger(length) && length >= 1)) {
		throw new RangeError(`Cannot cut windows of ${length} tokens`);
	}
	if (ids.length < length) {
		throw new UserError(
			`The text${name === undefined ? "" : ` "${name}"`} has ${ids.length} ${
				plural(ids.length, "token")
			}, fewer than ` +
				`one window of ${length}; use a longer text or a smaller sequence-length`,
		);
	}
	return Math.floor(ids.length / length);
}

/**
 * Token windows of a safetensors file with one tensor, I32 or I64 `[windows, length]`.
 *
 * @throws {UserError} If the file has other content, or a token id is negative or too large.
 */
export function readTokenIds(path: string): Int32Array<ArrayBuffer>[] {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read token ids from "${path}": ${problem}`);
	};
	const tensors = [...readHeader(denoFile(path)).tensors.values()];
	if (tensors.length !== 1) {
		refuse(`it has ${tensors.length} ${plural(tensors.length, "tensor")}, but one is needed`);
	}
	const [tensor] = tensors;
	const { dtype, shape } = tensor;
	if ((dtype !== "I32" && dtype !== "I64") || shape.length !== 2 || tensor.bytes === 0) {
		refuse(`"${tensor.name}" is ${dtype} [${shape.join(", ")}], not I32 or I64 [windows, length]`);
	}
	using reader = new TensorReader(denoFile);
	const { buffer } = reader.readBytes(tensor);
	const stored = dtype === "I32" ? new Int32Array(buffer) : new BigInt64Array(buffer);
	const ids = Int32Array.from<number | bigint>(stored, (id) => {
		if (id < 0 || id >= 2 ** 31) refuse(`${id} is no token id`);
		return Number(id);
	});
	const [windows, length] = shape;
	return Array.from({ length: windows }, (_, i) => ids.slice(i * length, (i + 1) * length));
}

/**
 * Writes token windows of one length to a safetensors file that {@link readTokenIds} reads: one
 * tensor, "input_ids", I32 `[windows, length]`.
 *
 * @throws {UserError} If the file cannot be written.
 */
export function writeTokenIds(path: string, windows: readonly Int32Array[]): void {
	const length = windows[0]?.length ?? 0;
	if (length === 0 || windows.some((window) => window.length !== length)) {
		throw new RangeError(`Cannot write ${windows.length} windows: not all of one length`);
	}
	const data = windows.map(({ buffer, byteOffset, byteLength }) =>
		new Uint8Array(buffer, byteOffset, byteLength)
	);
	const shape = [windows.length, length];
	writeSafetensors(path, [{ name: "input_ids", dtype: "I32", shape, data }]);
}
