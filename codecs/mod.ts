import { UserError } from "../base/errors.ts";
import type { Gpu } from "../gpu/device.ts";
import { undoTransform } from "../gpu/kernels/rotation/rotate.ts";
import { undoOnHost } from "../gpu/kernels/rotation/rotation.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Checkpoint } from "../storage/checkpoint.ts";
import { EMBEDDING_ZEROS_SINCE, TRANSFORMS_SINCE } from "../storage/packed_metadata.ts";
import type { StoredTensor, TensorToWrite } from "../storage/safetensors.ts";
import { arb } from "./arb/codec.ts";
import { billm } from "./billm/codec.ts";
import type {
	Codec,
	HostLinear,
	InputTransform,
	PackedLinear,
	StoreForm,
	Weight,
	WeightGroup,
} from "./codec.ts";
import { type EqualSteps, hasEqualSteps, type NoEqualSteps } from "./equal_steps.ts";
import { PackedExperts } from "./experts/packed_experts.ts";
import { EXPONENT, loadExponent, storeExponent } from "./exponent.ts";
import { grid } from "./grid/codec.ts";
import { haar } from "./haar/codec.ts";
import { levels } from "./levels/codec.ts";
import { columnsOf, type QuantizationConfig, rotationOf } from "./quantization_config.ts";
import { checkStatedRotation } from "./stated_rotation.ts";
import { TransformedGroup, TransformedWeight } from "./transformed_weight.ts";
import { trellis } from "./trellis/codec.ts";

/**
 * The codecs of packed linear layers. A linear layer without the main tensor of any of them is dense.
 */
export const CODECS: Codec[] = [billm, grid, levels, trellis, arb, haar];

/**
 * Registers a custom codec.
 *
 * @returns A handle that unregisters the codec when it is disposed.
 * @throws {Error} If a codec with the same name or main tensor is registered.
 */
export function addCodec(codec: Codec): Disposable {
	const other = CODECS.find(({ name, main }) => name === codec.name || main === codec.main);
	if (other) throw new Error(`"${codec.name}" is in the way of the codec "${other.name}"`);
	CODECS.push(codec);
	return { [Symbol.dispose]: () => void CODECS.splice(CODECS.indexOf(codec), 1) };
}

/** The codec of a linear layer in a checkpoint; undefined if the layer is dense or missing. */
export function codecOf(checkpoint: Checkpoint, name: string): Codec | undefined {
	return CODECS.find(({ main }) => checkpoint.has(`${name}.${main}`));
}

/**
 * The first version of the packed format that supports these codecs and tensors.
 *
 * @param tensors Names of tensors of the codecs' linear layers and of embeddings; others have no effect.
 * @param isTransformed Whether the input of any linear layer is transformed.
 */
export function versionFor(
	codecs: Iterable<Codec>,
	tensors: Iterable<string> = [],
	isTransformed = false,
): number {
	const all = [...codecs];
	const ofEmbeddings = { group_zeros: EMBEDDING_ZEROS_SINCE };
	const later = Object.assign(ofEmbeddings, ...all.map(({ sinceParts = {} }) => sinceParts));
	const versions = Array.from(tensors, (name): number => later[lastWord(name)] ?? 0);
	const least = Math.max(2, isTransformed ? TRANSFORMS_SINCE : 0, ...all.map(({ since }) => since));
	return versions.reduce((a, b) => Math.max(a, b), least);
}

/**
 * The tensor of a packed linear layer whose first dimension is the layer's rows; undefined for a dense
 * one.
 *
 * @throws {UserError} If the layer lacks it.
 */
export function rowsTensor(checkpoint: Checkpoint, name: string): StoredTensor | undefined {
	const codec = codecOf(checkpoint, name);
	return codec && checkpoint.get(`${name}.${codec.rowsPart ?? codec.main}`);
}

/**
 * Loads a packed linear layer.
 *
 * @returns Undefined for a dense one.
 * @throws {UserError} If config.json does not state its columns or states another rotation than the
 *   file, or if a tensor is missing, has an unexpected dtype, or its shape does not match the others.
 */
