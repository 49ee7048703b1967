import type { KernelNeed } from "./kernel.ts";
import type { Scope } from "./scope.ts";

/** A persistent text, which outlives the process or at least the device. */
export interface TextStore {
	/** The text; undefined if there is none or it cannot be read. */
	read(): string | undefined;
	/** Replaces the text, if possible. */
	write(text: string): void;
}

/** Bytes that the host keeps. */
export interface KeptBytes {
	/** The bytes; read-only. */
	read(): Uint8Array<ArrayBuffer>;
	/** Frees them; they are not to be read again. */
	free(): void;
}

/**
 * A store of bytes for which GPU memory has no room. Disposal frees them all.
 *
 * @internal
 */
export interface HostStore extends Disposable {
	/**
	 * Keeps bytes.
	 *
	 * @param bytes Not to be written to afterwards.
	 * @throws {UserError} If the host has no room for them.
	 */
	keep(bytes: Uint8Array<ArrayBuffer>): KeptBytes;
}

/** The memory of the host for what GPU memory has no room for: passed to {@link Gpu.open}. */
export interface HostMemory {
	/**
	 * A store for about so many bytes at a time.
	 *
	 * @param sharedBytes Bytes of the host's memory that the device may still take.
	 * @throws {UserError} If the host has no room for them.
	 */
	reserve(bytes: number, sharedBytes: number): HostStore;
}

/** Keeps everything in memory. */
export const IN_MEMORY: HostMemory = {
	reserve: () => ({
		keep: (bytes) => ({ read: () => bytes, free() {} }),
		[Symbol.dispose]() {},
	}),
};

/**
 * The host environment of WebGPU: passed to {@link Gpu.open}, never detected.
 *
 * @internal
 */
export interface GpuHost {
	/** The name with its version; measurements are repeated when it changes. */
	readonly name: string;
	/** Advice for when no adapter is found, as part of a sentence. */
	readonly adapterAdvice: string;
	requestAdapter(options: GPURequestAdapterOptions): Promise<GPUAdapter | null>;
	/** Sets of features to request, the best first; each is a fallback for the one before. */
	wantedFeatures(adapter: GPUAdapter): readonly (readonly string[])[];
	/**
	 * The bytes of free system memory if the device shares it: an overcommitting system cannot be probed
	 * by allocation. If undefined, the device is probed.
	 */
	systemMemory?(software: boolean): number | undefined;
	/** The store of the fastest matrix tiles; nothing is measured if absent. */
	readonly tuning?: TextStore;
	/** The prefix of a kernel's text for the host's compiler, without a line break. */
	prelude?(needs: readonly KernelNeed[]): string;
	/** A scope that tracks asynchronous context; a {@link TurnScope} is used if absent. */
	scope?<Value>(): Scope<Value>;
	/** Whether a device that is no longer used serves the next {@link Gpu}, with its compiled kernels. */
	readonly keepsDevices?: boolean;
	/** Resolves in the host's next task. */
	nextTask(): Promise<void>;
}
