import type { LinearFacts } from "../../codecs/codec.ts";
import type { Rotation } from "../../gpu/kernels/rotation/rotation.ts";

/** An event of a run; the tasks render events as a progress bar, lines or JSON. */
export type RunEvent =
	| {
		type: "start";
		name: string;
		output: string;
		adapter: string;
		software: boolean;
		/** Complete layers of an interrupted run. */
		resumedLayers: number;
	}
	| { type: "stage"; stage: string; text: string }
	| { type: "plan"; steps: PlanStep[] }
	| {
		type: "progress";
		stage: string;
		done: number;
		total: number;
		/** Description of the work. */
		text: string;
		/** Details that change between events, such as a rate. */
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

/** A long part of a run, and how long it will take, roughly. */
export interface PlanStep {
	/** The stage's name. */
	stage: string;
	/** The text of its progress events; any if absent. */
	text?: string;
	/** How long it will take. */
	seconds: number;
}

/** Receives the events of a run. */
export type Emit = (event: RunEvent) => void;

/** The run record of a linear layer. */
export interface LinearRecord extends LinearFacts {
	/** "model.layers.0.self_attn.q_proj" */
	name: string;
	/** Outputs. */
	rows: number;
	/** Inputs. */
	cols: number;
	/**
	 * tr((W-Q) H (W-Q)ᵀ) / tr(W H Wᵀ) on the calibration data; absent without a Hessian or if the output
	 * is zero.
	 */
	relativeOutputError?: number;
	/** |W* - W| / |W| of the weights W* that were quantized in place of W; absent if they were not changed. */
	correction?: number;
	/** The stage that quantized it, such as "gptq"; absent for BiLLM's own method. */
	method?: string;
	/** Whether it is stored as in the original; absent if it is quantized. */
	dense?: true;
	/** The rotation of its input, if any. */
	rotation?: Rotation;
	/** Its weights are stored divided by 2 to this power; absent if it is 0. */
	exponent?: number;
	/** Tokens of the calibration data that an expert got; absent if it belongs to none. */
	tokens?: number;
	/** Whether these were too few, so that the Hessian is that of all experts of the decoder layer. */
	pooled?: true;
	/** Bytes stored, by part. */
	storedBytes: Record<string, number>;
}

/** The run record of a decoder layer. */
export interface LayerRecord {
	/** Index, from 0. */
	layer: number;
	/** Seconds that it took. */
	seconds: number;
	/** GPU seconds for queued work, wall-clock seconds for the rest. */
	secondsByStage: Record<string, number>;
	/** Peak GPU memory. */
	peakGpuBytes: number;
	/** Peak bytes of tensors while a stage ran, in this layer or an earlier one. */
	peakGpuBytesByStage?: Record<string, number>;
	/** The written file. */
	file: string;
	/** Its size. */
	bytes: number;
	/** Its hash. */
	sha256: string;
	/** Its linear layers. */
	linears: LinearRecord[];
}
