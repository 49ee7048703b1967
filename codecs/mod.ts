import type { Checkpoint } from "../storage/checkpoint.ts";
import type { StoredTensor, TensorToWrite } from "../storage/safetensors.ts";
import { billm } from "./billm/codec.ts";
import type { Codec, HostLinear, PackedLinear, StoreForm } from "./codec.ts";
import { grid } from "./grid/codec.ts";
import { columnsOf, type QuantizationConfig } from "./quantization_config.ts";
import { UserError } from "../base/errors.ts";

/** The codecs of packed linear layers. A linear layer that has the main tensor of none is dense. */
export const CODECS: Codec[] = [billm, grid];

/**
 * Adds a codec of a program's own.
 *
 * @returns Takes it out again when it is disposed of.
 * @throws {Error} If there is one of its name or with its main tensor.
 */
export function addCodec(codec: Codec): Disposable {
  const other = CODECS.find(({ name, main }) => name === codec.name || main === codec.main);
  if (other) throw new Error(`"${codec.name}" is in the way of the codec "${other.name}"`);
  CODECS.push(codec);
  return { [Symbol.dispose]: () => void CODECS.splice(CODECS.indexOf(codec), 1) };
}

/** The codec of a linear layer in a checkpoint; undefined if it is dense, or not there. */
export function codecOf(checkpoint: Checkpoint, name: string): Codec | undefined {
  return CODECS.find(({ main }) => checkpoint.has(`${name}.${main}`));
}

/** The first version of the packed format that has these codecs. */
export function versionFor(codecs: Iterable<Codec>): number {
  return Math.max(2, ...[...codecs].map(({ since }) => since));
}

/** The tensor that a packed linear layer has whatever its form, with a row for each of its rows. */
export function mainTensor(checkpoint: Checkpoint, name: string): StoredTensor | undefined {
  const codec = codecOf(checkpoint, name);
  return codec && checkpoint.get(`${name}.${codec.main}`);
}

/**
 * Reads a packed linear layer.
 *
 * @returns Undefined for a dense one.
 * @throws {UserError} If config.json lacks its columns, or a tensor is missing or has a shape that
 *   does not fit the others, or another type.
 */
export function loadLinear(
  checkpoint: Checkpoint,
  quantization: QuantizationConfig,
  name: string,
): PackedLinear | undefined {
  const codec = codecOf(checkpoint, name);
  if (!codec) return undefined;
  const cols = requireColumns(checkpoint, quantization, name);
  return {
    codec,
    host: codec.load(checkpoint, name, { cols, blockSize: quantization.block_size }),
  };
}

/** @throws {UserError} If config.json does not say how many columns a packed linear layer has. */
export function requireColumns(
  checkpoint: Checkpoint,
  quantization: QuantizationConfig,
  name: string,
): number {
  const cols = columnsOf(quantization, name);
  if (cols !== undefined) return cols;
  throw new UserError(
    `"${checkpoint.folder}": quantization_config lacks the columns of "${name}"`,
  );
}

/** The tensors that store a linear layer, and the bytes of each of its parts. */
export function storeLinear<Host extends HostLinear>(
  name: string,
  { codec, host }: PackedLinear<Host>,
  form: StoreForm,
): { tensors: TensorToWrite[]; parts: Record<string, number> } {
  const tensors = codec.store(name, host, form);
  const parts = noParts(codec as Codec);
  for (const { name, data } of tensors) {
    add(parts, codec.parts[lastWord(name)], (data as Uint8Array).length);
  }
  return { tensors, parts };
}

function noParts({ usualParts }: Codec): Record<string, number> {
  return Object.fromEntries(usualParts.map((part) => [part, 0]));
}

function add(parts: Record<string, number>, part: string, bytes: number): void {
  parts[part] = (parts[part] ?? 0) + bytes;
}

function lastWord(tensor: string): string {
  return tensor.slice(tensor.lastIndexOf(".") + 1);
}

/** The linear layer that a tensor is of, and the part of it that it is; undefined for another tensor. */
export function partOf(
  checkpoint: Checkpoint,
  tensor: string,
): { codec: Codec; linear: string; part: string } | undefined {
  const word = lastWord(tensor);
  const linear = tensor.slice(0, -word.length - 1);
  const codec = codecOf(checkpoint, linear);
  if (!codec || !Object.hasOwn(codec.parts, word)) return undefined;
  return { codec, linear, part: codec.parts[word] };
}

/** What the tensors of a packed linear layer take. */
export interface LinearSizes {
  codec: Codec;
  tensors: string[];
  /** Bytes by part. */
  parts: Record<string, number>;
}

/** The packed linear layers of a checkpoint by name, in its order. */
export function packedLinears(checkpoint: Checkpoint): Map<string, LinearSizes> {
  const linears = new Map<string, LinearSizes>();
  for (const { name, bytes } of checkpoint.tensors.values()) {
    const found = partOf(checkpoint, name);
    if (!found) continue;
    const { codec, linear, part } = found;
    if (!linears.has(linear)) linears.set(linear, { codec, tensors: [], parts: noParts(codec) });
    const { tensors, parts } = linears.get(linear)!;
    tensors.push(name);
    add(parts, part, bytes);
  }
  return linears;
}
