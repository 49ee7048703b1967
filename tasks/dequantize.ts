import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { UserError } from "../base/errors.ts";
import { plural } from "../base/figures.ts";
import { bytesText } from "../base/units.ts";
import { elementsOf } from "../gpu/tensor.ts";
import { isKnownModel, ModelFiles, SMALL_FILES } from "../models/model_files.ts";
import { PlainWeights } from "../models/plain_weights.ts";
import { requireTensors } from "../models/required_tensors.ts";
import { denoFile, denoFolder } from "../storage/deno_folder.ts";
import { copyFileAtomically, writeJsonAtomically } from "../storage/files.ts";
import { readJsonToWrite } from "../storage/json.ts";
import { checkOutputFolder, FolderBeside } from "../storage/output_folder.ts";
import type { TensorToWrite } from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";
import { showProgress } from "./progress.ts";
import { modelFolder, runCommand, usageErrors, warnOf } from "./task.ts";

const HELP = `Usage: deno task dequantize MODEL OUT [options]

Writes a packed model as a plain model in f16 that transformers can load: safetensors with the
shards of the packed model, their index, config.json, the tokenizer. Tensors that f16 cannot hold
are written in f32, and config.json then asks for f32. OUT appears when it is complete. MODEL is the
packed model or the output folder of the run that packed it.

Options
  --dtype DTYPE      f16 (default), or f32: twice the size, but exactly the packed weights
  --overwrite        Replace an existing model in OUT
  --help             Print this

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
`;

/** Elements per chunk in memory, in f32. */
const CHUNK = 4 << 20;

const usageError = usageErrors("dequantize");

const command = {
	name: "dequantize",
	help: HELP,
	options: { overwrite: { type: "boolean" }, dtype: { type: "string" } },
	interrupted: "OUT is as it was; of what was to replace it, a folder OUT-... may be left.",
} as const;

await runCommand(command, async ({ values, positionals, signal }) => {
	if (positionals.length !== 2) {
		throw usageError(`Give two folders, MODEL and OUT, found ${positionals.length}`);
	}
	const { dtype = "f16" } = values;
	if (dtype !== "f16" && dtype !== "f32") {
		throw usageError(`--dtype takes f16 or f32, found "${dtype}"`);
	}
	const [model, out] = [modelFolder(positionals[0]), positionals[1]];
	using weights = PlainWeights.open(denoFolder(model));
	if (!weights.quantization) {
		throw new UserError(`The model "${model}" is not packed; there is nothing to dequantize`);
	}
	if (isKnownModel(denoFolder(model))) {
		using files = ModelFiles.open(denoFolder(model));
		requireTensors(files);
		warnOf(files);
	}
	checkOutputFolder(model, out, values.overwrite ?? false, isModelFile);
	using temporary = new FolderBeside(out);
	const names = [...weights.tensors.keys()];
	const wide = new Set(names.filter((name) => dtype === "f32" || isWide(weights, name)));
	const bytes = await writeWeights(weights, wide, temporary.path, signal);
	writeConfig(model, temporary.path, wide.size > 0);
	for (const name of SMALL_FILES.filter((name) => name !== "config.json")) {
		const path = join(model, name);
		if (existsSync(path)) copyFileAtomically(path, join(temporary.path, name));
	}
	temporary.replace();
	const count = weights.tensors.size;
	console.log(`${out}: ${count} ${plural(count, "tensor")}, ${bytesText(bytes)}`);
});

/** Whether a file may be one that this task has written. */
function isModelFile(name: string): boolean {
	return SMALL_FILES.includes(name) ||
		/^model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?$/.test(name);
}

/**
 * Whether f16 cannot hold a tensor: packed weights with an exponent, or other numbers of which the largest
 * is beyond its range or below its normal numbers.
 */
function isWide(weights: PlainWeights, name: string): boolean {
	const { dtype } = weights.get(name);
	if (dtype === "packed") return weights.hasExponent(name);
	if (dtype === "F16" || !weights.isFloat(name)) return false;
	let top = 0;
	for (const chunk of weights.chunks(name, CHUNK)) {
		for (const value of chunk) if (Number.isFinite(value)) top = Math.max(top, Math.abs(value));
	}
	return top > 65504 || (top > 0 && top < 2 ** -14);
}

/**
 * Writes the shards and their index.
 *
 * @param wide The tensors in f32.
 * @returns Bytes of all shards.
 */
async function writeWeights(
	weights: PlainWeights,
	wide: ReadonlySet<string>,
	folder: string,
	signal: AbortSignal,
): Promise<number> {
	const emit = showProgress();
	const shards = Map.groupBy(weights.tensors.values(), ({ file }) => basename(file));
	const weightMap: Record<string, string> = {};
	const total = weights.tensors.size;
	let tensorBytes = 0;
	let bytes = 0;
	let done = 0;
	for (const [shard, tensors] of [...shards].sort(([a], [b]) => a < b ? -1 : 1)) {
		const toWrite = tensors.map(({ name, shape, dtype }): TensorToWrite => {
			weightMap[name] = shard;
			if (dtype !== "packed" && !weights.isFloat(name)) {
				return { name, dtype, shape, data: weights.bytes(name, CHUNK) };
			}
			if (wide.has(name)) {
				tensorBytes += 4 * elementsOf(shape);
				return { name, dtype: "F32", shape, data: singles(weights, name) };
			}
			tensorBytes += 2 * elementsOf(shape);
			return { name, dtype: "F16", shape, data: halves(weights, name) };
		});
		bytes += writeSafetensors(join(folder, shard), toWrite, { format: "pt" }).bytes;
		done += tensors.length;
		emit({ type: "progress", stage: "dequantize", done, total, text: shard });
		await setImmediate(); // lets signals through
		signal.throwIfAborted();
	}
	if (shards.size > 1 || !shards.has("model.safetensors")) {
		const index = {
			metadata: { total_size: tensorBytes },
			weight_map: Object.fromEntries(
				Object.entries(weightMap).sort(([a], [b]) => (a < b ? -1 : 1)),
			),
		};
		writeJsonAtomically(join(folder, "model.safetensors.index.json"), index);
	}
	return bytes;
}

/** The elements of a tensor as f16, in chunks. */
function* halves(weights: PlainWeights, name: string): Generator<Uint8Array> {
	for (const chunk of weights.chunks(name, CHUNK)) {
		const half = Float16Array.from(chunk);
		const lost = chunk.find((value, i) => Number.isFinite(value) && !Number.isFinite(half[i]));
		if (lost !== undefined) {
			throw new UserError(
				`"${weights.get(name).file}": "${name}" holds ${lost}, which exceeds the range of f16`,
			);
		}
		yield new Uint8Array(half.buffer);
	}
}

/** The elements of a tensor as f32, in chunks. */
function* singles(weights: PlainWeights, name: string): Generator<Uint8Array> {
	for (const chunk of weights.chunks(name, CHUNK)) {
		yield new Uint8Array(chunk.slice().buffer as ArrayBuffer);
	}
}

function writeConfig(model: string, folder: string, isWide: boolean): void {
	const { quantization_config: _, ...config } = readJsonToWrite(
		denoFile(join(model, "config.json")),
	);
	// The newer key must agree with torch_dtype.
	const name = isWide ? "float32" : "float16";
	const dtype = { torch_dtype: name, ...(config.dtype != null && { dtype: name }) };
	writeJsonAtomically(join(folder, "config.json"), { ...config, ...dtype });
}
