import { UserError } from "../base/errors.ts";
import {
	dequantizeEmbeddingOnHost,
	embeddingLayout,
	isPackedEmbedding,
} from "../codecs/embedding/embedding.ts";
import { embeddingSteps } from "../codecs/embedding/equal_steps.ts";
import type { EqualSteps, NoEqualSteps } from "../codecs/equal_steps.ts";
import { codecOf, dequantizedLinear, equalStepsOf, loadLinear } from "../codecs/mod.ts";
import { ModelFiles } from "../models/model_files.ts";
import { layerPlaces, type Place } from "../models/places.ts";
import { PlainWeights } from "../models/plain_weights.ts";
import { requireTensors } from "../models/required_tensors.ts";
import type { Folder } from "../storage/folder.ts";
import { type FloatDtype, isFloatDtype } from "../storage/safetensors.ts";

/** A matrix of a model, by the name of its linear layer or module. */
export interface Matrix {
	/** Without ".weight". */
	name: string;
	rows: number;
	cols: number;
	/** The stored dtype; undefined if it is packed. */
	dtype: FloatDtype | undefined;
	/** Whether it is a linear layer of a decoder layer. */
	isLinear: boolean;
	/** Reads its tensors. A dense one is read when rows are asked for. */
	open(): OpenMatrix;
}

/** A matrix whose packed form is in host memory. */
export interface OpenMatrix {
	/** Its codes; undefined if it is dense. */
	steps?: EqualSteps | NoEqualSteps;
	/** Some dequantized rows, f32 `[rows, cols]`. */
	values(first: number, rows: number): Float32Array;
}

/**
 * A plain or packed model as exports read it.
 *
 * @internal
 */
export class ExportSource implements Disposable {
	#plain?: PlainWeights;

	private constructor(readonly model: ModelFiles) {}

	/**
	 * @throws {UserError} If the folder holds no complete model of a known family.
	 */
	static open(folder: Folder, name?: string): ExportSource {
		const model = ModelFiles.open(folder, name);
		try {
			requireTensors(model);
			return new ExportSource(model);
		} catch (error) {
			model[Symbol.dispose]();
			throw error;
		}
	}

	/** The model's tensors under the names of the plain model. */
	get plain(): PlainWeights {
		return this.#plain ??= PlainWeights.open(this.model.source);
	}

	/** A matrix at a place: the weight of a linear layer, or of a module outside the layers. */
	matrix(place: Place & { linear?: string }): Matrix {
		const { checkpoint, quantization } = this.model;
		const { linear, shape: [allRows, cols], part } = place;
		const rows = part?.rows ?? allRows;
		const name = linear ?? place.name.replace(/\.weight$/, "");
		const shape = { name, rows, cols, isLinear: linear !== undefined };
		if (linear !== undefined && quantization && codecOf(checkpoint, linear)) {
			const open = () => {
				const packed = loadLinear(checkpoint, quantization, linear)!;
				this.#refuseNonFinite(name, packed.codec.nonFinite(packed.host));
				return {
					steps: equalStepsOf(packed),
					values: (first: number, count: number) => dequantizedLinear(packed, first, count),
				};
			};
			return { ...shape, dtype: undefined, open };
		}
		if (linear === undefined && isPackedEmbedding(checkpoint, name)) {
			embeddingLayout(checkpoint, name); // refuses damage
			return {
				...shape,
				dtype: undefined,
				open: () => ({
					steps: embeddingSteps(checkpoint, name),
					values: (first, count) => dequantizeEmbeddingOnHost(checkpoint, name, first, count),
				}),
			};
		}
		const values = (first: number, count: number) => {
			const some = { first: (part?.first ?? 0) + first, rows: count };
			const values = checkpoint.readFloat32(place.name, some);
			this.#refuseNonFinite(place.name, {
				weight: values.reduce((n, value) => n + Number(!Number.isFinite(value)), 0),
			});
			return values;
		};
		return { ...shape, dtype: this.#dtypeOf(place.name), open: () => ({ values }) };
	}

	/** The values of a vector, such as the weight of a norm or a bias, with its offset, f32. */
	vector({ name, part, offset = 0 }: Place): Float32Array {
		const values = this.model.checkpoint.readFloat32(name, part);
		return offset === 0 ? values : values.map((value) => value + offset);
	}

	/** The linear layers of all decoder layers. */
	*linears(): Generator<Matrix> {
		const { architecture } = this.model;
		for (let layer = 0; layer < architecture.layers; layer++) {
			for (const place of layerPlaces(architecture, layer)) {
				if (place.linear !== undefined) yield this.matrix(place);
			}
		}
	}

	#dtypeOf(name: string): FloatDtype {
		const { dtype, file } = this.model.checkpoint.get(name);
		if (isFloatDtype(dtype)) return dtype;
		throw new UserError(`Cannot export "${name}" of "${file}": it is stored as ${dtype}`);
	}

	#refuseNonFinite(name: string, counts: Record<string, number>): void {
		for (const [part, count] of Object.entries(counts)) {
			if (count === 0) continue;
			throw new UserError(
				`Cannot export "${name}" of "${this.model.name}": ${count} values of its ${part} are NaN ` +
					`or infinite`,
			);
		}
	}

	[Symbol.dispose](): void {
		this.#plain?.[Symbol.dispose]();
		this.model[Symbol.dispose]();
	}
}
