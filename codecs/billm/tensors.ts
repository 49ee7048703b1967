import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import arrangeBits from "./arrange_bits.wgsl" with { type: "text" };
import type { BillmHost } from "./host.ts";
import { type BillmLayout, bitPlanes, scalesPerBlock } from "./quantize_block.ts";

/** Rows that lie side by side in a {@link BillmTensors}, one for each thread. */
export const TILE_ROWS = 32;
/** Columns that a thread reads at a time: four words of each plane of bits. */
export const UNIT_COLS = 128;
/** Set in the order of the columns for a salient one. */
export const SALIENT = 2 ** 31;

/**
 * A linear layer in GPU memory that is multiplied with as it is packed.
 *
 * Everything lies in tiles of 32 rows, so that 32 threads, one for each row, read neighbours. Rows and
 * columns are padded with zeros, to tiles and to units of 128 columns. The salient columns of a block
 * come first: of its unit if the units divide the blocks, else of each word. Kernels then find
 * salient weights in the first words only.
 */
export interface BillmTensors extends BillmLayout {
  /** u32 `[tiles, units, bitPlanes, 32 rows, 4 words]`. */
  bits: Tensor;
  /** Which positions are salient, a bit for each, u32 `[units, 4]`. */
  salient: Tensor;
  /** The column at each position, bit 31 set if it is salient; `cols` or more for none. u32 `[units, 128]`. */
  order: Tensor;
  /** Pairs of f16, or four 8-bit codes, of a row and block, u32 `[tiles, blocks, words, 32 rows]`. */
  scales: Tensor;
  /** Factors of the codes of means and of scales, f32 `[tiles * 32, 2]`; absent for f16. */
  factors?: Tensor;
}

/** What a kernel that reads a packed weight is made for. */
export interface BillmForm {
  zones: 1 | 2;
  planes: number;
  /** Whether scales are 8-bit codes. */
  coded: boolean;
  /** Whether a unit of 128 columns may lie in more than one block. */
  mixed: boolean;
}

/** The form of a packed weight. */
export function formOf(
  { zones, planes, factors, blockSize }: BillmLayout & { factors?: Tensor },
): BillmForm {
  return { zones, planes, coded: factors !== undefined, mixed: blockSize % UNIT_COLS !== 0 };
}

/** A text that names a form, for the names of kernels. */
export function formName({ zones, planes, coded, mixed }: BillmForm): string {
  return `${zones}_${planes}_${coded ? "codes" : "f16"}${mixed ? "_mixed" : ""}`;
}

/** Planes of bits of a weight. */
export function planesOf({ zones, planes }: Pick<BillmForm, "zones" | "planes">): number {
  return bitPlanes({ zones, planes } as BillmLayout);
}

/** Words of u32 that hold the scales of a row and block. */
export function scaleWords({ zones, planes, coded }: Omit<BillmForm, "mixed">): number {
  const count = scalesPerBlock({ zones, planes } as BillmLayout);
  return Math.ceil(count / (coded ? 4 : 2));
}

/** The unit count of a weight: 128 columns each. */
export function unitsOf({ cols }: BillmLayout): number {
  return Math.ceil(cols / UNIT_COLS);
}

/** The tile count of a weight: 32 rows each. */
export function tilesOf({ rows }: BillmLayout): number {
  return Math.ceil(rows / TILE_ROWS);
}

/**
 * Brings a packed linear layer to the GPU.
 *
 * @returns The weight, owned by the caller; see {@link freeBillm}.
 */
export async function uploadBillm(gpu: Gpu, host: BillmHost): Promise<BillmTensors> {
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

/** Brings the bits of a linear layer in the order of `weight` to its memory. */
export async function uploadBits(
  gpu: Gpu,
  host: BillmHost,
  { order, bits }: Pick<BillmTensors, "order" | "bits">,
): Promise<void> {
  const { rows, cols } = host;
  const words = bitWords(cols);
  using raw = gpu.upload(host.bits, [bitPlanes(host), rows, words]);
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

export function freeBillm(
  gpu: Gpu,
  { bits, salient, order, scales, factors }: BillmTensors,
): void {
  gpu.free(bits, salient, order, scales, ...(factors ? [factors] : []));
}

/** The column at each position, the salient ones of a segment first, and which positions are salient. */
export function columnOrder({ cols, blockSize, planes, salient }: BillmHost) {
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

/** `[tiles, blocks, words, 32]` of a linear layer's scales. */
export function scaleShape(host: BillmHost): number[] {
  const words = scaleWords({ ...host, coded: host.codes !== undefined });
  return [tilesOf(host), Math.ceil(host.cols / host.blockSize), words, TILE_ROWS];
}

/** A linear layer's scales as they lie in a {@link BillmTensors}. */
export function arrangedScales(host: BillmHost): Uint32Array<ArrayBuffer> {
  const { rows, codes } = host;
  const [tiles, blocks, words] = scaleShape(host);
  const perBlock = scalesPerBlock(host);
  const perWord = codes ? 4 : 2;
  const source = codes?.values ?? new Uint16Array(new Float16Array(host.scales).buffer);
  const out = new Uint32Array(tiles * blocks * words * TILE_ROWS);
  const parts = codes ? new Int8Array(out.buffer) : new Uint16Array(out.buffer);
  // Where the parts lie from the first of a row and block on.
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

/** The factors of a linear layer's codes, `[tiles * 32, 2]`. */
export function paddedFactors(host: BillmHost): Float32Array<ArrayBuffer> {
  const padded = new Float32Array(tilesOf(host) * TILE_ROWS * 2);
  padded.set(host.codes!.factors);
  return padded;
}

/**
 * WGSL that reads the scales of a row and block, for kernels that bind `scales` and, for codes,
 * `factors`. Names: `{prefix}0 ..` hold the words.
 */
export interface ScaleSource {
  /** Statements that declare the words as variables. */
  declare: string;
  /** Statements that load the words, from a tile, block and lane. */
  load(tile: string, block: string, lane: string): string;
  /** Mean of a zone, scale of a zone, salient mean, scale of a salient plane. */
  zoneMean(zone: number): string;
  zoneScale(zone: number): string;
  salientMean: string;
  salientScale(plane: number): string;
}

/**
 * @param factored Whether codes come times their factors, the variables mean_factor and scale_factor.
 *   Without, they are converted by an instruction that is slower, but runs beside shuffles.
 */
export function scaleSource(form: BillmForm, prefix: string, factored = true): ScaleSource {
  const words = Array.from({ length: scaleWords(form) }, (_, i) => i);
  const code = (index: number) => {
    const [word, shift] = [`${prefix}${index >> 2}`, 8 * (index & 3)];
    // The mantissa of 2^23 + code + 128: converting takes a GPU eight times as long.
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
