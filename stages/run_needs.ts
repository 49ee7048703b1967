import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { sum } from "../base/figures.ts";
import { bytesText, timeText } from "../base/units.ts";
import type { Gpu } from "../gpu/device.ts";
import { productRate } from "../gpu/kernels/matmul/product_rate.ts";
import { folderBytes, freeBytes } from "../storage/files.ts";
import { LayerPlan } from "../models/layer_plan.ts";
import { nearWidth, type Work, workingBytes } from "../models/memory_plan.ts";
import { type ModelFiles, SMALL_FILES } from "../models/model_files.ts";
import { needsOf, type PlannedStage } from "../pipeline/config/config.ts";
import type { LinearStage, Stage } from "../pipeline/stage.ts";
import { HEADER_BYTES, outsideBytes, type PackOptions } from "./pack.ts";
import { expectedSize } from "./rate_plan.ts";

/** What a run takes, as far as it is known before it. */
export interface RunNeeds {
	/** GPU memory in bytes that it takes at least, and with all activations in it. */
	gpuBytes: [least: number, most: number];
	/** Host memory in bytes for activations, and for weights of a decoder layer while they are packed. */
	hostBytes: number;
	/** Bytes of the packed model with its tokenizer, and of the calibration data, at most. */
	diskBytes?: number;
	/** Seconds to quantize, without `allocate` and `evaluate`; absent without a device. */
	seconds?: number;
}

type Stages = readonly PlannedStage<Stage>[];

/** Bits per weight that no form of linear layers exceeds where its size is not known before the run. */
const MOST_BITS = 5;
/** Bytes of the entries of a linear layer in the index of the packed model, at most. */
const INDEX_BYTES = 1500;
/** Seconds per weight for packing on the host. */
const PACKING = 2e-9;
/** Passes through a layer if not all activations fit into GPU memory: some are computed again. */
const PASSES_WITHOUT_ROOM = 1.7;
/** Part of the rate of large products that whole runs reach. */
const EFFICIENCY = 0.95;

/** What the stage `calibrate` does, from its options. */
interface Load {
	tokens: number;
	length: number;
	work: Work & Required<Pick<Work, "order" | "original">>;
}

function loadOf(stages: Stages): Load | undefined {
	const options = stages.find(({ stage }) => stage.name === "calibrate")?.options;
	if (!options) return undefined;
	const { samples, "sequence-length": length, order } = options;
	const perBatch = Math.min(samples, Math.max(1, Math.floor(options["batch-tokens"] / length)));
	return {
		tokens: samples * length,
		length,
		work: {
			batchTokens: perBatch * length,
			order,
			original: stages.some(({ stage }) => stage.original),
			search: stages.some(({ stage, options }) => needsOf(stage, options).includes("block-error")),
		},
	};
}

/** Whether a pipeline quantizes anything. */
export function quantizes(stages: Stages): boolean {
	return stages.some(({ stage }) => stage.scope !== "model");
}

/** @throws {UserError} If a model is quantized already. */
export function requireOriginal(
	{ quantization, name }: Pick<ModelFiles, "quantization" | "name">,
): void {
	if (!quantization) return;
	throw new UserError(`The model "${name}" is quantized already; give the original one`);
}

/**
 * What a pipeline that quantizes takes for a model.
 *
 * @param gpu A device whose speed is measured for the time; no time without one.
 * @throws {UserError} If the model is quantized already.
 */
export async function runNeeds(model: ModelFiles, stages: Stages, gpu?: Gpu): Promise<RunNeeds> {
	const { architecture } = model;
	requireOriginal(model);
	const load = loadOf(stages);
	const plans = Array.from(
		{ length: architecture.layers },
		(_, i) => new LayerPlan(architecture, i),
	);
	const weights = plans.map(({ groups }) =>
		sum(groups.flatMap(({ cols, linears }) => linears.map(({ rows }) => rows * cols)))
	);
	const pack: PackOptions | undefined = stages.find(({ stage }) => stage.name === "pack")?.options;
	const weightBytes = pack && (expectedSize(model, stages)?.bytes[1] ??
		outsideBytes(model, pack) + sum(weights.map((count) => MOST_BITS / 8 * count + HEADER_BYTES)));
	const linears = sum(plans.flatMap(({ groups }) => groups.map(({ linears }) => linears.length)));
	const diskBytes = weightBytes &&
		weightBytes + INDEX_BYTES * linears + smallBytes(model) + 4 * (load?.tokens ?? 0);
	const largest = Math.max(...weights);
	const hostBytes = 8 * largest;
	if (!load) return { gpuBytes: [6 * largest, 6 * largest], hostBytes, diskBytes };
	const least = workingBytes(model, load.work);
	const width = load.work.order === "module" ? nearWidth(model) : architecture.hiddenSize;
	const streams = load.work.original ? 2 : 1;
	const most = least + 4 * load.tokens * width * streams;
	const found = await gpu?.memoryFor(most) ?? most;
	const kept = Math.max(0, found - least);
	const stream = 4 * load.tokens * architecture.hiddenSize * streams;
	const seconds = gpu && (found < least ? undefined : await quantizingSeconds(gpu, {
		plans,
		stages,
		load,
		passes: found < most ? PASSES_WITHOUT_ROOM : 1,
	}));
	return {
		gpuBytes: [least, most],
		hostBytes: hostBytes + Math.max(0, stream - kept),
		diskBytes,
		seconds,
	};
}

