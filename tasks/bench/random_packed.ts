import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { bitWords } from "../../base/bits.ts";
import { type BillmHost } from "../../codecs/billm/host.ts";
import { scalesPerBlock } from "../../codecs/billm/quantize_block.ts";
import type { PackedLinear } from "../../codecs/codec.ts";
import { billm } from "../../codecs/billm/codec.ts";
import { grid } from "../../codecs/grid/codec.ts";
import { codeWords, type GridBits, groupsOf } from "../../codecs/grid/grid.ts";
import type { GridHost } from "../../codecs/grid/store.ts";
import { levels } from "../../codecs/levels/codec.ts";
import { levelWords } from "../../codecs/levels/levels.ts";
import type { LevelsHost } from "../../codecs/levels/store.ts";
import { storeLinear, versionFor } from "../../codecs/mod.ts";
import { rotationConfigOf } from "../../codecs/quantization_config.ts";
import { statedRotations } from "../../codecs/stated_rotation.ts";
import { trellis } from "../../codecs/trellis/codec.ts";
import type { TrellisHost } from "../../codecs/trellis/store.ts";
import { stepsOf, tilesOf } from "../../codecs/trellis/trellis.ts";
import { runFor } from "../../gpu/kernels/rotation/rotation.ts";
import { readArchitecture } from "../../models/architectures/mod.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { layerPlaces } from "../../models/places.ts";
import { syntheticShards } from "../../models/synthetic.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { packedMetadata } from "../../storage/packed_metadata.ts";
import { partShape, type TensorToWrite } from "../../storage/safetensors.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";

/** Columns that share scales. */
const BLOCK = 128;

/** The rotation of the codecs that are meant for rotated weights. */
const ROTATION = { seed: 1, block: 64 };

/** A codec with what its methods usually store, filled with random bits. */
interface RandomForm {
	about: string;
	linear(rows: number, cols: number): PackedLinear;
}

/** The forms of linear layers that can be compared, by name. */
export const RANDOM_FORMS: Readonly<Record<string, RandomForm>> = {
	"billm": {
		about: "BiLLM, scales in 8 bits",
		linear: (rows, cols) => ({ codec: billm, host: randomBillm(rows, cols) }),
	},
	"grid-2": {
		about: "grids of 2 bits, groups of 128",
		linear: (rows, cols) => ({ codec: grid, host: randomGrid(rows, cols, 2) }),
	},
	"grid-4": {
		about: "grids of 4 bits, groups of 128",
		linear: (rows, cols) => ({ codec: grid, host: randomGrid(rows, cols, 4) }),
	},
	"levels-2": {
		about: "4 levels in 2 bits, rotated",
		linear: (rows, cols) => rotated({ codec: levels, host: randomLevels(rows, cols) }),
	},
	"trellis-2": {
		about: "trellis of 2 bits in an order of columns, rotated",
		linear: (rows, cols) => rotated({ codec: trellis, host: randomTrellis(rows, cols) }),
	},
};

/**
 * Writes a model whose linear layers have random bits. Layers of one shape are alike, which makes no
 * difference for the time of their products.
 *
 * @param config The content of config.json of the plain model.
 * @param seed Of the other tensors.
 */
