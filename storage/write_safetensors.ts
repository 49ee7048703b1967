import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { isSystemError } from "./folder.ts";
import { DTYPE_BITS, type TensorToWrite } from "./safetensors.ts";

/** What {@link writeSafetensors} wrote. */
export interface WrittenFile {
  /** Of the whole file. */
  bytes: number;
  /** Of the whole file, in hexadecimal. */
  sha256: string;
  /** Of the header with its length field: where the data starts. */
  headerBytes: number;
}

/**
 * Writes a safetensors file: first under the name `path + ".tmp"`, then, when it is safe on the
 * disk, under its own. So `path` is at any time the old file or the whole new one.
 *
 * The layout is the reference implementation's: wider element types first, then by name, data from
 * a multiple of 8. So every tensor is aligned, and equal tensors and metadata give equal bytes.
 *
 * @param tensors Their `data` is asked for in the order of the layout, one after the other.
 * @throws {UserError} If the file cannot be written; the temporary file is removed.
 * @throws {RangeError} If names repeat, or `data` has not the bytes that dtype and shape need.
 */
export function writeSafetensors(
  path: string,
  tensors: TensorToWrite[],
  metadata: Record<string, string> = {},
): WrittenFile {
  const laidOut = tensors.toSorted((a, b) => dtypeRank(b) - dtypeRank(a) || byName(a, b));
  const header = headerOf(laidOut, metadata);
  const bytes = laidOut.reduce((sum, tensor) => sum + bytesOf(tensor), header.length);
  const temporary = path + ".tmp";
  const hash = createHash("sha256");
  try {
    {
      using file = Deno.openSync(temporary, { write: true, create: true, truncate: true });
      const write = (chunk: Uint8Array): void => {
        hash.update(chunk);
        for (let done = 0; done < chunk.length;) done += file.writeSync(chunk.subarray(done));
      };
      write(header);
      for (const tensor of laidOut) writeData(tensor, write);
      file.syncSync();
    }
    Deno.renameSync(temporary, path);
    syncFolder(dirname(path));
  } catch (error) {
    removeIfThere(temporary);
    throw new UserError(`Cannot write "${path}": ${writeProblem(error, bytes)}`);
  }
  return { bytes, sha256: hash.digest("hex"), headerBytes: header.length };
}

/** The length field, the JSON text and spaces up to a multiple of 8 bytes. */
function headerOf(tensors: TensorToWrite[], metadata: Record<string, string>): Uint8Array {
  const members = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) members.set("__metadata__", metadata);
  let offset = 0;
  for (const tensor of tensors) {
    const { name, dtype, shape } = tensor;
    if (members.has(name) || name === "__metadata__") {
      throw new RangeError(`Cannot write two tensors, or one and the metadata, named "${name}"`);
    }
    const end = offset + bytesOf(tensor);
    members.set(name, { dtype, shape, data_offsets: [offset, end] });
    offset = end;
  }
  const json = [...members].map(([key, value]) =>
    `${JSON.stringify(key)}:${JSON.stringify(value)}`
  );
  const text = new TextEncoder().encode(`{${json.join(",")}}`);
  const header = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(text, 8);
  return header;
}

function writeData(tensor: TensorToWrite, write: (chunk: Uint8Array) => void): void {
  let given = 0;
  for (const chunk of tensor.data instanceof Uint8Array ? [tensor.data] : tensor.data) {
    given += chunk.length;
    write(chunk);
  }
  if (given !== bytesOf(tensor)) {
    throw new RangeError(
      `Tensor "${tensor.name}" gives ${given} bytes, but ` +
        `${tensor.dtype} [${tensor.shape.join(", ")}] needs ${bytesOf(tensor)}`,
    );
  }
}

function bytesOf({ dtype, shape }: TensorToWrite): number {
  return shape.reduce((product, size) => product * size, 1) * DTYPE_BITS[dtype] / 8;
}

function dtypeRank({ dtype }: TensorToWrite): number {
  return Object.keys(DTYPE_BITS).indexOf(dtype);
}

function byName(a: TensorToWrite, b: TensorToWrite): number {
  return a.name < b.name ? -1 : Number(a.name > b.name);
}

/** Makes a rename in a folder safe on the disk; Windows has no such call and needs none. */
function syncFolder(folder: string): void {
  if (Deno.build.os === "windows") return;
  using handle = Deno.openSync(folder);
  handle.syncSync();
}

function removeIfThere(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!isSystemError(error)) throw error; // the error that led here says more
  }
}

function writeProblem(error: unknown, bytes: number): string {
  if (!isSystemError(error)) throw error;
  switch (error.code) {
    case "ENOENT":
      return "there is no such folder";
    case "EISDIR":
      return "it is a folder";
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return "the folder is not writable";
    case "ENOSPC":
    case "EDQUOT":
      return `no space left on the device (needed ${bytesText(bytes)})`;
    default:
      return error.message;
  }
}
