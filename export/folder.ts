import { basename, join } from "node:path";
import { UserError } from "../base/errors.ts";
import { type EqualSteps, hasEqualSteps } from "../codecs/equal_steps.ts";
import { embeddingSteps } from "../codecs/embedding/equal_steps.ts";
import { equalStepsOf, loadLinear } from "../codecs/mod.ts";
import { SMALL_FILES } from "../models/model_files.ts";
import type { PlainTensor, PlainWeights } from "../models/plain_weights.ts";
import { copyFileAtomically, writeJsonAtomically } from "../storage/files.ts";
import { fromFloat32, type TensorToWrite } from "../storage/safetensors.ts";
import { writeSafetensors } from "../storage/write_safetensors.ts";
import { type Exported, type ExportOptions, type Misfit, refuseMisfits } from "./export.ts";
import type { ExportSource } from "./source.ts";
import { joinedSteps } from "./whole_codes.ts";

/** How a format stores linear layers in a folder in the layout of transformers. */
export interface FolderFormat<Form> {
	name: string;
	/**
	 * The form in which a matrix is stored, or why it has none.
	 *
	 * @param isLinear Whether it is a linear layer of a decoder layer, not the embedding or the head.
	 */
	formOf(steps: EqualSteps, isLinear: boolean): Form | Pick<Misfit, "problem" | "remedy">;
	/** A key that is equal for equal forms, for listings: "4 bits, groups of 128". */
	label(form: Form): string;
	/** The tensors of a matrix; `open` reads its codes. */
	tensors(name: string, form: Form, open: () => EqualSteps): TensorToWrite[];
	/**
	 * The members of config.json that tell of the forms.
	 *
	 * @param forms By the name of each module.
	 * @param dense The modules of linear layers that stay plain, with the head.
	 */
	config(forms: ReadonlyMap<string, Form>, dense: readonly string[]): Record<string, unknown>;
	/** The dtype that config.json asks for. */
	dtype?: string;
}

/** A planned tensor of the plain model: its form, or none where it stays a plain tensor. */
interface Planned<Form> {
	tensor: PlainTensor;
	form?: Form;
}

/** Elements per chunk of dequantized weights. */
const CHUNK = 4 << 20;

/**
 * Writes a model with the codes of a format in place of packed matrices.
 *
 * @param path An empty folder.
 */
export async function writeFolder<Form>(
	source: ExportSource,
	path: string,
	format: FolderFormat<Form>,
	{ lossy, pause }: ExportOptions,
): Promise<Exported> {
	const { plain, model } = source;
	const misfits: Misfit[] = [];
	const forms = new Map<string, Form>();
	const dense: string[] = [];
	const types: Record<string, number> = {};
	const planned: Planned<Form>[] = [];
	const linears = new Set(Array.from(source.linears(), ({ name }) => name));
	for (const tensor of plain.tensors.values()) {
		const name = moduleOf(tensor.name);
		const isLinear = tensor.linears !== undefined || linears.has(name);
		if (tensor.dtype !== "packed") {
			if (isLinear) dense.push(name);
			planned.push({ tensor });
			count(types, tensor.dtype);
			continue;
		}
		const steps = stepsOf(plain, tensor);
		const form = hasEqualSteps(steps) ? format.formOf(steps, isLinear) : steps;
		if (isProblem(form)) {
			if (isLinear) dense.push(name);
			misfits.push({ tensor: name, ...form, instead: "F16, dequantized" });
			planned.push({ tensor });
			count(types, "F16");
		} else {
			forms.set(name, form);
			planned.push({ tensor, form });
			count(types, format.label(form));
		}
		await pause();
	}
	refuseMisfits(format.name, misfits, lossy);
	if (forms.size === 0) {
		throw new UserError(
			`Cannot export "${model.name}" to ${format.name}: ${
				model.quantization ? "none of its linear layers maps" : "it is not packed"
			}, so that it would be a plain model` +
				(model.quantization ? ", which deno task dequantize writes" : ", which it is already"),
		);
	}
	const bytes = await writeShards(plain, path, planned, format, pause);
	const { quantization_config: _, ...config } = model.config;
	const dtype = format.dtype &&
		{ torch_dtype: format.dtype, ...(config.dtype != null && { dtype: format.dtype }) };
	writeJsonAtomically(join(path, "config.json"), {
		...config,
		...dtype,
		...format.config(forms, [model.architecture.names.head ?? "lm_head", ...dense]),
	});
	for (const name of SMALL_FILES.filter((name) => name !== "config.json")) {
		if (!model.source.has(name)) continue;
		copyFileAtomically(model.source.file(name).path, join(path, name));
	}
	const cast = ["BF16", "F32"].filter((type) => types[type]);
	const notes = format.dtype && cast.length > 0
		? [`programs cast plain tensors, stored as ${cast.join(" and ")}, to ${format.dtype}`]
		: [];
	return { bytes, types, misfits, notes };
}