export function loadLinear(
	checkpoint: Checkpoint,
	quantization: QuantizationConfig,
	name: string,
): PackedLinear | undefined {
	const codec = codecOf(checkpoint, name);
	if (!codec) return undefined;
	const cols = requireColumns(checkpoint, quantization, name);
	const host = codec.load(checkpoint, name, { cols, blockSize: quantization.block_size });
	const rotation = rotationOf(quantization, name, cols);
	checkStatedRotation(checkpoint.get(`${name}.${codec.main}`), name, rotation);
	const exponent = loadExponent(checkpoint, name);
	const transform = {
		...(rotation && { rotation }),
		...(exponent !== undefined && { exponent }),
	};
	return { codec, host, ...(Object.keys(transform).length > 0 && { transform }) };
}

/**
 * The dequantized weights of a linear layer in their original layout, or `rows` rows of them from row
 * `first`, f32 `[rows, cols]`; bit-identical to {@link linearMatrix} on the GPU.
 */
export function dequantizedLinear(
	{ codec, host, transform }: PackedLinear,
	first?: number,
	rows?: number,
): Float32Array<ArrayBuffer> {
	const values = codec.dequantize(host, first, rows);
	if (transform) undoOnHost(values, host.cols, transform);
	return values;
}

/**
 * A linear layer as codes on equal steps, in the layout of the original weights.
 *
 * @returns Why there are none if its levels are not equally spaced, or its input is rotated.
 */
export function equalStepsOf({ codec, host, transform }: PackedLinear): EqualSteps | NoEqualSteps {
	if (transform?.rotation) {
		return { problem: "its input is rotated", remedy: "a chain without the stage rotate" };
	}
	const steps = codec.equalSteps?.(host);
	if (!steps) {
		const problem = `its weights are of the codec ${codec.name}, which has no equal steps`;
		return { problem, remedy: "gptq, rtn, sign or levels: 3" };
	}
	if (!transform?.exponent || !hasEqualSteps(steps)) return steps;
	const factor = 2 ** transform.exponent;
	return { ...steps, scales: steps.scales.map((scale) => scale * factor) };
}

/**
 * The dequantized weights of a linear layer on the GPU in their original layout, f32 `[rows, cols]`,
 * owned by the caller.
 */
export async function linearMatrix(
	gpu: Gpu,
	{ codec, host, transform }: PackedLinear,
): Promise<Tensor> {
	const matrix = await codec.matrix(gpu, host);
	if (transform) await undoTransform(gpu, matrix, transform);
	return matrix;
}

/** Uploads a linear layer for multiplication; it transforms its input if it has to. */
export async function uploadLinear(
	gpu: Gpu,
	{ codec, host, transform }: PackedLinear,
): Promise<Weight> {
	const weight = await codec.upload(gpu, host);
	return transform ? new TransformedWeight(gpu, weight, transform) : weight;
}

/**
 * Uploads linear layers of one codec that share an input as a group.
 *
 * @returns Undefined if the codec has no groups, or the layouts or the transforms of the input differ.
 */
export async function uploadLinears(
	gpu: Gpu,
	linears: readonly PackedLinear[],
): Promise<WeightGroup | undefined> {
	const [{ codec, transform }] = linears;
	if (linears.some((linear) => !isSameTransform(linear.transform, transform))) return undefined;
	const group = await codec.uploadGroup?.(gpu, linears.map(({ host }) => host));
	return group && transform ? new TransformedGroup(gpu, group, transform) : group;
}

/**
 * What linear layers of experts must have in common to be stacked by {@link uploadExperts}; undefined for
 * one that cannot be stacked in packed form.
 */
export function expertKind(
	gpu: Gpu,
	{ codec, host, transform }: PackedLinear,
): string | undefined {
	const kind = codec.uploadExperts && codec.expertKind?.(gpu, host);
	if (kind === undefined) return undefined;
	const { rotation, exponent = 0 } = transform ?? {};
	return [codec.name, kind, rotation?.seed, rotation?.block, exponent].join(" ");
}

