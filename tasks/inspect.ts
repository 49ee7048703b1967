import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { isNumber, plural, sum, sumByKey } from "../base/figures.ts";
import { bytesText, percentText } from "../base/units.ts";
import type { Codec } from "../codecs/codec.ts";
import { loadLinear, packedLinears } from "../codecs/mod.ts";
import type { QuantizationConfig, RotationConfig } from "../codecs/quantization_config.ts";
import { elementsOf, shapeText } from "../gpu/tensor.ts";
import { ModelFiles, readConfig } from "../models/model_files.ts";
import { roleOf } from "../models/ops/experts.ts";
import { layerPlaces } from "../models/places.ts";
import { quantizationOf } from "../models/plain_weights.ts";
import { requireTensors } from "../models/required_tensors.ts";
import { readRunRecord } from "../pipeline/run/read_record.ts";
import { RUN_RECORD, type RunRecord } from "../pipeline/run/record.ts";
import { Checkpoint } from "../storage/checkpoint.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { filesOf, storedAs } from "../storage/mxfp4.ts";
import { tableText } from "./table.ts";
import { modelFolder, runCommand, usageErrors, warnOf } from "./task.ts";

const HELP = `Usage: deno task inspect MODEL [options]

Describes a model folder. MODEL may also be the output folder of a run, which holds the packed
model. For a packed model, lists each linear layer: salient columns, the fraction of the other
weights in the high zone (for weights on grids: the fraction of salient weights), bits per weight
as counted in the paper and as stored, stored bits by part, and the relative output error on the
calibration data if the run.json of the run is beside the folder; linear layers that stay dense have
a table of their own. For a plain model, lists each tensor.

Options
  --json             Print JSON; sizes are in bytes
  --help             Print this

Exit codes: 0 done, 1 failed, 2 bad arguments.
`;

const usageError = usageErrors("inspect");

/** Layer 10 comes after layer 9. */
const byNumber = new Intl.Collator("en", { numeric: true }).compare;

const options = { json: { type: "boolean" } } as const;

await runCommand({ name: "inspect", help: HELP, options }, ({ values, positionals }) => {
	if (positionals.length !== 1) throw usageError(`Give one folder, found ${positionals.length}`);
	const folder = modelFolder(positionals[0]);
	const quantization = quantizationOf(denoFolder(folder));
	if (quantization) {
		const { report, codecs } = inspectPacked(folder, quantization);
		console.log(values.json ? JSON.stringify(report) : packedText(report, codecs));
	} else {
		const report = inspectPlain(folder);
		console.log(values.json ? JSON.stringify(report) : plainText(report));
	}
});

/** A tensor that is not packed. */
interface PlainEntry {
	name: string;
	dtype: string;
	shape: number[];
	bytes: number;
}

interface LinearEntry {
	name: string;
	rows: number;
	cols: number;
	/** Salient columns, the fraction of weights in the high zone, and other facts of the codec. */
	[fact: string]: number | string | object | undefined;
	paperBits: number;
	storedBits: number;
	storedBytes: Record<string, number>;
	relativeOutputError?: number;
	/** The weights are those of the codec times 2 to this power; absent if it is 0. */
	exponent?: number;
}

interface PackedReport {
	folder: string;
	formatVersion: number;
	/** Absent for BiLLM's own. */
	method?: string;
	blockSize: number;
	/** Absent if no linear layer is rotated. */
	rotation?: RotationConfig;
	linears: LinearEntry[];
	/** The weights of linear layers that are not packed; a fused tensor holds several. */
	dense: PlainEntry[];
	/** Weights of all linear layers. */
	weights: number;
	paperBits: number;
	/** Bits per weight of all linear layers, without file headers. */
	storedBits: number;
	storedBytes: Record<string, number>;
	embeddings: PlainEntry[];
	/** Tensors of a head that is not tied to the embedding. */
	head: PlainEntry[];
	/** Norms, biases and other tensors. */
	other: PlainEntry[];
	/** Bytes of the headers of the weight files. */
	headerBytes: number;
	/** Bytes of the weight files. */
	bytes: number;
	/** Bytes of all files in the folder. */
	folderBytes: number;
}

