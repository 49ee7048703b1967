import type { Divergence } from "../../models/metrics/figures.ts";
import type { LayerRecord } from "../../pipeline/run/events.ts";
import type { RunRecord } from "../../pipeline/run/record.ts";
import type { FoundCell } from "../../pipeline/run/read_record.ts";
import type { Comparison } from "../../report/cells.ts";
import { histogramOf } from "../../report/histograms.ts";
import type { FinishedRun } from "../../report/run_report.ts";
import { normals, seededRandom } from "../reference/random.ts";

/** Rows and columns of the linear layers of the runs below. */
const MODULES: Record<string, [rows: number, cols: number]> = {
	"self_attn.q_proj": [256, 256],
	"self_attn.k_proj": [128, 256],
	"self_attn.v_proj": [128, 256],
	"self_attn.o_proj": [256, 256],
	"mlp.gate_proj": [768, 256],
	"mlp.up_proj": [768, 256],
	"mlp.down_proj": [256, 768],
};

const ORIGINAL_BYTES = 11546984;

export interface RunOptions {
	layers?: number;
	name?: string;
	model?: string;
	/** Of the packed model; null for one that is not finite, as in JSON. */
	perplexity?: number | null;
	/** Of the packed model; absent as in records of earlier versions. */
	divergence?: Divergence;
	bytes?: number;
	zeroShot?: boolean;
}

/** A record as a run leaves it, of figures that no run has measured. */
export function runRecord(options: RunOptions = {}): RunRecord {
	const {
		layers = 6,
		name = "tiny",
		model = "models/tiny",
		perplexity = 33.67344594439823,
		divergence,
		bytes,
		zeroShot = true,
	} = options;
	const random = seededRandom(7);
	const layerRecords = Array.from({ length: layers }, (_, layer): LayerRecord => ({
		layer,
		seconds: 4 + 4 * random(),
		secondsByStage: { calibrate: 3, hessian: 1 },
		peakGpuBytes: 204360704,
		file: `model-${layer + 2}.safetensors`,
		bytes: 255440,
		sha256: "cd".repeat(32),
		linears: Object.entries(MODULES).map(([module, [rows, cols]]) => ({
			name: `model.layers.${layer}.${module}`,
			rows,
			cols,
			relativeOutputError: 0.01 + 0.08 * random(),
			salientColumns: Array.from({ length: cols / 128 }, () => Math.floor(20 * random())),
			highFraction: 0.3 + 0.1 * random(),
			paperBits: 1.04,
			storedBytes: {
				signs: rows * cols / 8,
				flags: rows * cols / 8,
				"salient-signs": 0,
				"salient-columns": cols / 8,
				scales: rows * (cols / 128 * 7 + 4),
			},
		})),
	}));
	const weights = layers * Object.values(MODULES).reduce((sum, [r, c]) => sum + r * c, 0);
	const storedBits = 2.5880533854166665;
	const packedBytes = bytes ?? 1082224 + storedBits * weights / 8;
	const measured = (value: number) => ({
		dataset: "text/evaluation.txt",
		sequenceLength: 256,
		windows: 101,
		loss: Math.log(value),
		perplexity: value,
	});
	const protocol = { prepared: false, specialTokens: false, truncated: 0 };
	const tasks = (better: number) => [
		{
			...protocol,
			dataset: "data/piqa",
			task: "piqa",
			version: "1.0",
			questions: 200,
			acc: 0.555 + better,
			accStderr: 0.0352,
			accNorm: 0.545 + better,
			accNormStderr: 0.0353,
		},
		{
			...protocol,
			dataset: "data/boolq",
			task: "boolq",
			version: "2.0",
			questions: 150,
			acc: 0.62 + better,
			accStderr: 0.0397,
		},
	];
	return {
		status: "done",
		identity: "ab".repeat(32),
		billm: "0.3.0",
		deno: "2.9.6",
		commit: "0123456789abcdef0123456789abcdef01234567-dirty",
		system: "linux 6.1.0, x86_64, 2 cores",
		driver: "570.86",
		adapter: "llvmpipe (LLVM 15.0.6, 512 bits)",
		name,
		model,
		mode: "default",
		seed: 0,
		stages: [
			{ name: "download", options: {} },
			{ name: "calibrate", options: { dataset: "text/calibration.txt", samples: 64 } },
			{ name: "hessian", options: { damping: 0.01 } },
			{ name: "compensate", options: { "block-size": 128 } },
			{ name: "pack", options: { scales: "i8" } },
			{ name: "evaluate", options: { original: true } },
		],
		inputs: { "models/tiny/config.json": "12".repeat(32), "text/calibration.txt": "34".repeat(32) },
		started: "2026-01-02T03:04:05.678Z",
		finished: "2026-01-02T03:06:21.000Z",
		seconds: 135.784540015,
		secondsByStage: {
			download: 0.0085,
			calibrate: 19.304177265,
			hessian: 9.92,
			compensate: 3.784,
			pack: 0.642,
			evaluate: 73.716,
			factor: 9.24,
		},
		peakGpuBytes: 247619840,
		peakGpuBytesByStage: {
			calibrate: 181000000,
			hessian: 122000000,
			compensate: 60500000,
			evaluate: 99000000,
		},
		layers: layerRecords,
		packed: {
			folder: "out/tiny/model",
			files: [{ name: "model-1.safetensors", bytes: packedBytes, sha256: "ef".repeat(32) }],
			bytes: packedBytes,
			originalBytes: ORIGINAL_BYTES,
			weights,
			paperBits: 1.0550401475694444,
			storedBits,
			storedBitsByPart: {
				headers: 0.04345703125,
				flags: 1,
				"salient-columns": 0.0029296875,
				signs: 1,
				scales: 0.5416666666666666,
			},
		},
		evaluation: {
			original: [measured(24.631885764041847)],
			packed: [{
				...measured(perplexity ?? Math.exp(700)),
				perplexity: perplexity as number,
				...(divergence && { divergence }),
			}],
			sample: {
				prompt: 'It was <a> "dark"\n\nand stormy',
				original: " night, and the rain fell in torrents & the wind blew.",
				packed: " day, and the rain, and the rain, and the rain, and the rain.",
			},
			...(zeroShot && { zeroShot: { original: tasks(0), packed: tasks(-0.0475) } }),
		},
	};
}

