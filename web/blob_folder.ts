import { FileError, type Folder, type OpenFile, type SourceFile } from "../storage/folder.ts";

/** What workers read a blob with at once, and pages do not have. */
declare const FileReaderSync: { new (): { readAsArrayBuffer(blob: Blob): ArrayBuffer } };

/** What of a FileSystemDirectoryHandle is needed. */
interface DirectoryHandle {
  readonly name: string;
  entries(): AsyncIterable<[name: string, entry: { name: string; getFile?(): Promise<Blob> }]>;
}

/**
 * A folder of files that stay on the disk, for workers: those that people choose, or those of the
 * browser's own file system ({@link openOrigin}).
 */
export class BlobFolder implements Folder {
  /**
   * @param files By their names.
   * @param path What messages call the folder.
   */
  constructor(readonly files: ReadonlyMap<string, Blob>, readonly path = "files") {}

  /** The files in a folder of the browser's own file system (a FileSystemDirectoryHandle), as they are now. */
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
      } catch (error) { // such as a file that was changed since
        throw new FileError("EIO", (error as Error).message);
      }
      target.set(bytes);
      return bytes.length;
    },
    [Symbol.dispose]() {},
  };
}