function inspectPacked(
	folder: string,
	quantization: QuantizationConfig,
): { report: PackedReport; codecs: Map<string, Codec> } {
	using model = ModelFiles.open(denoFolder(folder));
	requireTensors(model);
	warnOf(model);
	const { checkpoint, architecture } = model;
	const { names } = architecture;
	const errors = outputErrors(folder);
	const packed = packedLinears(checkpoint);
	const stored = new Set([...packed.values()].flatMap(({ tensors }) => tensors));
	const linears = [...packed].sort(([a], [b]) => byNumber(a, b)).map(([name, { parts }]) => {
		const { codec, host, transform } = loadLinear(checkpoint, quantization, name)!;
		const { rows, cols } = host;
		const { paperBits, ...facts } = codec.facts(host);
		const columns = codec.factColumns.map((
			{ key, value },
		) => [key, value({ paperBits, ...facts })]);
		const error = errors.get(`${name} ${rows} ${cols}`);
		return {
			name,
			rows,
			cols,
			salientColumns: sum(facts.salientColumns),
			highFraction: facts.highFraction,
			...Object.fromEntries(columns),
			paperBits,
			storedBits: 8 * sum(Object.values(parts)) / (rows * cols),
			storedBytes: parts,
			...(error !== undefined && { relativeOutputError: error }),
			...(transform?.exponent !== undefined && { exponent: transform.exponent }),
		} satisfies LinearEntry;
	});
	const ofLinears = new Set(
		Array.from({ length: architecture.layers }, (_, layer) => [...layerPlaces(architecture, layer)])
			.flat().filter(({ linear }) => linear && !packed.has(linear)).map(({ name }) => name),
	);
	const dense: PlainEntry[] = [];
	const embeddings: PlainEntry[] = [];
	const head: PlainEntry[] = [];
	const other: PlainEntry[] = [];
	for (const { name, dtype, shape, bytes } of checkpoint.tensors.values()) {
		if (stored.has(name)) continue;
		const isOf = (module?: string) => module !== undefined && name.startsWith(`${module}.`);
		const group = ofLinears.has(name)
			? dense
			: isOf(names.embedding) || isOf(names.positions?.name)
			? embeddings
			: isOf(names.head)
			? head
			: other;
		group.push({ name, dtype, shape, bytes });
	}
	const denseWeights = sum(dense.map(({ shape }) => elementsOf(shape)));
	const weights = sum(linears.map(({ rows, cols }) => rows * cols)) + denseWeights;
	const denseBytes = sizeOf(dense);
	const storedBytes = sumByKey([
		...linears.map(({ storedBytes }) => storedBytes),
		...(dense.length > 0 ? [{ dense: denseBytes }] : []),
	]);
	const paperBits = sum(linears.map((l) => l.paperBits * l.rows * l.cols)) + 8 * denseBytes;
	const bytes = weightBytes(checkpoint);
	const report: PackedReport = {
		folder,
		formatVersion: quantization.format_version,
		...(quantization.method && { method: quantization.method }),
		blockSize: quantization.block_size,
		...(quantization.rotation && { rotation: quantization.rotation }),
		linears,
		dense: dense.sort((a, b) => byNumber(a.name, b.name)),
		weights,
		paperBits: paperBits / weights,
		storedBits: 8 * sum(Object.values(storedBytes)) / weights,
		storedBytes,
		embeddings,
		head,
		other,
		headerBytes: bytes - sum(checkpoint.tensors.values().map((tensor) => tensor.bytes)),
		bytes,
		folderBytes: sum(
			readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile())
				.map(({ name }) => statSync(join(folder, name)).size),
		),
	};
	return { report, codecs: new Map([...packed].map(([name, { codec }]) => [name, codec])) };
}

/** Relative output errors in the run.json beside a model folder, by name, rows and columns. */
function outputErrors(folder: string): Map<string, number> {
	const errors = new Map<string, number>();
	const path = join(dirname(resolve(folder)), RUN_RECORD);
	if (!existsSync(path)) return errors;
	let record: RunRecord;
	try {
		record = readRunRecord(dirname(path));
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		console.error(`Warning: errors of the output are left out: ${error.message}`);
		return errors;
	}
	const { layers = [] } = record;
	for (const { name, rows, cols, relativeOutputError } of layers.flatMap((l) => l.linears)) {
		if (!isNumber(relativeOutputError)) continue;
		errors.set(`${name} ${rows} ${cols}`, relativeOutputError);
	}
	return errors;
}

/** Bytes of the weight files, including headers. */
function weightBytes({ tensors }: Checkpoint): number {
	return sum([...new Set(tensors.values().flatMap(filesOf))].map((path) => statSync(path).size));
}

/** @param codecs Codecs of the linear layers by name. */
function packedText(report: PackedReport, codecs: ReadonlyMap<string, Codec>): string {
	const { linears, dense, weights, storedBytes, embeddings, head, other } = report;
	const tables = [...new Set(codecs.values())].map((codec) =>
		linearTable(codec, linears.filter(({ name }) => codecs.get(name) === codec))
	);
	if (dense.length > 0) tables.push(denseTable(dense));
	const group = (what: string, entries: PlainEntry[]) => {
		const kinds = [...new Set(entries.map(({ dtype }) => dtype))].join(", ");
		return [what, bytesText(sizeOf(entries)), entries.length === 0 ? "none" : kinds];
	};
	const sizes = [
		["linear layers", bytesText(sum(Object.values(storedBytes))), `${weights} weights`],
		group("embeddings", embeddings),
		group("head", head),
		group("other", other),
		["headers", bytesText(report.headerBytes), ""],
		["weight files", bytesText(report.bytes), `${(8 * report.bytes / weights).toFixed(3)} bits`],
		["whole folder", bytesText(report.folderBytes), ""],
	];
	return [
		`${report.folder}: packed${report.method ? ` by ${report.method}` : ""}, ` +
		`format version ${report.formatVersion}, blocks of ` +
		`${report.blockSize} columns${rotationText(report.rotation)}. Bits per weight:`,
		"",
		...tables.flatMap((table) => [table, ""]),
		tableText(["what", "size", ""], sizes, 1),
	].join("\n");
}

