import type { AccessHandle, DirectoryHandle, FileHandle, Locks } from "../../web/origin_files.ts";

function missing(): Error {
	return new DOMException("There is no such entry", "NotFoundError");
}

/** A file as browsers keep it for a page: one writer at a time, and room for so many bytes in all. */
class MemoryFile implements FileHandle {
	readonly kind = "file";
	bytes = new Uint8Array();
	#isOpen = false;

	constructor(readonly name: string, readonly room: { bytes: number }) {}

	async getFile(): Promise<Blob> {
		return new Blob([this.bytes]);
	}

	async createSyncAccessHandle(): Promise<AccessHandle> {
		if (this.#isOpen) throw new DOMException("It is open", "NoModificationAllowedError");
		this.#isOpen = true;
		return {
			getSize: () => this.bytes.length,
			read: (target, { at }) => {
				const part = this.bytes.subarray(at, at + target.length);
				target.set(part);
				return part.length;
			},
			write: (bytes, { at }) => {
				const grown = at + bytes.length - this.bytes.length;
				if (grown > this.room.bytes) throw new DOMException("No room", "QuotaExceededError");
				this.#resize(Math.max(this.bytes.length, at + bytes.length));
				this.bytes.set(bytes, at);
				return bytes.length;
			},
			truncate: (size) => this.#resize(size),
			flush() {},
			close: () => this.#isOpen = false,
		};
	}

	async createWritable() {
		const parts: string[] = [];
		return {
			write: async (text: string) => void parts.push(text),
			close: async () => {
				this.bytes = new TextEncoder().encode(parts.join(""));
			},
		};
	}

	#resize(size: number): void {
		this.room.bytes -= size - this.bytes.length;
		const bytes = new Uint8Array(size);
		bytes.set(this.bytes.subarray(0, size));
		this.bytes = bytes;
	}
}

/** The origin private file system, in memory. */
export class MemoryOrigin implements DirectoryHandle {
	readonly kind = "directory";
	readonly #entries = new Map<string, MemoryFile | MemoryOrigin>();

	constructor(readonly room = { bytes: Infinity }, readonly name = "") {}

	async *entries(): AsyncIterable<[string, FileHandle | DirectoryHandle]> {
		yield* [...this.#entries];
	}

	async getDirectoryHandle(name: string, { create = false } = {}): Promise<MemoryOrigin> {
		const found = this.#entries.get(name) ??
			(create ? new MemoryOrigin(this.room, name) : undefined);
		if (!(found instanceof MemoryOrigin)) throw missing();
		this.#entries.set(name, found);
		return found;
	}

	async getFileHandle(name: string, { create = false } = {}): Promise<MemoryFile> {
		const found = this.#entries.get(name) ??
			(create ? new MemoryFile(name, this.room) : undefined);
		if (!(found instanceof MemoryFile)) throw missing();
		this.#entries.set(name, found);
		return found;
	}

	async removeEntry(name: string): Promise<void> {
		if (!this.#entries.delete(name)) throw missing();
	}
}

/** Locks of one page, by the rules of those that tabs share. */
export class MemoryLocks implements Locks {
	readonly #held = new Map<string, { shared: number; exclusive: boolean }>();
	#waiting: (() => void)[] = [];

	async request<Result>(
		name: string,
		{ mode = "exclusive", ifAvailable, signal }: Parameters<Locks["request"]>[1],
		work: (lock: unknown) => Promise<Result>,
	): Promise<Result> {
		const held = this.#held.get(name) ?? { shared: 0, exclusive: false };
		this.#held.set(name, held);
		const isShared = mode === "shared";
		while (held.exclusive || (!isShared && held.shared > 0)) {
			if (ifAvailable) return await work(null);
			await new Promise<void>((resolve, reject) => {
				this.#waiting.push(resolve);
				signal?.addEventListener("abort", () => reject(signal.reason));
			});
		}
		if (isShared) held.shared++;
		else held.exclusive = true;
		try {
			return await work({ name });
		} finally {
			if (isShared) held.shared--;
			else held.exclusive = false;
			for (const wake of this.#waiting.splice(0)) wake();
		}
	}
}