export function writeRandomPacked(
	folder: string,
	config: Record<string, unknown>,
	{ linear }: RandomForm,
	seed: number,
): void {
	const architecture = readArchitecture(config, "config.json");
	const known = new Map<string, PackedLinear>();
	const linearOf = (rows: number, cols: number) => {
		const key = `${rows} x ${cols}`;
		if (!known.has(key)) known.set(key, linear(rows, cols));
		return known.get(key)!;
	};
	const all: { name: string; module: string; rotation?: typeof ROTATION }[] = [];
	const weightMap: Record<string, string> = {};
	let version = versionFor([]);
	let layer = -1; // the first shard has what is outside the layers
	for (const { file, tensors } of syntheticShards(config, seed)) {
		const places = layer < 0 ? [] : [...layerPlaces(architecture, layer)];
		const packed = places.flatMap(({ linear, name, shape, part }) => {
			const [rows, cols] = part ? partShape(shape, part) : shape;
			return linear ? [{ linear, name, packed: linearOf(rows, cols) }] : [];
		});
		const weights = new Set(packed.map(({ name }) => name));
		const stored: TensorToWrite[] = tensors.filter(({ name }) => !weights.has(name)).map((
			tensor,
		) => ({
			...tensor,
			data: whole(tensor.data),
		}));
		for (const { linear, packed: own } of packed) {
			stored.push(...storeLinear(linear, own, { scales: "i8", flags: "plain" }).tensors);
			const module = linear.slice(architecture.names.layer(layer).length);
			all.push({ name: linear, module, rotation: own.transform?.rotation });
		}
		const names = stored.map(({ name }) => name);
		for (const name of names) weightMap[name] = file;
		const codecs = packed.map(({ packed }) => packed.codec);
		version = Math.max(version, versionFor(codecs, names, all.some(({ rotation }) => rotation)));
		writeSafetensors(join(folder, file), stored, {
			...packedMetadata(stored, version, crc32),
			...statedRotations(all.slice(all.length - packed.length)),
		});
		layer++;
	}
	const index = { metadata: {}, weight_map: weightMap };
	writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
	const configFile = join(folder, "config.json");
	if (!existsSync(configFile)) writeFileSync(configFile, JSON.stringify(config));
	using plain = ModelFiles.open(denoFolder(folder));
	const quantization = plain.packedConfig(BLOCK, version, undefined, rotationConfigOf(all));
	writeFileSync(configFile, JSON.stringify({ ...config, quantization_config: quantization }));
}

function whole(data: TensorToWrite["data"]): Uint8Array {
	return data instanceof Uint8Array ? data : new Uint8Array(Buffer.concat([...data]));
}

/** Random words. */
function bits(count: number): Uint32Array<ArrayBuffer> {
	const words = new Uint32Array(count);
	const most = 65536 / 4; // of a call
	for (let i = 0; i < count; i += most) crypto.getRandomValues(words.subarray(i, i + most));
	return words;
}

/** An f16 number that is of use as the scale of weights that preserve the norm of their input. */
function scale(cols: number, factor: number): number {
	return Math.f16round(factor / Math.sqrt(cols));
}

function rotated(linear: PackedLinear): PackedLinear {
	const block = runFor(linear.host.cols, ROTATION.block);
	return block === undefined
		? linear
		: { ...linear, transform: { rotation: { ...ROTATION, block } } };
}

function randomBillm(rows: number, cols: number): BillmHost {
	const words = bitWords(cols);
	const layout = { rows, cols, blockSize: BLOCK, zones: 2, planes: 2 } as const;
	const count = rows * Math.ceil(cols / BLOCK) * scalesPerBlock(layout);
	const factors = new Float32Array(2 * rows).fill(scale(cols, 0.01));
	const values = new Int8Array(count).fill(80);
	const marked = new Uint32Array(words);
	for (let word = 0; word < words - 1; word += BLOCK / 32) marked[word] = 0b1111111; // 7 of 128
	return {
		...layout,
		bits: bits(2 * rows * words),
		salient: marked,
		scales: Float32Array.from(values, (value) => value * factors[0]),
		codes: { values, factors },
	};
}

function randomGrid(rows: number, cols: number, width: GridBits): GridHost {
	const kind = { grid: "range", bits: width, salient: false } as const;
	const layout = { rows, cols, groupSize: BLOCK, ...kind };
	const middle = 2 ** (width - 1);
	const size = scale(cols, 2 / middle);
	const fits = new Float32Array(2 * rows * groupsOf(layout));
	for (let i = 0; i < fits.length; i += 2) fits.set([size, middle], i);
	return { ...layout, codes: bits(rows * bitWords(cols) * codeWords(layout)), fits };
}

function randomLevels(rows: number, cols: number): LevelsHost {
	const layout = { rows, cols, count: 4, pattern: "free" } as const;
	const theta = new Float32Array(2 * rows);
	for (let i = 0; i < theta.length; i += 2) theta.set([scale(cols, 0.45), scale(cols, 1.5)], i);
	return { ...layout, codes: bits(rows * levelWords(layout)), theta };
}

function randomTrellis(rows: number, cols: number): TrellisHost {
	const layout = { rows, cols, bits: 2, stateBits: 12 } as const;
	const [below, beside] = tilesOf(layout);
	return {
		...layout,
		stream: bits(below * beside * stepsOf(layout).words),
		scales: new Float32Array(rows).fill(scale(cols, 1)),
		order: Uint32Array.from({ length: cols }, (_, i) => cols - 1 - i),
	};
}
