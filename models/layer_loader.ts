import type { Codec, PackedLinear, Weight } from "../codecs/codec.ts";
import { DenseWeight } from "../codecs/dense/weight.ts";
import {
	codecOf,
	linearMatrix,
	loadLinear as loadPacked,
	uploadLinear,
	uploadLinears,
} from "../codecs/mod.ts";
import type { Gpu } from "../gpu/device.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { LayerPlan } from "./layer_plan.ts";
import { LayerWeights } from "./layer_weights.ts";
import { type ExpertSource, loadExperts } from "./expert_loader.ts";
import { expertsOf, groupsOf, kindOf, type Op } from "./ops/mod.ts";
import type { LinearGroup } from "./ops/op.ts";
import { layerPlaces, type Place, placeOf } from "./places.ts";
import type { StoredTensors } from "./stored_tensors.ts";

/** The form in which the linear layers of a decoder layer are loaded. */
export interface LoadLayerOptions {
	/**
	 * Whether packed linear layers stay packed, which takes a tenth of the memory; products differ by
	 * rounding only. Otherwise they are dequantized, and products are bit-identical to those of the
	 * matrices before packing. Plain matrices must then not be changed.
	 */
	packed?: boolean;
	/**
	 * Whether matrices that are stored as f16 or bf16 stay in that format: half the memory, but somewhat
	 * slower products of many tokens.
	 */
	stored?: boolean;
}

/**
 * Reads and uploads the plain weights of the next layer, as stored, while the GPU is busy. Packed ones
 * are left to {@link loadLayer}.
 */
export function prefetchLayer(stored: StoredTensors, layer: number): void {
	const { architecture, checkpoint } = stored.model;
	if (!stored.model.isLayerThere(layer)) return; // it is still being fetched
	for (const { linear, ...place } of layerPlaces(architecture, layer)) {
		if (!linear || !codecOf(checkpoint, linear)) stored.prefetch(place);
	}
}

/**
 * Uploads a decoder layer.
 *
 * @throws {UserError} If a tensor is missing, has another shape than config.json wants, or holds NaN
 *   or infinite values.
 */
export async function loadLayer(
	stored: StoredTensors,
	layer: number,
	options: LoadLayerOptions,
): Promise<LayerWeights> {
	await stored.model.fetchLayer(layer);
	const loader = new LayerLoader(stored, layer, options);
	try {
		await loader.load();
	} catch (error) {
		loader.weights[Symbol.dispose]();
		throw error;
	}
	return loader.weights;
}

/**
 * Uploads a linear layer of a plain model, in f32.
 *
 * @throws {UserError} As {@link loadLayer} does.
 * @throws {Error} If the decoder layer has no such module.
 */
export async function loadLinear(
	stored: StoredTensors,
	layer: number,
	module: string,
): Promise<DenseWeight> {
	const { architecture } = stored.model;
	const name = architecture.names.layer(layer) + module;
	const place = layerPlaces(architecture, layer).find(({ linear }) => linear === name);
	if (!place) throw new Error(`The layer has no "${module}"`);
	await stored.model.fetchLayer(layer);
	const tensor = await stored.wide(place);
	await stored.checkFinite([{ name: place.name, tensor }]);
	return new DenseWeight(tensor);
}

/** The loader of one decoder layer. */
class LayerLoader {
	readonly weights: LayerWeights;
	readonly #gpu: Gpu;
	readonly #prefix: string;
	/** f32 tensors to check for NaN and infinities in one readback; other forms are checked when read. */
	readonly #wide: { name: string; tensor: Tensor }[] = [];

	constructor(
		readonly stored: StoredTensors,
		readonly layer: number,
		readonly options: LoadLayerOptions,
	) {
		const { architecture } = stored.model;
		this.weights = new LayerWeights(layer, new LayerPlan(architecture, layer));
		this.#gpu = stored.gpu;
		this.#prefix = architecture.names.layer(layer);
	}

