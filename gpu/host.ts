import type { KernelNeed } from "./kernel.ts";
import type { Scope } from "./scope.ts";

/** A text that outlives the process, or at least the device. */
export interface TextStore {
  /** Undefined if there is none yet, or it cannot be read. */
  read(): string | undefined;
  /** Replaces the text, if that can be done. */
  write(text: string): void;
}

/** What differs from host to host: passed in with {@link Gpu.open}, never detected. */
export interface GpuHost {
  /** With its version: what was measured on one is measured anew on another. */
  readonly name: string;
  /** What to do where no adapter is found, as a part of a sentence. */
  readonly adapterAdvice: string;
  requestAdapter(options: GPURequestAdapterOptions): Promise<GPUAdapter | null>;
  /** Sets of features to ask a device for, the best first; the next one is for hosts that refuse it. */
  wantedFeatures(adapter: GPUAdapter): readonly (readonly string[])[];
  /**
   * Bytes of memory that are left where a device takes its memory from the system's, which gives it
   * out before it is there. Where it is undefined, the device is asked.
   */
  systemMemory?(software: boolean): number | undefined;
  /** Which tiles were found to be fastest; nothing is measured if absent. */
  readonly tuning?: TextStore;
  /** What stands before a kernel's text for the host's compiler, without a line break. */
  prelude?(needs: readonly KernelNeed[]): string;
  /** A scope that follows what its work awaits; without one, a {@link TurnScope} does. */
  scope?<Value>(): Scope<Value>;
  /** Lets others have their turn: the host's next task. */
  nextTask(): Promise<void>;
}
