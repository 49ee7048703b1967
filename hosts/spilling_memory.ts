import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import type { HostMemory, HostStore, KeptBytes } from "../gpu/host.ts";
import { freeBytes, temporaryName } from "../storage/files.ts";
import { reasonOf } from "../storage/folder.ts";
import { availableMemory } from "./available_memory.ts";

/** The part of the available memory that is used: the rest is for weights on their way and for others. */
const USED = 0.7;

/** The options of {@link SpillingMemory}. */
export interface SpillOptions {
	/** Host memory to stay under, in bytes; {@link USED} of what is available if absent. */
	bytes?: number;
	/** Called, before a file is written, with its name and the bytes to be expected. */
	onSpill?(text: string): void;
	/** Bytes of memory that are available. */
	availableBytes?(): number;
	/** Bytes free on the disk of a folder. */
	freeBytes?(folder: string): number;
}

/**
 * Host memory, and a temporary file for what exceeds it. The file is made when it is first needed and
 * removed at disposal; what a killed process leaves has the name of a temporary file of `path`.
 */
export class SpillingMemory implements HostMemory, Disposable {
	#file?: SpillFile;
	/** Bytes of memory that stores may still take, beyond those that they have. */
	#promised = 0;
	/** Bytes of memory that stores have. */
	#used = 0;
	/** Bytes of the file that stores may take. */
	#spilled = 0;
	#told = 0;
	readonly #path: string;

	/** @param path The name of the file, without its temporary part. */
	constructor(path: string, readonly options: SpillOptions = {}) {
		this.#path = temporaryName(path);
	}

	/** @throws {UserError} If what exceeds the memory exceeds the disk too. */
	reserve(bytes: number, sharedBytes: number): HostStore {
		const { bytes: budget, availableBytes = availableMemory } = this.options;
		const left = budget === undefined
			? USED * (availableBytes() - sharedBytes) - this.#promised
			: budget - this.#promised - this.#used;
		const inMemory = Math.min(bytes, Math.max(0, Math.floor(left)));
		const inFile = bytes - inMemory;
		if (inFile > 0) this.#expect(inFile, inMemory);
		this.#promised += inMemory;
		this.#spilled += inFile;
		return this.#store(inMemory, inFile);
	}

	/** Says what will go to the file. @throws {UserError} If the disk is too small. */
	#expect(inFile: number, inMemory: number): void {
		const folder = dirname(this.#path);
		const there = this.#file?.bytes ?? 0;
		const wanted = this.#spilled + inFile;
		const free = (this.options.freeBytes ?? freeBytes)(folder) + there;
		if (wanted > free) {
			throw new UserError(
				`Activations need ${
					bytesText(wanted)
				} beside GPU memory and host memory, and the disk of ` +
					`"${folder}" has ${bytesText(free)} free; make room, choose as output a folder on a ` +
					`larger disk, or use fewer samples or activations: f16`,
			);
		}
		if (wanted <= this.#told) return;
		this.#told = wanted;
		this.options.onSpill?.(
			`of activations, ${bytesText(this.#promised + this.#used + inMemory)} in host memory and ` +
				`${bytesText(wanted)} in "${this.#path}"`,
		);
	}

	/** @param inMemory Bytes of memory that it may take; the rest goes to the file. */
	#store(inMemory: number, inFile: number): HostStore {
		const kept = new Set<KeptBytes>();
		let left = inMemory;
		const keepInMemory = (bytes: Uint8Array<ArrayBuffer>): KeptBytes => {
			const { length } = bytes;
			const count = (sign: 1 | -1) => {
				left -= sign * length;
				this.#promised -= sign * length;
				this.#used += sign * length;
			};
			count(1);
			return { read: () => bytes, free: () => count(-1) };
		};
		return {
			keep: (bytes) => {
				// What is reserved is an estimate: without a share of the file, a little more is no harm.
				const { read, free } = bytes.length <= left || inFile === 0
					? keepInMemory(bytes)
					: (this.#file ??= new SpillFile(this.#path)).keep(bytes);
				const own = {
					read,
					free() {
						if (kept.delete(own)) free();
					},
				};
				kept.add(own);
				return own;
			},
			[Symbol.dispose]: () => {
				for (const own of kept) own.free();
				this.#promised -= left;
				this.#spilled -= inFile;
				left = inFile = 0;
				if (this.#file?.pieces === 0) this[Symbol.dispose](); // other sizes may follow
			},
		};
	}

	/** Removes the file. */
	[Symbol.dispose](): void {
		this.#file?.[Symbol.dispose]();
		this.#file = undefined;
	}
}

/** A file of pieces of bytes, whose places are used again. */
class SpillFile implements Disposable {
	readonly #file: Deno.FsFile;
	/** Offsets of free places by their size. */
	readonly #free = new Map<number, number[]>();
	#bytes = 0;
	#pieces = 0;

	constructor(readonly path: string) {
		try {
			this.#file = Deno.openSync(path, { read: true, write: true, createNew: true });
		} catch (error) {
			throw new UserError(`Cannot write "${path}": ${reasonOf(error)}`);
		}
	}

	/** The size of the file. */
	get bytes(): number {
		return this.#bytes;
	}

	/** The number of pieces in it. */
	get pieces(): number {
		return this.#pieces;
	}

	keep(bytes: Uint8Array<ArrayBuffer>): KeptBytes {
		const { length } = bytes;
		const offset = this.#free.get(length)?.pop() ?? this.#bytes;
		try {
			this.#file.seekSync(offset, Deno.SeekMode.Start);
			for (let done = 0; done < length;) done += this.#file.writeSync(bytes.subarray(done));
		} catch (error) {
			throw new UserError(
				`Cannot write "${this.path}": ${
					reasonOf(error)
				}; make room, or choose as output a folder ` +
					`on a larger disk, and run the same command again: it resumes after the last complete layer`,
			);
		}
		this.#bytes = Math.max(this.#bytes, offset + length);
		this.#pieces++;
		return {
			read: () => this.#read(offset, length),
			free: () => {
				this.#pieces--;
				const places = this.#free.get(length) ?? [];
				this.#free.set(length, places);
				places.push(offset);
			},
		};
	}

	#read(offset: number, length: number): Uint8Array<ArrayBuffer> {
		const bytes = new Uint8Array(length);
		try {
			this.#file.seekSync(offset, Deno.SeekMode.Start);
			for (let done = 0; done < length;) {
				const read = this.#file.readSync(bytes.subarray(done));
				if (read === null) throw new Error("it has become shorter");
				done += read;
			}
		} catch (error) {
			throw new UserError(`Cannot read "${this.path}": ${reasonOf(error)}`);
		}
		return bytes;
	}

	[Symbol.dispose](): void {
		this.#file.close();
		rmSync(this.path, { force: true });
	}
}