	async load(): Promise<void> {
		for (const op of this.weights.plan.ops) {
			for (const { name, ...tensor } of kindOf(op).tensors?.(op) ?? []) {
				const place = { name: this.#prefix + name, ...tensor };
				this.weights.tensors.set(name, await this.#tensor(place));
			}
			kindOf(op).prepare?.(op, this.weights, this.#gpu);
			const experts = expertsOf(op);
			if (experts) await loadExperts(this.#expertSource(), experts, groupsOf(op));
			const group = kindOf(op).group?.(op);
			if (!group || this.options.packed && await this.#loadGroup(op, group)) continue;
			for (const [i, { module }] of group.linears.entries()) {
				const weight = await this.#weight(group, i);
				this.weights.linears.set(module, { weight, bias: await this.#bias(group, i) });
			}
		}
		await this.stored.checkFinite(this.#wide);
	}

	#expertSource(): ExpertSource {
		const { stored, weights, options } = this;
		const nameOf = (group: LinearGroup, i: number) => this.#prefix + group.linears[i].module;
		return {
			gpu: this.#gpu,
			weights,
			packed: (group, i) => {
				if (!options.packed || !this.#codecOf(nameOf(group, i))) return undefined;
				const packed = this.#packed(group, i);
				this.#checkPacked(nameOf(group, i), packed);
				return packed;
			},
			dtypeOf: (group, i) => {
				if (!options.stored || this.#codecOf(nameOf(group, i))) return "f32";
				return stored.dtypeOf(placeOf(this.#prefix, group, i, "weight"));
			},
			matrix: async (group, i) => {
				const name = nameOf(group, i);
				if (this.#codecOf(name)) return await linearMatrix(this.#gpu, this.#packed(group, i));
				const place = placeOf(this.#prefix, group, i, "weight");
				return await (options.stored ? this.#matrix(place, true) : stored.wide(place));
			},
			bias: (group, i) => stored.wide(placeOf(this.#prefix, group, i, "bias")),
			check: (group, i, what, tensor) => {
				this.#wide.push({ name: placeOf(this.#prefix, group, i, what).name, tensor });
			},
		};
	}

	/** A tensor as f32. */
	async #tensor(place: Place): Promise<Tensor> {
		const tensor = await this.stored.wide(place);
		this.#wide.push({ name: place.name, tensor });
		return tensor;
	}

	/** The bias of a linear layer; one that config.json does not declare is ignored. */
	async #bias(group: LinearGroup, i: number): Promise<Tensor | undefined> {
		return group.bias ? await this.#tensor(placeOf(this.#prefix, group, i, "bias")) : undefined;
	}

	/** The weight of a linear layer; a packed one is dequantized unless it is to stay packed. */
	async #weight(group: LinearGroup, i: number): Promise<Weight> {
		const name = this.#prefix + group.linears[i].module;
		const codec = this.#codecOf(name);
		if (!codec) {
			const place = placeOf(this.#prefix, group, i, "weight");
			const { packed, stored } = this.options;
			const matrix = await (stored ? this.#matrix(place) : this.#tensor(place));
			return new DenseWeight(matrix, packed && !stored);
		}
		const packed = this.#packed(group, i);
		if (this.options.packed) {
			this.#checkPacked(name, packed);
			return await uploadLinear(this.#gpu, packed);
		}
		const matrix = await linearMatrix(this.#gpu, packed);
		this.#wide.push({ name: `${name}.weight`, tensor: matrix });
		return new DenseWeight(matrix);
	}

	/**
	 * A matrix as stored, checked.
	 *
	 * @param isCopied Whether it is checked where it is copied to, if it is f32.
	 */
	async #matrix(place: Place, isCopied = false): Promise<Tensor> {
		const matrix = this.stored.upload(place);
		if (matrix.dtype === "f32") {
			if (!isCopied) this.#wide.push({ name: place.name, tensor: matrix });
		} else {
			using tensor = await widen(this.#gpu, matrix);
			await this.stored.checkFinite([{ name: place.name, tensor }]);
		}
		return matrix;
	}

	#codecOf(name: string): Codec | undefined {
		const { quantization, checkpoint } = this.stored.model;
		return quantization && codecOf(checkpoint, name);
	}

	/** A packed linear layer in host memory. */
	#packed(group: LinearGroup, i: number): PackedLinear {
		const { checkpoint, quantization } = this.stored.model;
		const { module, rows } = group.linears[i];
		const name = this.#prefix + module;
		const packed = loadPacked(checkpoint, quantization!, name)!;
		const { host } = packed;
		this.stored.checkShape(`${name}.weight`, [host.rows, host.cols], [rows, group.cols]);
		return packed;
	}

	/** Rejects NaN and infinities in the scales of a packed linear layer; its bits may be arbitrary. */
	#checkPacked(name: string, { codec, host }: PackedLinear): void {
		for (const [part, count] of Object.entries(codec.nonFinite(host))) {
			this.stored.refuseNonFinite(`${name}.${part}`, count);
		}
	}

	/** Loads the linear layers of an operation as a group, if their codec and the adapter support it. */
	async #loadGroup(op: Op, group: LinearGroup): Promise<boolean> {
		const gpu = this.#gpu;
		const names = group.linears.map(({ module }) => this.#prefix + module);
		const codec = this.#codecOf(names[0]);
		if (!codec?.uploadGroup || names.some((name) => this.#codecOf(name) !== codec)) return false;
		const { block_size: blockSize } = this.stored.model.quantization!;
		if (!codec.groups?.(gpu, blockSize)) return false; // before reading the layers
		const packed = names.map((_, i) => this.#packed(group, i));
		packed.forEach((linear, i) => this.#checkPacked(names[i], linear));
		const weights = await uploadLinears(gpu, packed);
		if (!weights) return false;
		const biases = group.bias ? gpu.zeros([1, weights.rows]) : undefined;
		this.weights.groups.set(op, { group: weights, biases });
		for (const [i, { module }] of group.linears.entries()) {
			const bias = await this.#bias(group, i);
			if (bias) gpu.copy(bias, biases!.view(weights.starts[i], bias.shape));
			this.weights.linears.set(module, { weight: weights.weights[i], bias });
		}
		return true;
	}
}
