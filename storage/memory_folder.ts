import { FileError, type Folder, type OpenFile, type SourceFile } from "./folder.ts";

/** A folder in memory: the contents of files by name. */
export class MemoryFolder implements Folder {
	readonly #files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>;

	/** @param path The folder's name in messages. */
	constructor(files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>, readonly path = "memory") {
		this.#files = files;
	}

	names(): string[] {
		return [...this.#files.keys()].sort();
	}

	has(name: string): boolean {
		return this.#files.has(name);
	}

	file(name: string): SourceFile {
		const open = (): OpenFile => {
			const bytes = this.#files.get(name);
			if (!bytes) throw new FileError("ENOENT", "there is no such file");
			return {
				size: bytes.length,
				read(offset, target) {
					const part = bytes.subarray(offset, offset + target.length);
					target.set(part);
					return part.length;
				},
				[Symbol.dispose]() {},
			};
		};
		return { path: `${this.path}/${name}`, open };
	}
}