/** A finished run with histograms of normally distributed weights. */
export function finishedRun(options: RunOptions = {}): FinishedRun {
	const record = runRecord(options);
	const layers = record.layers!;
	const chosen = [layers[0], layers[layers.length - 1]];
	const histograms = chosen.flatMap(({ layer, linears }) =>
		linears.map(({ name, rows, cols }, i) => {
			const weights = Float32Array.from(normals(20000, layer + 10 * i + 1), (w) => 0.03 * w);
			const groups = new Uint8Array(weights.length);
			const stored = weights.map((w, at) => {
				groups[at] = at % 16 === 0 ? 2 : Math.abs(w) > 0.04 ? 1 : 0;
				return Math.sign(w) * (Math.abs(w) > 0.04 ? 0.055 : 0.018);
			});
			return { name, layer, rows, cols, ...histogramOf(weights, stored, groups) };
		})
	);
	const pipeline = "# A comment\nname: tiny\nstages:\n  - download\n";
	return { record, pipeline, histograms };
}

/** Runs of a grid of two models and some methods, of which one failed and one is missing. */
export function comparison(): Comparison {
	const methods: [name: string, bytes: number, perplexity: number | null][] = [
		["rtn-1", 2025942, 4102.3],
		["rtn-2", 2438819, 383.8],
		["gptq-2", 2438819, 96.2],
		["gptq-4", 3677449, 25.3],
		["pb-llm", 2792713, 61.1],
		["sign", 1790012, null],
		["billm-reference", 2798611, 57.66],
		["billm-default", 2614864, 33.67],
	];
	const models = ["models/tiny-llama", "models/tiny-opt"];
	const all = models.flatMap((model, i) =>
		methods.map(([method, bytes, perplexity], j) => {
			const name = `${model.slice(7)},${method}`;
			const cell: FoundCell = {
				grid: "baselines",
				cell: name,
				index: i * methods.length + j + 1,
				cells: models.length * methods.length,
				values: { model, method },
				status: "done",
			};
			const record = runRecord({ name, model, bytes, perplexity, layers: 1 });
			return { folder: `/out/baselines/${name}`, name, cell, record };
		})
	);
	const failed = { ...all[8], record: undefined, problem: "Cannot factor the Hessian: raise it" };
	const done = all.filter((_, i) => i !== 8 && i !== 11);
	return { done, failed: [failed], missing: ["12 of 16 of baselines"] };
}