function count(types: Record<string, number>, type: string): void {
	types[type] = (types[type] ?? 0) + 1;
}

function isProblem<Form>(
	form: Form | Pick<Misfit, "problem" | "remedy">,
): form is Pick<Misfit, "problem" | "remedy"> {
	return typeof form === "object" && form !== null && "problem" in form;
}

function moduleOf(tensor: string): string {
	return tensor.slice(0, tensor.lastIndexOf("."));
}

/** The codes of a packed tensor of the plain model. */
function stepsOf(plain: PlainWeights, { name, linears }: PlainTensor) {
	const { checkpoint, quantization } = plain;
	if (!linears) return embeddingSteps(checkpoint, moduleOf(name));
	const parts: EqualSteps[] = [];
	for (const linear of linears) {
		const steps = equalStepsOf(loadLinear(checkpoint, quantization!, linear)!);
		if (!hasEqualSteps(steps)) return steps;
		parts.push(steps);
	}
	return joinedSteps(parts) ?? {
		problem: `the linear layers of "${name}" have different forms`,
		remedy: "the same options for all of them",
	};
}

/** Writes the shards of the source and their index. @returns Their bytes. */
async function writeShards<Form>(
	plain: PlainWeights,
	path: string,
	planned: readonly Planned<Form>[],
	format: FolderFormat<Form>,
	pause: () => Promise<void>,
): Promise<number> {
	const weightMap: Record<string, string> = {};
	let bytes = 0;
	const shards = Map.groupBy(planned, ({ tensor }) => basename(tensor.file));
	const single = shards.size === 1;
	let shard = 0;
	for (const [, tensors] of [...shards].sort(([a], [b]) => a < b ? -1 : 1)) {
		const digits = (n: number) => String(n).padStart(5, "0");
		const file = single
			? "model.safetensors"
			: `model-${digits(++shard)}-of-${digits(shards.size)}.safetensors`;
		const toWrite = tensors.flatMap(({ tensor, form }) =>
			form === undefined
				? [plainTensor(plain, tensor)]
				: format.tensors(moduleOf(tensor.name), form, () => stepsOf(plain, tensor) as EqualSteps)
		);
		for (const { name } of toWrite) weightMap[name] = file;
		bytes += writeSafetensors(join(path, file), toWrite, { format: "pt" }).bytes;
		await pause();
	}
	if (!single) {
		const index = { metadata: { total_size: bytes }, weight_map: weightMap };
		writeJsonAtomically(join(path, "model.safetensors.index.json"), index);
	}
	return bytes;
}

/** A tensor as it is stored, or dequantized to f16. */
function plainTensor(plain: PlainWeights, { name, dtype, shape }: PlainTensor): TensorToWrite {
	if (dtype !== "packed") {
		return { name, dtype, shape, data: { [Symbol.iterator]: () => plain.bytes(name, CHUNK) } };
	}
	const halves = function* () {
		for (const chunk of plain.chunks(name, CHUNK)) yield fromFloat32(chunk, "F16");
	};
	return { name, dtype: "F16", shape, data: { [Symbol.iterator]: halves } };
}

/** A tensor whose bytes are made when they are written. */
export function lazyTensor(
	tensor: Omit<TensorToWrite, "data">,
	make: () => ArrayBufferView,
): TensorToWrite {
	const chunks = function* () {
		const { buffer, byteOffset, byteLength } = make();
		yield new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
	};
	return { ...tensor, data: { [Symbol.iterator]: chunks } };
}