/** Bytes of the files of a model besides its weights. */
function smallBytes({ source }: ModelFiles): number {
	return sum(
		SMALL_FILES.filter((name) => source.has(name)).map((name) => {
			using file = source.file(name).open();
			return file.size;
		}),
	);
}

/** Seconds to quantize all layers, from the operations of matrix products and their measured rate. */
async function quantizingSeconds(
	gpu: Gpu,
	{ plans, stages, load, passes }: {
		plans: LayerPlan[];
		stages: Stages;
		load: Load;
		passes: number;
	},
): Promise<number> {
	const rate = await runRate(gpu);
	const { tokens, length, work } = load;
	const correction = stages.find(({ stage }) => stage.name === "propagate-error")?.options;
	let operations = 0;
	let weights = 0;
	for (const { groups } of plans) {
		for (const { cols, linears, expert } of groups) {
			const rows = sum(linears.map(({ rows }) => rows));
			weights += rows * cols;
			const own = expert ? tokens * expert.k / expert.of : tokens;
			const forward = 2 * own * rows * cols;
			operations += passes * forward;
			if (stages.some(({ stage }) => stage.name === "hessian")) {
				operations += own * cols ** 2 + 1.5 * cols ** 3;
			}
			if (work.original) operations += passes * forward;
			if (correction) operations += 2 * correction.share * own * cols ** 2 + 3 * cols ** 3;
			for (const { stage, options } of stages) {
				const { work } = stage as LinearStage;
				if (work) { for (const { rows } of linears) operations += work(options, { rows, cols }); }
			}
		}
		const hidden = groups[0].cols; // as wide as queries, keys and values together count in attention
		operations += 2 * tokens * length * hidden * (work.original ? 2 : 1);
	}
	return operations / rate + PACKING * weights;
}

const rates = new WeakMap<Gpu, Promise<number>>();

/** The FLOP/s of whole runs, measured once for a device. */
function runRate(gpu: Gpu): Promise<number> {
	const rate = rates.get(gpu) ?? productRate(gpu).then((rate) => EFFICIENCY * rate);
	rates.set(gpu, rate);
	return rate;
}

/** Seconds that a token takes in the decoder layers of a model, and in its head. */
export async function secondsPerToken(
	gpu: Gpu,
	{ architecture }: ModelFiles,
): Promise<{ layers: number; head: number }> {
	const groups = Array.from(
		{ length: architecture.layers },
		(_, i) => new LayerPlan(architecture, i).groups,
	).flat();
	const weights = sum(
		groups.map(({ cols, linears, expert }) =>
			(expert ? expert.k / expert.of : 1) * cols * sum(linears.map(({ rows }) => rows))
		),
	);
	const perWeight = 2 / await runRate(gpu);
	const { vocabularySize, embeddingSize } = architecture;
	return { layers: perWeight * weights, head: perWeight * vocabularySize * embeddingSize };
}

/** The operations of a search over whole rows, see {@link LinearStage.work}; from measured times. */
export function searchOperations(
	{ rounds, sweeps, moves }: { rounds: number; sweeps: number; moves: number },
	{ rows, cols }: { rows: number; cols: number },
): number {
	return rounds * (10 * sweeps + 150 * moves) * rows * cols ** 2;
}

/** The needs in a line: "GPU memory 3.8 GB, 22 GB for all activations; disk 2.1 GB; about 3 min". */
export function needsText(
	{ gpuBytes: [least, most], hostBytes, diskBytes, seconds }: RunNeeds,
): string {
	const parts = [
		`GPU memory ${bytesText(least)}` +
		(most > least ? ` at least, ${bytesText(most)} with all activations` : ""),
		`host memory ${bytesText(hostBytes)}`,
	];
	if (diskBytes !== undefined) parts.push(`disk ${bytesText(diskBytes)} at most`);
	if (seconds !== undefined) parts.push(`about ${timeText(Math.max(1, seconds))} to quantize`);
	return parts.join("; ");
}

/**
 * Bytes of the model in the folder of a run, which count as room for it: a resumed run has a part of its
 * model there, and one that replaces another run removes the other's.
 */
export function modelBytes(output: string): number {
	return folderBytes(join(output, "model"));
}

/**
 * Refuses what cannot fit into the GPU memory that there is, or on the disk that the run writes to.
 *
 * @param place The model and the folder of the run.
 * @throws {UserError} That names what is short and what would do.
 */
export async function checkNeeds(
	{ gpuBytes: [least], diskBytes = 0 }: RunNeeds,
	gpu: Gpu,
	{ name, output }: { name: string; output: string },
): Promise<void> {
	const found = await gpu.memoryFor(least);
	if (found < least) {
		throw new UserError(
			`${bytesText(found)} of GPU memory is too little for "${name}": a decoder layer takes ` +
				`${bytesText(least)}; use a smaller batch-tokens, or give more memory`,
		);
	}
	const room = freeBytes(output) + modelBytes(output);
	if (room < diskBytes) {
		throw new UserError(
			`The run writes up to ${bytesText(diskBytes)}, but "${output}" has room for ` +
				`${bytesText(room)}; make room, or set output to a folder on another disk`,
		);
	}
}
