import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import { Tensor } from "../../gpu/tensor.ts";
import arrangeBits from "./arrange_bits.wgsl" with { type: "text" };
import type { BillmHost } from "./host.ts";
import { type BillmLayout, bitPlanes, scalesPerBlock } from "./quantize_block.ts";

/** Rows per tile of a {@link BillmTensors}, one per thread. */
export const TILE_ROWS = 32;
/** Columns per unit, which a thread reads at a time: four words of each bit plane. */
export const UNIT_COLS = 128;
/** The flag of a salient column in the column order. */
export const SALIENT = 2 ** 31;

/**
 * The tensors of a BiLLM layer on the GPU, in the layout of the product kernels.
 *
 * Tiles of 32 rows allow coalesced reads by 32 threads, one per row. Rows and columns are padded with
 * zeros, to tiles and to units of 128 columns. Salient columns come first: in each unit if blocks consist
 * of whole units, else in each word. So kernels find salient weights in the first words only.
 */
export interface BillmTensors extends BillmLayout {
	/** u32 `[tiles, units, bitPlanes, 32 rows, 4 words]`. */
	bits: Tensor;
	/** Bit mask of the salient positions, u32 `[units, 4]`. */
	salient: Tensor;
	/**
	 * The column at each position, bit 31 set if salient; `cols` or more for padding. u32
	 * `[units, 128]`.
	 */
	order: Tensor;
	/** Two f16 or four 8-bit codes per word, u32 `[tiles, blocks, words, 32 rows]`. */
	scales: Tensor;
	/** The factors of the codes of means and scales, f32 `[tiles * 32, 2]`; absent for f16. */
	factors?: Tensor;
}

/** A BiLLM layer to upload, whose bits may be on the GPU already. */
export type BillmSource = Omit<BillmHost, "bits"> & { bits: BillmHost["bits"] | Tensor };

/** The parameters of kernels that read a packed weight. */
export interface BillmForm {
	zones: 1 | 2;
	planes: number;
	/** Whether scales are 8-bit codes. */
	coded: boolean;
	/** Whether a unit of 128 columns may span several blocks. */
	mixed: boolean;
}

/** The form of a packed weight. */
export function formOf(
	{ zones, planes, factors, blockSize }: BillmLayout & { factors?: Tensor },
): BillmForm {
	return { zones, planes, coded: factors !== undefined, mixed: blockSize % UNIT_COLS !== 0 };
}

/** The name of a form, for the names of kernels. */
export function formName({ zones, planes, coded, mixed }: BillmForm): string {
	return `${zones}_${planes}_${coded ? "codes" : "f16"}${mixed ? "_mixed" : ""}`;
}

/** The number of bit planes of a weight. */
export function planesOf({ zones, planes }: Pick<BillmForm, "zones" | "planes">): number {
	return bitPlanes({ zones, planes } as BillmLayout);
}

/** u32 words for the scales of a row and block. */
export function scaleWords({ zones, planes, coded }: Omit<BillmForm, "mixed">): number {
	const count = scalesPerBlock({ zones, planes } as BillmLayout);
	return Math.ceil(count / (coded ? 4 : 2));
}

/** The number of units of a weight, of 128 columns each. */
export function unitsOf({ cols }: BillmLayout): number {
	return Math.ceil(cols / UNIT_COLS);
}

/** The number of tiles of a weight, of 32 rows each. */
export function tilesOf({ rows }: BillmLayout): number {
	return Math.ceil(rows / TILE_ROWS);
}

/**
 * Uploads a BiLLM layer.
 *
 * @returns The tensors, owned by the caller; see {@link freeBillm}.
 */
export async function uploadBillm(gpu: Gpu, host: BillmSource): Promise<BillmTensors> {
	const { rows, cols, blockSize, zones, planes, codes } = host;
	const [tiles, units] = [tilesOf(host), unitsOf(host)];
	const { order, salient } = columnOrder(host);
	const weight: BillmTensors = {
		...{ rows, cols, blockSize, zones, planes },
		bits: gpu.empty([tiles, units, bitPlanes(host), TILE_ROWS, 4], "u32"),
		salient: gpu.upload(salient, [units, 4]),
		order: gpu.upload(order, [units, UNIT_COLS]),
		scales: gpu.upload(arrangedScales(host), scaleShape(host)),
		factors: codes ? gpu.upload(paddedFactors(host), [tiles * TILE_ROWS, 2]) : undefined,
	};
	await uploadBits(gpu, host, weight);
	return weight;
}

/** Uploads the bits of a BiLLM layer and arranges them in the column order of `weight`. */
export async function uploadBits(
	gpu: Gpu,
	host: BillmSource,
	{ order, bits }: Pick<BillmTensors, "order" | "bits">,
): Promise<void> {
	const { rows, cols } = host;
	const words = bitWords(cols);
	const shape = [bitPlanes(host), rows, words];
	using raw = host.bits instanceof Tensor ? host.bits.view(0, shape) : gpu.upload(host.bits, shape);
	const kernel = await gpu.kernel({
		name: "arrange_bits",
		source: arrangeBits,
		constants: { PLANES: bitPlanes(host) },
	});
	kernel.dispatch({
		params: uniform([rows, cols, words, unitsOf(host), bits.size]),
		tensors: [raw, order, bits],
		workgroups: Math.ceil(bits.size / 64),
	});
}

