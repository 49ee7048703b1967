import { UserError } from "../base/errors.ts";
import { SMALL_FILES } from "../models/model_files.ts";
import { readWeightMap } from "../storage/checkpoint.ts";
import { MemoryFolder } from "../storage/memory_folder.ts";

const INDEX = "model.safetensors.index.json";
const SINGLE = "model.safetensors";

export interface FetchOptions {
  signal?: AbortSignal;
  /** Called while a file comes in. `total` is absent where the server does not say it. */
  onProgress?(file: string, bytes: number, total: number | undefined): void;
}

/**
 * Fetches a model into memory: config.json, the tokenizer's files and the weights, as far as they are
 * there.
 *
 * @param url Of the folder that the files lie in.
 * @throws {UserError} If a file cannot be fetched.
 * @throws {DOMException} If the signal aborts it.
 */
export async function fetchFolder(url: string, options: FetchOptions = {}): Promise<MemoryFolder> {
  const base = url.replace(/\/+$/, "");
  const files = new Map<string, Uint8Array<ArrayBuffer>>();
  const folder = new MemoryFolder(files, base);
  const take = async (names: Iterable<string>) => {
    for (const name of names) {
      const bytes = await fetchFile(base, name, options);
      if (bytes) files.set(name, bytes);
    }
  };
  await take([...SMALL_FILES, INDEX]);
  const isSharded = folder.has(INDEX);
  await take(isSharded ? new Set(Object.values(readWeightMap(folder.file(INDEX)))) : [SINGLE]);
  return folder;
}

/** The content of a file; undefined if the server has none of this name. */
async function fetchFile(
  base: string,
  name: string,
  { signal, onProgress }: FetchOptions,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const url = `${base}/${name}`;
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new UserError(`Cannot fetch "${url}": ${(error as Error).message}`);
  }
  if (response.status === 404) {
    await response.body?.cancel();
    return undefined;
  }
  if (!response.ok) {
    await response.body?.cancel();
    throw new UserError(`Cannot fetch "${url}": ${response.status} ${response.statusText}`.trim());
  }
  const length = response.headers.get("content-length");
  const total = length === null ? undefined : Number(length);
  let bytes = 0;
  const counted = response.body!.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        bytes += chunk.length;
        onProgress?.(name, bytes, total);
        controller.enqueue(chunk);
      },
    }),
  );
  return new Uint8Array(await new Response(counted).arrayBuffer());
}
