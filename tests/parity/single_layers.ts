/** Single linear layers with their Hessians and what is expected of codecs on them, beside the project. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { outputErrorParts, relativeError } from "~/gpu/kernels/reduce/output_error.ts";
import { type Rotation, transformOnHost } from "~/gpu/kernels/rotation/rotation.ts";
import type { Gpu } from "~/gpu/device.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import type { LinearLayer } from "~/pipeline/stage.ts";
import { openSafetensors } from "../open.ts";
import { transposed } from "../reference/linear_algebra.ts";
import { layerOnGpu, type OnGpu } from "../stages/linear_on_gpu.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";

export const FIXTURES = "../shared/fixtures/codecs";
const TINY = "../shared/fixtures/billm-reference/tiny-llama.linears.safetensors";
export const areLayersThere = existsSync(FIXTURES) && existsSync(TINY);
export const suffix = areLayersThere ? "" : " (needs ../shared)";

/** The hash of decoded weights, with zeros of one sign. */
export function digest(weights: Float32Array): string {
	return createHash("sha256").update(weights.map((weight) => weight + 0)).digest("hex");
}

/** The codes of the fixture for a layer. */
export function codesOf(layer: string): Checkpoint {
	return openSafetensors(`${FIXTURES}/codes-${layer}.safetensors`);
}

export const LAYERS = ["tiny-k", "smollm2-v", "smollm2-down"];

interface Expected {
	proxy: number;
	/** Relative. */
	tolerance: number;
	decoded_sha256?: string;
}

/** What is expected of a layer by the name of a codec, such as "grid2-gptq-static-any". */
export function expectedOf(layer: string): Record<string, Expected> {
	return JSON.parse(readFileSync(`${FIXTURES}/expected.json`, "utf8")).layers[layer].codecs;
}

/** The symmetric matrix with this upper triangle, row after row, f32 `[n, n]`. */
function symmetric(upper: Float32Array): Float32Array {
	const n = Math.floor((Math.sqrt(8 * upper.length + 1) - 1) / 2);
	const matrix = new Float32Array(n * n);
	let at = 0;
	for (let i = 0; i < n; i++) {
		for (let j = i; j < n; j++) matrix[i * n + j] = matrix[j * n + i] = upper[at++];
	}
	return matrix;
}

function loadLayer(layer: string): { weight: Float32Array; hessian: Float32Array } {
	if (layer === "tiny-k") {
		using file = openSafetensors(TINY);
		const name = "layers.1.self_attn.k_proj";
		return {
			weight: file.readFloat32(`${name}.weight`),
			hessian: file.readFloat32(`${name}.hessian`),
		};
	}
	using file = openSafetensors(`${FIXTURES}/layers.safetensors`);
	const weight = file.readFloat32(`${layer}.weight`);
	if (layer === "smollm2-v") {
		return { weight, hessian: symmetric(file.readFloat32(`${layer}.hessian_upper`)) };
	}
	const halves = [0, 1].map((half) => {
		using part = openSafetensors(`${FIXTURES}/hessian-down.${half}.safetensors`);
		return [...part.readFloat32("hessian_upper")];
	});
	return { weight, hessian: symmetric(Float32Array.from(halves.flat())) };
}

/**
 * Uploads a layer and runs the stage `hessian` on its Hessian.
 *
 * @param isNeeded Whether later stages need an artifact.
 * @param rotation Of the weights and the Hessian, if any.
 */
export async function uploadLayer(
	gpu: Gpu,
	layer: string,
	blockSize: number,
	isNeeded?: (name: string) => boolean,
	rotation?: Rotation,
): Promise<OnGpu> {
	const { weight, hessian: h } = loadLayer(layer);
	const cols = Math.sqrt(h.length);
	if (rotation) {
		transformOnHost(weight, cols, { rotation });
		transformOnHost(h, cols, { rotation }); // H Rᵀ
		h.set(transposed(h, cols, cols)); // R H, since H is symmetric
		transformOnHost(h, cols, { rotation });
	}
	return await layerOnGpu(gpu, { name: layer, weight, hessian: h }, blockSize, isNeeded);
}

/** tr(E H Eᵀ) / tr(W H Wᵀ) with E = W - Q. */
export async function errorOf({ original, quantized }: LinearLayer, h: Tensor): Promise<number> {
	using parts = await outputErrorParts(original.gpu, original, quantized, h);
	return await relativeError(parts);
}
