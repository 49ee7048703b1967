import { crc32 } from "./crc32.ts";

/** The latest version of the packed format that this program reads. */
export const FORMAT_VERSION = 6;

/** The first version whose linear layers may transform their input. */
export const TRANSFORMS_SINCE = 4;

/** The first version whose embeddings may have zeros. */
export const EMBEDDING_ZEROS_SINCE = 5;

/** The problem with a version of the packed format, as text; undefined if it is supported. */
export function versionProblem(version: number): string | undefined {
	if (version <= FORMAT_VERSION) return undefined;
	return `the packed format has version ${version}, this program reads versions up to ` +
		`${FORMAT_VERSION}; use a later program`;
}

/** The first version whose tensors have checksums. */
const CHECKSUMS_SINCE = 2;

/** A checksum as eight hexadecimal digits. */
export function checksumText(checksum: number): string {
	return checksum.toString(16).padStart(8, "0");
}

/**
 * The `__metadata__` of a file of a packed model.
 *
 * @param tensors Their `data` is called once.
 * @param version The version of the packed format: the first one that supports the file's content, so
 *   that older programs can read it.
 * @param checksumOf The CRC-32 of bytes; a host's native one is faster.
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

/** Whether a file with these `__metadata__` belongs to a packed model. */
export function isPackedFile({ format }: Record<string, string>): boolean {
	return format === "billm";
}

/** The order of checksums: by tensor name as UTF-16. */
function byName(a: string, b: string): number {
	return a < b ? -1 : Number(a > b);
}

/**
 * The checksums of a file's tensors, by name.
 *
 * @param metadata The file's `__metadata__`.
 * @param names The tensors in the file.
 * @returns Undefined if the file does not belong to a packed model, or its version has no checksums.
 * @throws {PackedMetadataError} If the version is later than this program's, or a checksum is missing or
 *   malformed.
 */
export function readChecksums(
	metadata: Record<string, string>,
	names: Iterable<string>,
): Map<string, number> | undefined {
	if (!isPackedFile(metadata)) return undefined;
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

/** An error in the metadata; its message follows `Cannot read "x": `. */
export class PackedMetadataError extends Error {}