/**
 * Uploads linear layers of experts that are of one {@link expertKind} and shape.
 *
 * @param members The expert of each, of `experts` of the decoder layer.
 */
export async function uploadExperts(
	gpu: Gpu,
	linears: readonly PackedLinear[],
	members: readonly number[],
	experts: number,
): Promise<PackedExperts> {
	const [{ codec, transform }] = linears;
	const stack = await codec.uploadExperts!(gpu, linears.map(({ host }) => host));
	return new PackedExperts(gpu, stack, members, experts, transform);
}

function isSameTransform(a: InputTransform = {}, b: InputTransform = {}): boolean {
	return a.rotation?.seed === b.rotation?.seed && a.rotation?.block === b.rotation?.block &&
		(a.exponent ?? 0) === (b.exponent ?? 0);
}

/** @throws {UserError} If config.json does not state the number of columns of a packed linear layer. */
export function requireColumns(
	checkpoint: Checkpoint,
	quantization: QuantizationConfig,
	name: string,
): number {
	const cols = columnsOf(quantization, name);
	if (cols !== undefined) return cols;
	throw new UserError(
		`"${checkpoint.folder}": quantization_config lacks the columns of "${name}"`,
	);
}

/** The tensors that store a linear layer, and the bytes of each part. */
export function storeLinear<Host extends HostLinear>(
	name: string,
	{ codec, host, transform }: PackedLinear<Host>,
	form: StoreForm,
): { tensors: TensorToWrite[]; parts: Record<string, number> } {
	const tensors = [
		...codec.store(name, host, form),
		...storeExponent(name, transform?.exponent),
	];
	const parts = noParts(codec as Codec);
	for (const { name, data } of tensors) {
		add(parts, partName(codec as Codec, lastWord(name))!, (data as Uint8Array).length);
	}
	return { tensors, parts };
}

function noParts({ usualParts }: Codec): Record<string, number> {
	return Object.fromEntries(usualParts.map((part) => [part, 0]));
}

function add(parts: Record<string, number>, part: string, bytes: number): void {
	parts[part] = (parts[part] ?? 0) + bytes;
}

function lastWord(tensor: string): string {
	return tensor.slice(tensor.lastIndexOf(".") + 1);
}

/** The linear layer and part that a tensor stores; undefined for any other tensor. */
export function partOf(
	checkpoint: Checkpoint,
	tensor: string,
): { codec: Codec; linear: string; part: string } | undefined {
	const word = lastWord(tensor);
	const linear = tensor.slice(0, -word.length - 1);
	const codec = codecOf(checkpoint, linear);
	const part = codec && partName(codec, word);
	return codec && part !== undefined ? { codec, linear, part } : undefined;
}

/** The label of a tensor by the suffix of its name; undefined if it belongs to no linear layer. */
function partName({ parts }: Codec, word: string): string | undefined {
	if (word === EXPONENT) return EXPONENT;
	return Object.hasOwn(parts, word) ? parts[word] : undefined;
}

/** The storage size of a packed linear layer. */
export interface LinearSizes {
	codec: Codec;
	tensors: string[];
	/** Bytes by part. */
	parts: Record<string, number>;
}

/** The packed linear layers of a checkpoint by name, in checkpoint order. */
export function packedLinears(checkpoint: Checkpoint): Map<string, LinearSizes> {
	const linears = new Map<string, LinearSizes>();
	for (const { name, bytes } of checkpoint.tensors.values()) {
		const found = partOf(checkpoint, name);
		if (!found) continue;
		const { codec, linear, part } = found;
		if (!linears.has(linear)) linears.set(linear, { codec, tensors: [], parts: noParts(codec) });
		const { tensors, parts } = linears.get(linear)!;
		tensors.push(name);
		add(parts, part, bytes);
	}
	return linears;
}