/** Frees the tensors of a BiLLM layer. */
export function freeBillm(
	gpu: Gpu,
	{ bits, salient, order, scales, factors }: BillmTensors,
): void {
	gpu.free(bits, salient, order, scales, ...(factors ? [factors] : []));
}

/** The column order, salient columns of a segment first, and the bit mask of salient positions. */
export function columnOrder({ cols, blockSize, planes, salient }: BillmSource) {
	const positions = Math.ceil(cols / UNIT_COLS) * UNIT_COLS;
	const segment = blockSize % UNIT_COLS ? 32 : UNIT_COLS;
	const isSalient = (col: number) =>
		planes > 0 && col < cols && (salient[col >> 5] >>> (col & 31) & 1) === 1;
	const order = new Uint32Array(positions);
	const marks = new Uint32Array(positions / 32);
	for (let first = 0; first < positions; first += segment) {
		let position = first;
		for (const wanted of [true, false]) {
			for (let col = first; col < first + segment; col++) {
				if (isSalient(col) !== wanted) continue;
				order[position] = wanted ? col + SALIENT : col;
				if (wanted) marks[position >> 5] |= 1 << (position & 31);
				position++;
			}
		}
	}
	return { order, salient: marks };
}

/** The shape `[tiles, blocks, words, 32]` of {@link BillmTensors.scales}. */
export function scaleShape(host: BillmSource): number[] {
	const words = scaleWords({ ...host, coded: host.codes !== undefined });
	return [tilesOf(host), Math.ceil(host.cols / host.blockSize), words, TILE_ROWS];
}

/** The scales of a BiLLM layer in the layout of {@link BillmTensors.scales}. */
export function arrangedScales(host: BillmSource): Uint32Array<ArrayBuffer> {
	const { rows, codes } = host;
	const [tiles, blocks, words] = scaleShape(host);
	const perBlock = scalesPerBlock(host);
	const perWord = codes ? 4 : 2;
	const source = codes?.values ?? new Uint16Array(new Float16Array(host.scales).buffer);
	const out = new Uint32Array(tiles * blocks * words * TILE_ROWS);
	const parts = codes ? new Int8Array(out.buffer) : new Uint16Array(out.buffer);
	// Offsets of the parts from the first one of a row and block.
	const places = Array.from({ length: perBlock }, (_, i) => {
		const part = i % perWord;
		return (i - part) * TILE_ROWS + part;
	});
	let from = 0;
	for (let row = 0; row < rows; row++) {
		const lane = row % TILE_ROWS;
		const tile = (row - lane) / TILE_ROWS;
		for (let block = 0; block < blocks; block++) {
			const start = ((tile * blocks + block) * words * TILE_ROWS + lane) * perWord;
			for (let i = 0; i < perBlock; i++) parts[start + places[i]] = source[from++];
		}
	}
	return out;
}

/** The factors of a BiLLM layer's codes, padded to `[tiles * 32, 2]`. */
export function paddedFactors(host: BillmSource): Float32Array<ArrayBuffer> {
	const padded = new Float32Array(tilesOf(host) * TILE_ROWS * 2);
	padded.set(host.codes!.factors);
	return padded;
}

/**
 * WGSL that reads the scales of a row and block, for kernels that bind `scales` and, for codes,
 * `factors`. The variables `{prefix}0 ..` hold the words.
 */
export interface ScaleSource {
	/** Statements that declare the words as variables. */
	declare: string;
	/** Statements that load the words of a tile, block and lane. */
	load(tile: string, block: string, lane: string): string;
	/**
	 * Expressions for the mean and scale of a zone, the salient mean, and the scale of a salient plane.
	 */
	zoneMean(zone: number): string;
	zoneScale(zone: number): string;
	salientMean: string;
	salientScale(plane: number): string;
}

/**
 * The WGSL of a form's scales.
 *
 * @param factored Whether codes are multiplied with the variables mean_factor and scale_factor. If not,
 *   they are converted by an instruction that is slower but overlaps with shuffles.
 */
export function scaleSource(form: BillmForm, prefix: string, factored = true): ScaleSource {
	const words = Array.from({ length: scaleWords(form) }, (_, i) => i);
	const code = (index: number) => {
		const [word, shift] = [`${prefix}${index >> 2}`, 8 * (index & 3)];
		// The mantissa of 2^23 + code + 128: a conversion instruction takes eight times as long.
		return factored
			? `(bitcast<f32>(0x4b000000u | (((${word} ^ 0x80808080u) >> ${shift}u) & 0xffu)) - 8388736.0)`
			: `f32(extractBits(bitcast<i32>(${word}), ${shift}u, 8u))`;
	};
	const value = (index: number, factor: string) =>
		form.coded
			? factored ? `(${code(index)} * ${factor})` : code(index)
			: `unpack2x16float(${prefix}${index >> 1}).${"xy"[index & 1]}`;
	const mean = (index: number) => value(index, "mean_factor");
	const scale = (index: number) => value(index, "scale_factor");
	const salient = 2 * form.zones;
	return {
		declare: words.map((i) => `var ${prefix}${i}: u32;`).join(" "),
		load: (tile, block, lane) =>
			`{ let at = (${tile} * p.blocks + ${block}) * ${32 * words.length}u + ${lane};
    ${words.map((i) => `${prefix}${i} = scales[at + ${32 * i}u];`).join(" ")} }`,
		zoneMean: (zone) => mean(2 * zone),
		zoneScale: (zone) => scale(2 * zone + 1),
		salientMean: mean(salient),
		salientScale: (plane) => scale(salient + 1 + plane),
	};
}
