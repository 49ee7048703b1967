/** The used parts of the origin private file system, which pages have and Deno's types lack. */

/** A FileSystemSyncAccessHandle, which only workers get: what is written survives a killed page. */
export interface AccessHandle {
	getSize(): number;
	read(target: Uint8Array<ArrayBuffer>, options: { at: number }): number;
	write(bytes: Uint8Array<ArrayBuffer>, options: { at: number }): number;
	truncate(size: number): void;
	flush(): void;
	close(): void;
}

/** A FileSystemFileHandle. */
export interface FileHandle {
	readonly kind: "file";
	readonly name: string;
	getFile(): Promise<Blob>;
	createSyncAccessHandle(): Promise<AccessHandle>;
	/** Its content replaces that of the file when it is closed. */
	createWritable(): Promise<{ write(content: string): Promise<void>; close(): Promise<void> }>;
}

/** A FileSystemDirectoryHandle. */
export interface DirectoryHandle {
	readonly kind: "directory";
	readonly name: string;
	entries(): AsyncIterable<[name: string, entry: FileHandle | DirectoryHandle]>;
	getDirectoryHandle(name: string, options?: { create?: boolean }): Promise<DirectoryHandle>;
	getFileHandle(name: string, options?: { create?: boolean }): Promise<FileHandle>;
	removeEntry(name: string, options?: { recursive?: boolean }): Promise<void>;
}

/** The used part of a LockManager: locks that all tabs share, and which end with the page. */
export interface Locks {
	request<Result>(
		name: string,
		options: { mode?: "exclusive" | "shared"; ifAvailable?: boolean; signal?: AbortSignal },
		work: (lock: unknown) => Promise<Result>,
	): Promise<Result>;
}

/** Whether there is no file or folder of a name. */
export function isMissing(error: unknown): boolean {
	return (error as Error).name === "NotFoundError";
}
