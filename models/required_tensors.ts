import { UserError } from "../base/errors.ts";
import { embeddingLayout, isPackedEmbedding } from "../codecs/embedding/embedding.ts";
import { rowsTensor } from "../codecs/mod.ts";
import { columnsOf, type QuantizationConfig } from "../codecs/quantization_config.ts";
import type { Checkpoint } from "../storage/checkpoint.ts";
import { partShape } from "../storage/safetensors.ts";
import type { Architecture } from "./architectures/architecture.ts";
import { layerPlaces, outsidePlaces, type Place } from "./places.ts";
import { requireShape, STORED_DTYPES } from "./stored_tensors.ts";

/** What {@link requireTensors} needs to know of a model. */
interface Model {
	architecture: Architecture;
	checkpoint: Checkpoint;
	/** The folder's name in messages. */
	folder: string;
	quantization?: QuantizationConfig;
}

/**
 * Checks, before any long work, that a plain or packed model has all weights and biases that its config.json
 * asks for, in its shapes.
 *
 * @throws {UserError} If one is missing, or of another shape or an unsupported type.
 */
export function requireTensors({ architecture, checkpoint, folder, quantization }: Model): void {
	const check = ({ name, shape: wanted }: Place) => {
		const { dtype, shape } = checkpoint.get(name);
		requireShape(folder, name, shape, wanted);
		if (STORED_DTYPES.includes(dtype)) return;
		throw new UserError(
			`Cannot use "${name}" of "${folder}": it is stored as ${dtype}; supported are ` +
				STORED_DTYPES.join(", "),
		);
	};
	for (const place of Object.values(outsidePlaces(architecture)).flat()) {
		if (!place) continue;
		const module = place.name.replace(/\.weight$/, "");
		if (isPackedEmbedding(checkpoint, module)) {
			const { rows, cols } = embeddingLayout(checkpoint, module);
			requireShape(folder, place.name, [rows, cols], place.shape);
		} else check(place);
	}
	for (let i = 0; i < architecture.layers; i++) {
		for (const { linear, ...place } of layerPlaces(architecture, i)) {
			const packed = linear === undefined ? undefined : rowsTensor(checkpoint, linear);
			if (!packed) {
				check(place);
				continue;
			}
			const [rows] = packed.shape;
			const cols = quantization && columnsOf(quantization, linear!);
			if (cols === undefined) continue; // refused when it is loaded
			const wanted = place.part ? partShape(place.shape, place.part) : place.shape;
			requireShape(folder, `${linear}.weight`, [rows, cols], wanted);
		}
	}
}

/** The first version of the packed format whose files have checksums. */
const CHECKSUMS_SINCE = 2;

/**
 * Checks that the files of a packed model, which config.json tells of, are such files: with their format,
 * a version that config.json allows for, and checksums.
 *
 * @throws {UserError} If one is not.
 */
export function requirePackedFiles(
	checkpoint: Checkpoint,
	{ format_version: version }: QuantizationConfig,
): void {
	for (const { name, file, metadata, checksum } of checkpoint.tensors.values()) {
		const own = Number(metadata?.format_version);
		const problem = metadata === undefined
			? "it is no file of a packed model, as config.json says"
			: own > version
			? `it has version ${own} of the packed format, but config.json has ${version}`
			: version >= CHECKSUMS_SINCE && checksum === undefined
			? `its tensor "${name}" has no checksum`
			: undefined;
		if (problem === undefined) continue;
		throw new UserError(`Cannot read "${file}": ${problem}; the file is damaged, get it again`);
	}
}

/** Tensors that some checkpoints have, and that are computed. */
const COMPUTED =
	/(?:^|\.)(?:rotary_emb\.inv_freq|rotary_emb\.(?:cos|sin)_cached|(?:attn|attention)\.(?:bias|masked_bias)|position_ids)$/;

/** Whether a tensor is the mask of causal attention, which older checkpoints hold for every layer. */
export function isMask(name: string): boolean {
	return /\.(?:attn|attention)\.(?:bias|masked_bias)$/.test(name);
}

/**
 * What a model's files hold beyond what its config.json asks for, in words; undefined if there is nothing. A
 * second copy of a tied tensor and computed tensors are not told of.
 */
export function unreadTensors({ architecture, checkpoint }: Model): string | undefined {
	const { names, layers } = architecture;
	const prefix = names.layer(0).replace(/0\.$/, "");
	const used = new Set(
		Object.values(outsidePlaces(architecture)).flat().map((place) => place?.name ?? ""),
	);
	const unread: string[] = [];
	let most = layers;
	for (const name of checkpoint.tensors.keys()) {
		const rest = name.startsWith(prefix) ? name.slice(prefix.length) : undefined;
		const layer = Number(/^(\d+)\./.exec(rest ?? "")?.[1] ?? NaN);
		if (layer >= layers) most = Math.max(most, layer + 1);
		const isOutside = rest === undefined && !used.has(name) && !COMPUTED.test(name) &&
			!isPartOf(name, used) && name !== "lm_head.weight";
		if (isOutside) unread.push(name);
	}
	const parts: string[] = [];
	if (most > layers) {
		parts.push(
			`its files hold ${most} decoder layers, but config.json has num_hidden_layers ${layers}: ` +
				`the others are left out`,
		);
	}
	if (unread.length > 0) {
		const shown = unread.slice(0, 3).map((name) => `"${name}"`).join(", ");
		const more = unread.length > 3 ? ` and ${unread.length - 3} more` : "";
		parts.push(`nothing reads its ${shown}${more}`);
	}
	return parts.length > 0 ? parts.join("; ") : undefined;
}

/** Whether a tensor is a part of a packed embedding or head. */
function isPartOf(name: string, used: ReadonlySet<string>): boolean {
	const module = name.slice(0, name.lastIndexOf("."));
	return used.has(`${module}.weight`);
}
