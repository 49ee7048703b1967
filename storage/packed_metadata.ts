import { crc32 } from "./crc32.ts";

/** The last version of the packed format, up to which this program reads. */
export const FORMAT_VERSION = 3;

/** What {@link versionProblem} says of a version of the packed format. */
export function versionProblem(version: number): string | undefined {
  if (version <= FORMAT_VERSION) return undefined;
  return `the packed format has version ${version}, this program reads versions up to ` +
    `${FORMAT_VERSION}; use a later program`;
}

/** The first version whose tensors have checksums. */
const CHECKSUMS_SINCE = 2;

/** Eight hexadecimal digits. */
export function checksumText(checksum: number): string {
  return checksum.toString(16).padStart(8, "0");
}

/**
 * The `__metadata__` of a file of a packed model.
 *
 * @param tensors Their `data` is asked for, once.
 * @param version Of the packed format: the first one that has what the file holds, so that earlier
 *   programs read what they can.
 * @param checksumOf CRC-32 of bytes; the host's own is faster.
 */
export function packedMetadata(
  tensors: readonly { name: string; data: Uint8Array | Iterable<Uint8Array> }[],
  version: number,
  checksumOf = crc32,
): Record<string, string> {
  const checksums = tensors.toSorted((a, b) => byName(a.name, b.name)).map(({ data }) => {
    let checksum = 0;
    for (const chunk of data instanceof Uint8Array ? [data] : data) {
      checksum = checksumOf(chunk, checksum);
    }
    return checksumText(checksum);
  });
  return {
    format: "billm",
    format_version: String(version),
    checksums: checksums.join(" "),
  };
}

/** The order of checksums, which is that of their tensors' names as UTF-16. */
function byName(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

/**
 * The checksums of a file's tensors, by name.
 *
 * @param metadata `__metadata__` of the file.
 * @param names The tensors that the file has.
 * @returns Undefined for a file that is not of a packed model, or of one from before checksums.
 * @throws {PackedMetadataError} If the version is later than this program's, or a checksum is
 *   missing or none.
 */
export function readChecksums(
  metadata: Record<string, string>,
  names: Iterable<string>,
): Map<string, number> | undefined {
  if (metadata.format !== "billm") return undefined;
  const { format_version: version } = metadata;
  if (!/^[1-9]\d*$/.test(version ?? "")) {
    const found = version === undefined ? "no version" : `the version "${version}"`;
    throw new PackedMetadataError(`its metadata has ${found} of the packed format`);
  }
  const problem = versionProblem(Number(version));
  if (problem) throw new PackedMetadataError(problem);
  if (Number(version) < CHECKSUMS_SINCE) return undefined;
  const texts = metadata.checksums?.split(" ") ?? [];
  const sorted = [...names].sort(byName);
  if (texts.length !== sorted.length || !texts.every((text) => /^[0-9a-f]{8}$/.test(text))) {
    throw new PackedMetadataError("its metadata lacks checksums; the file is damaged");
  }
  return new Map(sorted.map((name, i) => [name, parseInt(texts[i], 16)]));
}

/** What is wrong with the metadata, to follow `Cannot read "x": `. */
export class PackedMetadataError extends Error {}