function rotationText(rotation: RotationConfig | undefined): string {
	if (!rotation) return "";
	const { modules, seed, block } = rotation;
	const which = modules ? `the inputs of ${modules.join(", ")}` : "inputs";
	return `, ${which} rotated in runs of up to ${block} with seed ${seed}`;
}

/** The table of the linear layers of one codec, with its columns. Those of a layer's experts have one row. */
function linearTable(
	{ factColumns, sizeColumns }: Codec,
	linears: readonly LinearEntry[],
): string {
	const heading = [
		"linear layer",
		"shape",
		...factColumns.map(({ heading }) => heading),
		"paper",
		"stored",
		...Object.keys(sizeColumns),
		"error",
	];
	const bits = (bytes: number, count: number) => (8 * bytes / count).toFixed(3);
	const sizes = (bytes: Record<string, number>, count: number) => [
		bits(sum(Object.values(bytes)), count),
		...Object.values(sizeColumns).map((parts) =>
			bits(sum(parts.map((part) => bytes[part] ?? 0)), count)
		),
	];
	/** The figures of one linear layer, or of several. */
	const figures = (some: readonly LinearEntry[]) => {
		const weights = sum(some.map(({ rows, cols }) => rows * cols));
		const mean = (key: string) =>
			sum(some.map((linear) => linear[key] as number * linear.rows * linear.cols)) / weights;
		return [
			...factColumns.map(({ key, text, together }) =>
				text(together === "mean" ? mean(key) : sum(some.map((linear) => linear[key] as number)))
			),
			mean("paperBits").toFixed(3),
			...sizes(sumByKey(some.map(({ storedBytes }) => storedBytes)), weights),
		];
	};
	const rows = [...Map.groupBy(linears, ({ name }) => roleOf(name))].map(([name, some]) => {
		const [{ rows, cols }] = some;
		const errors = some.map(({ relativeOutputError }) => relativeOutputError).filter(isNumber);
		return [
			shortName(name),
			`${some.length > 1 ? `${some.length} of ` : ""}${rows}x${cols}`,
			...figures(some),
			errors.length === 0 ? "-" : percentText(sum(errors) / errors.length),
		];
	});
	const stored = sum(linears.flatMap(({ storedBytes }) => Object.values(storedBytes)));
	rows.push(["all", bytesText(stored), ...figures(linears), ""]);
	return tableText(heading, rows, 1);
}

/** The table of the weights of linear layers that are not packed. */
function denseTable(dense: readonly PlainEntry[]): string {
	const rows = dense.map(({ name, dtype, shape, bytes }) => [
		shortName(name.replace(/\.weight$/, "")),
		shapeText(shape),
		dtype,
		(8 * bytes / elementsOf(shape)).toFixed(3),
		bytesText(bytes),
	]);
	return tableText(["dense linear layer", "shape", "dtype", "stored", "size"], rows, 1);
}

/** A short name, "0.mlp.up_proj", without the common prefix. */
function shortName(name: string): string {
	return name.replace(/^.*?\.(?=\d+\.)/, "");
}

interface PlainReport {
	folder: string;
	tensors: PlainEntry[];
	elements: number;
	bytes: number;
}

/** Whether config.json describes a model that the program can run. */
function isRunnable(folder: string): boolean {
	try {
		readConfig(denoFolder(folder));
		return true;
	} catch (error) {
		if (error instanceof UserError) return false; // its tensors can be listed all the same
		throw error;
	}
}

function inspectPlain(folder: string): PlainReport {
	using checkpoint = Checkpoint.open(denoFolder(folder));
	if (isRunnable(folder)) {
		using model = ModelFiles.open(denoFolder(folder));
		warnOf(model);
	}
	const tensors = [...checkpoint.tensors.values()].sort((a, b) => byNumber(a.name, b.name))
		.map((tensor): PlainEntry => {
			const { name, shape } = tensor;
			return { name, shape, ...storedAs(tensor) };
		});
	const elements = sum(tensors.map(({ shape }) => elementsOf(shape)));
	return { folder, tensors, elements, bytes: weightBytes(checkpoint) };
}

function plainText({ folder, tensors, elements, bytes }: PlainReport): string {
	const bits = (size: number, count: number) => count === 0 ? "-" : `${8 * size / count}`;
	const rows = tensors.map(({ name, dtype, shape, bytes }) => [
		name,
		dtype,
		shapeText(shape),
		bits(bytes, elementsOf(shape)),
		bytesText(bytes),
	]);
	const all = `${(8 * sizeOf(tensors) / elements).toFixed(3)}`;
	rows.push(["all", "", `${elements}`, all, bytesText(sizeOf(tensors))]);
	return [
		`${folder}: plain, ${tensors.length} ${plural(tensors.length, "tensor")}, weight files of ${
			bytesText(bytes)
		}`,
		"",
		tableText(["tensor", "dtype", "shape", "bits", "size"], rows, 2),
	].join("\n");
}

function sizeOf(entries: readonly PlainEntry[]): number {
	return sum(entries.map(({ bytes }) => bytes));
}
