import { refuseNonFinite, UserError } from "../base/errors.ts";
import { type Gpu, UPLOAD_CHUNK } from "../gpu/device.ts";
import { widen } from "../gpu/kernels/elementwise/widen.ts";
import { countNonFinite } from "../gpu/kernels/reduce/non_finite.ts";
import { type Dtype, shapeText, type Tensor } from "../gpu/tensor.ts";
import { partShape } from "../storage/safetensors.ts";
import type { ModelFiles } from "./model_files.ts";
import type { Place } from "./places.ts";

const STORED: Record<string, Dtype> = { F32: "f32", F16: "f16", BF16: "bf16" };

/** The supported dtypes of stored tensors. */
export const STORED_DTYPES: readonly string[] = Object.keys(STORED);

/** A model's stored tensors: uploads and checks them. */
export class StoredTensors implements Disposable {
	readonly #prefetched = new Map<string, Tensor>();
	readonly #kept = new Map<string, Tensor>();
	/** Names of tensors that were found to be finite. */
	readonly #finite = new Set<string>();

	constructor(readonly gpu: Gpu, readonly model: ModelFiles) {}

	/**
	 * A tensor, or some of its rows, as stored, or in f32 if it has an offset; a view if it is resident.
	 *
	 * @throws {UserError} If it is missing, has another shape than expected, or an unsupported dtype.
	 */
	upload({ name, shape, part, offset }: Place): Tensor {
		const { checkpoint } = this.model;
		const wanted = part ? partShape(shape, part) : shape;
		const kept = this.#kept.get(name);
		if (kept) return kept.view((part?.first ?? 0) * kept.size / shape[0], wanted);
		this.checkShape(name, checkpoint.get(name).shape, shape);
		const dtype = this.dtypeOf({ name, shape });
		if (offset) {
			const values = checkpoint.readFloat32(name, part).map((value) => value + offset);
			return this.gpu.upload(values, wanted);
		}
		const chunks = checkpoint.readChunks(name, UPLOAD_CHUNK, part);
		return this.gpu.upload(chunks, wanted, dtype);
	}

	/**
	 * The dtype in which {@link upload} returns a tensor.
	 *
	 * @throws {UserError} As {@link upload} does for the dtype.
	 */
	dtypeOf({ name, offset }: Place): Dtype {
		const { dtype, file } = this.model.checkpoint.get(name);
		if (dtype in STORED) return offset ? "f32" : STORED[dtype];
		throw new UserError(`"${file}": "${name}" is stored as ${dtype}; supported: F32, F16, BF16`);
	}

	/**
	 * A tensor, or some of its rows, in f32; owned by the caller unless it is resident.
	 *
	 * @throws {UserError} As {@link upload} does.
	 */
	async wide(place: Place): Promise<Tensor> {
		const key = keyOf(place);
		const stored = this.#prefetched.get(key) ?? this.upload(place);
		this.#prefetched.delete(key);
		if (stored.dtype === "f32") return stored;
		const wide = await widen(this.gpu, stored);
		this.gpu.free(stored);
		return wide;
	}

	/** Uploads a tensor for a later call of {@link wide}, while the GPU is busy. */
	prefetch(place: Place): void {
		this.#prefetched.set(keyOf(place), this.upload(place));
	}

	/** Makes a tensor resident on the GPU, as stored or in f32. */
	async keep(place: Place, as: "stored" | "f32"): Promise<void> {
		await this.model.fetchTensors([place.name]);
		this.#kept.set(place.name, as === "stored" ? this.upload(place) : await this.wide(place));
	}

	/** A resident tensor; undefined if it is not resident. */
	kept(name: string): Tensor | undefined {
		return this.#kept.get(name);
	}

	/** A tensor in f32, checked on first use; owned by the caller unless it is resident. */
	async checked(place: Place): Promise<Tensor> {
		await this.model.fetchTensors([place.name]);
		const tensor = await this.wide(place);
		if (!this.#finite.has(place.name)) await this.checkFinite([{ name: place.name, tensor }]);
		this.#finite.add(place.name);
		return tensor;
	}

	/** @throws {UserError} If a tensor has another shape than config.json states. */
	checkShape(name: string, shape: readonly number[], wanted: readonly number[]): void {
		requireShape(this.model.name, name, shape, wanted);
	}

	/** @throws {UserError} If any of the f32 tensors holds NaN or infinite values. */
	async checkFinite(tensors: readonly { name: string; tensor: Tensor }[]): Promise<void> {
		const { gpu } = this;
		using counts = gpu.zeros([tensors.length * 64], "u32"); // bindings start at multiples of 256 bytes
		for (const [i, { tensor }] of tensors.entries()) {
			await countNonFinite(gpu, tensor, counts.view(i * 64, [1]));
		}
		const found = await gpu.read(counts, "u32");
		tensors.forEach(({ name }, i) => this.refuseNonFinite(name, found[i * 64]));
	}

	/**
	 * @param count The number of NaN and infinite values of a tensor.
	 * @throws {UserError} If it is not 0.
	 */
	refuseNonFinite(name: string, count: number): void {
		refuseNonFinite(this.model.name, name, count);
	}

	[Symbol.dispose](): void {
		this.gpu.free(...this.#prefetched.values(), ...this.#kept.values());
		this.#prefetched.clear();
		this.#kept.clear();
	}
}

/**
 * Compares the shape of a tensor with that which config.json states.
 *
 * @throws {UserError} If it is another one.
 */
export function requireShape(
	model: string,
	name: string,
	shape: readonly number[],
	wanted: readonly number[],
): void {
	if (shapeText(shape) === shapeText(wanted)) return;
	throw new UserError(
		`"${model}": "${name}" has the shape ${shapeText(shape)}, ` +
			`expected ${shapeText(wanted)}; the weights do not fit config.json`,
	);
}

function keyOf({ name, part }: Place): string {
	return part ? `${name} from ${part.first} of ${part.matrix ?? 0}` : name;
}
