import { UserError } from "../pipeline/errors.ts";
import { readHeader, TensorReader } from "./safetensors.ts";

/**
 * Reads a UTF-8 text file; a byte order mark at its start is dropped.
 *
 * A file whose name ends in `.raw` is taken for a WikiText file and becomes what its dataset's rows
 * joined with two line ends are, as perplexities are published on it: each line keeps its line end,
 * and a blank line is an empty row.
 *
 * @throws {UserError} If the file cannot be read or is not UTF-8.
 */
export function readText(path: string): string {
  const refuse = (problem: string): never => {
    throw new UserError(`Cannot read the text "${path}": ${problem}`);
  };
  let bytes = new Uint8Array();
  try {
    bytes = Deno.readFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) refuse("there is no such file");
    if (error instanceof Deno.errors.IsADirectory) refuse("it is a folder");
    refuse(error instanceof Error ? error.message : String(error));
  }
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    refuse("it is not UTF-8; convert it, for example with iconv");
  }
  return path.endsWith(".raw") ? joinRows(text) : text;
}

function joinRows(text: string): string {
  const rows = text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
  return rows.map((row) => row.trim() === "" ? "" : row).join("\n\n");
}

/** What error messages call the text that token ids come from. */
export interface TextName {
  name?: string;
}

/**
 * Cuts token ids into windows, one after the other; what is left at the end is dropped.
 *
 * @param length Tokens per window.
 * @param options.limit The greatest number of windows; all, if absent.
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
 * Cuts windows at random places of token ids, as calibration in the manner of GPTQ does: every
 * place is equally probable, and windows may overlap or repeat. The same ids, length, count and
 * seed give the same windows on every platform; a greater count only adds windows.
 *
 * @param length Tokens per window.
 * @param count Windows.
 * @param seed An integer from 0 to 2⁵³ - 1.
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
  const random = sfc32(seed);
  return Array.from({ length: count }, () => {
    const start = Math.floor(random() * (tokens.length - length + 1));
    return tokens.slice(start, start + length);
  });
}

/** How many windows fit, at least one. */
function countWindows(ids: ArrayLike<number>, length: number, name?: string): number {
  if (!(Number.isInteger(length) && length >= 1)) {
    throw new RangeError(`Cannot cut windows of ${length} tokens`);
  }
  if (ids.length < length) {
    throw new UserError(
      `The text${name === undefined ? "" : ` "${name}"`} has ${ids.length} tokens, fewer than ` +
        `one window of ${length}; use a longer text or a smaller sequence-length`,
    );
  }
  return Math.floor(ids.length / length);
}

/**
 * Chris Doty-Humphrey's "Small Fast Counting" generator, seeded as in his PractRand.
 *
 * @returns A function that gives the next number in [0, 1), a multiple of 2⁻³².
 * @see https://pracrand.sourceforge.net/
 */
function sfc32(seed: number): () => number {
  let [a, b, c, counter] = [0, seed | 0, Math.floor(seed / 2 ** 32) | 0, 1];
  const next = () => {
    const sum = (a + b + counter++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21 | c >>> 11) + sum) | 0;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let warmUp = 0; warmUp < 12; warmUp++) next();
  return next;
}

/**
 * Reads token windows from a safetensors file with one tensor, `[windows, length]`, I32 or I64.
 *
 * @throws {UserError} If the file is not of that kind, or a token id is negative or too large.
 */
export function readTokenIds(path: string): Int32Array<ArrayBuffer>[] {
  const refuse = (problem: string): never => {
    throw new UserError(`Cannot read token ids from "${path}": ${problem}`);
  };
  const tensors = [...readHeader(path).tensors.values()];
  if (tensors.length !== 1) refuse(`it has ${tensors.length} tensors, but one is needed`);
  const [tensor] = tensors;
  const { dtype, shape } = tensor;
  if ((dtype !== "I32" && dtype !== "I64") || shape.length !== 2 || tensor.bytes === 0) {
    refuse(`"${tensor.name}" is ${dtype} [${shape.join(", ")}], not I32 or I64 [windows, length]`);
  }
  using reader = new TensorReader();
  const { buffer } = reader.readBytes(tensor);
  const stored = dtype === "I32" ? new Int32Array(buffer) : new BigInt64Array(buffer);
  const ids = Int32Array.from<number | bigint>(stored, (id) => {
    if (id < 0 || id >= 2 ** 31) refuse(`${id} is no token id`);
    return Number(id);
  });
  const [windows, length] = shape;
  return Array.from({ length: windows }, (_, i) => ids.slice(i * length, (i + 1) * length));
}
