import type { LinearFacts } from "../../codecs/codec.ts";

/** What a run says of itself while it goes on; the tasks turn it into a bar, lines or JSON. */
export type RunEvent =
  | {
    type: "start";
    name: string;
    output: string;
    adapter: string;
    software: boolean;
    /** Layers that an earlier, interrupted run has left complete. */
    resumedLayers: number;
  }
  | { type: "stage"; stage: string; text: string }
  | {
    type: "progress";
    stage: string;
    done: number;
    total: number;
    /** What is in progress. */
    text: string;
    /** What changes from event to event, such as a rate. */
    detail?: string;
  }
  | ({ type: "linear" } & LinearRecord)
  | ({ type: "layer"; layers: number } & LayerRecord)
  | { type: "metric"; stage: string; name: string; value: number; text: string }
  | { type: "warning"; message: string }
  | { type: "already-done"; output: string }
  | { type: "end"; output: string; seconds: number }
  | { type: "cell"; cell: string; index: number; cells: number }
  | { type: "cell-failed"; cell: string; error: string };

export type Emit = (event: RunEvent) => void;

/** What the run record says of a linear layer. */
export interface LinearRecord extends LinearFacts {
  name: string;
  rows: number;
  cols: number;
  /**
   * tr((W-Q) H (W-Q)ᵀ) / tr(W H Wᵀ) on the calibration data; absent without a Hessian or if the
   * layer gives nothing but zeros.
   */
  relativeOutputError?: number;
  /** The stage that quantized it, such as "gptq"; absent for BiLLM's own method. */
  method?: string;
  /** Bytes stored, by part. */
  storedBytes: Record<string, number>;
}

/** What the run record says of a decoder layer. */
export interface LayerRecord {
  layer: number;
  seconds: number;
  /** Of the GPU for what is only queued there, of the clock for the rest. */
  secondsByStage: Record<string, number>;
  peakGpuBytes: number;
  /** What tensors took at most while a stage ran, in this layer or one before it. */
  peakGpuBytesByStage?: Record<string, number>;
  file: string;
  bytes: number;
  sha256: string;
  linears: LinearRecord[];
}
