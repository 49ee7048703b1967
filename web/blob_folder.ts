import { FileError, type Folder, type OpenFile, type SourceFile } from "../storage/folder.ts";

/** The synchronous reader of blobs, which exists in workers only. */
declare const FileReaderSync: { new (): { readAsArrayBuffer(blob: Blob): ArrayBuffer } };

/** The used part of a FileSystemDirectoryHandle. */
interface DirectoryHandle {
	readonly name: string;
	entries(): AsyncIterable<[name: string, entry: { name: string; getFile?(): Promise<Blob> }]>;
}

/**
 * A folder of files on disk, for workers: files chosen by the user, or those of the origin private file
 * system ({@link openOrigin}).
 */
export class BlobFolder implements Folder {
	/**
	 * @param files The files by name.
	 * @param path The folder's name in messages.
	 */
	constructor(readonly files: ReadonlyMap<string, Blob>, readonly path = "files") {}

	/** A snapshot of a folder in the origin private file system (a FileSystemDirectoryHandle). */
	static async openOrigin(folder: DirectoryHandle): Promise<BlobFolder> {
		const files = new Map<string, Blob>();
		for await (const [name, entry] of folder.entries()) {
			const file = await entry.getFile?.(); // folders have none
			if (file) files.set(name, file);
		}
		return new BlobFolder(files, folder.name);
	}

	names(): string[] {
		return [...this.files.keys()].sort();
	}

	has(name: string): boolean {
		return this.files.has(name);
	}

	file(name: string): SourceFile {
		return { path: `${this.path}/${name}`, open: () => openBlob(this.files.get(name)) };
	}
}

function openBlob(blob: Blob | undefined): OpenFile {
	if (!blob) throw new FileError("ENOENT", "there is no such file");
	const reader = new FileReaderSync();
	return {
		size: blob.size,
		read(offset, target) {
			let bytes: Uint8Array;
			try {
				const part = blob.slice(offset, offset + target.length);
				bytes = new Uint8Array(reader.readAsArrayBuffer(part));
			} catch (error) { // for example a file that has changed since
				throw new FileError("EIO", (error as Error).message);
			}
			target.set(bytes);
			return bytes.length;
		},
		[Symbol.dispose]() {},
	};
}
