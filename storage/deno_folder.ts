import { join } from "node:path";
import { crc32 } from "node:zlib";
import { FileError, type Folder, type OpenFile, type SourceFile } from "./folder.ts";

/** A file on disk. */
export function denoFile(path: string): SourceFile {
	return { path, open: () => new DenoFile(path) };
}

/** A folder on disk. */
export function denoFolder(path: string): Folder {
	return {
		path,
		names: () => [...Deno.readDirSync(path)].map(({ name }) => name).sort(),
		has: (name) => isFile(join(path, name)),
		file: (name) => denoFile(join(path, name)),
	};
}

class DenoFile implements OpenFile {
	readonly #file: Deno.FsFile;
	readonly size: number;
	readonly crc32 = crc32;

	constructor(path: string) {
		const { size, isDirectory, isFile } = Deno.statSync(path); // a pipe would not even open
		if (isDirectory) throw new FileError("EISDIR", "it is a folder");
		if (!isFile) throw new FileError("ENOTSUP", "it is no file, but a pipe or a device");
		this.#file = Deno.openSync(path);
		this.size = size;
	}

	read(offset: number, target: Uint8Array<ArrayBuffer>): number {
		this.#file.seekSync(offset, Deno.SeekMode.Start);
		let done = 0;
		while (done < target.length) {
			const read = this.#file.readSync(target.subarray(done));
			if (read === null) break;
			done += read;
		}
		return done;
	}

	[Symbol.dispose](): void {
		this.#file.close();
	}
}

function isFile(path: string): boolean {
	try {
		return Deno.statSync(path).isFile;
	} catch (error) {
		if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
			return false;
		}
		throw error;
	}
}
