import { UserError } from "../base/errors.ts";
import { shapeText } from "../gpu/tensor.ts";
import type { Checkpoint } from "../storage/checkpoint.ts";
import { versionProblem } from "../storage/packed_metadata.ts";
import {
  type StoredDtype,
  type StoredTensor,
  type TensorToWrite,
  toFloat32,
} from "../storage/safetensors.ts";
import {
  type BitLayout,
  bitPlanes,
  type LinearBits,
  scalesPerBlock,
} from "./billm/quantize_block.ts";
import { decodeFlags, encodeFlags } from "./flag_codes.ts";
import {
  dequantizeGridOnHost,
  GRID_PARTS,
  gridPaperBits,
  gridTensors,
  type HostGrid,
  isPackedGrid,
  unpackGrid,
} from "./grid/packed_grid.ts";

/** The most planes of bits that salient columns have. */
const MAX_PLANES = 4;

/** `quantization_config` in the config.json of a packed model. */
export interface QuantizationConfig {
  quant_method: "billm";
  /** The stage that quantized the linear layers, such as "gptq"; absent for BiLLM's own method. */
  method?: string;
  format_version: number;
  /** Columns that share scales. */
  block_size: number;
  /** Columns of each linear layer by module: the bits are padded to whole words. */
  columns: Record<string, number>;
}

/**
 * @returns Undefined for a model that is not quantized.
 * @throws {UserError} If it was quantized by another method or a later version of this one, or a
 *   field is missing or wrong.
 */
export function readQuantizationConfig(
  config: Record<string, unknown>,
  file: string,
): QuantizationConfig | undefined {
  const found = config.quantization_config as QuantizationConfig | undefined;
  if (found == null) return undefined;
  const refuse = (field: string, wanted: string, value: unknown): never => {
    throw new UserError(
      `"${file}": quantization_config${field} must be ${wanted}, found ` +
        (value === undefined ? "nothing" : JSON.stringify(value)),
    );
  };
  if (!isObject(found)) refuse("", "an object", found);
  if (found.quant_method !== "billm") {
    throw new UserError(
      `"${file}": the model is quantized with ${JSON.stringify(found.quant_method)}, ` +
        `which cannot be read; use the original model`,
    );
  }
  if (!isCount(found.format_version)) {
    refuse(".format_version", "a whole number", found.format_version);
  }
  const problem = versionProblem(found.format_version);
  if (problem) throw new UserError(`"${file}": ${problem}`);
  const { method, block_size: blockSize, columns } = found;
  if (method !== undefined && typeof method !== "string") {
    refuse(".method", "the name of a method", method);
  }
  if (!isCount(blockSize) || blockSize % WORD) {
    refuse(".block_size", `a multiple of ${WORD}`, blockSize);
  }
  if (!isObject(columns) || !Object.values(columns).every(isCount)) {
    refuse(".columns", "a whole number for each linear layer", columns);
  }
  return found;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

/** Means and scales in few bits: value = code · factor, in f32. */
export interface HostCodes {
  /** `[rows, blocks, scalesPerBlock]`, -127 .. 127; in 4 bits, means -7 .. 7 and scales 0 .. 15. */
  values: Int8Array<ArrayBuffer>;
  /** Of a code in the file; 8 if absent. */
  bits?: 4;
  /** Of a row's means and of its scales, values that f16 holds, `[rows, 2]`. */
  factors: Float32Array<ArrayBuffer>;
}

/** A linear layer's bits in host memory. */
export interface HostBits extends BitLayout {
  /** `[bitPlanes, rows, words]`. */
  bits: Uint32Array<ArrayBuffer>;
  /** `[rows, blocks, scalesPerBlock]`: values that f16 holds, or what `codes` stand for. */
  scales: Float32Array<ArrayBuffer>;
  /** How the scales are stored in 8 or 4 bits. */
  codes?: HostCodes;
  /** One bit per column, `[words]`. */
  salient: Uint32Array<ArrayBuffer>;
}

/** A packed linear layer in host memory: BiLLM's bits, or codes on grids. */
export type HostLinear = HostBits | HostGrid;

/** Whether a packed linear layer has codes on grids. */
export function isGrid(host: HostLinear): host is HostGrid {
  return "grid" in host;
}

/** Bytes of a linear layer in BiLLM's bits by part. */
export interface StoredParts {
  signs: number;
  flags: number;
  "salient-signs": number;
  "salient-columns": number;
  scales: number;
}

/** A packed linear layer and what is to be said of it. */
export interface PackedLinear<Host extends HostLinear = HostLinear> {
  /** "model.layers.0.self_attn.q_proj" */
  name: string;
  host: Host;
  tensors: TensorToWrite[];
  /** Bytes by part. */
  parts: Record<string, number>;
  /** None on grids. */
  salientColumns: number[];
  /** Fraction of the weights outside the salient columns that are in the high zone; 0 on grids. */
  highFraction: number;
}

const WORD = 32;

function words(cols: number): number {
  return Math.ceil(cols / WORD);
}

/** How the parts of a packed linear layer are stored where there is a choice. */
export interface StoredForm {
  /** "entropy" takes as many bits as the flags, or which weights are salient, hold information. */
  flags: "plain" | "entropy";
}

/**
 * The first plane of bits that is stored for the salient columns only, without the others. In the
 * plain form the second sign of a salient weight takes the place of its flag.
 */
function firstCompactPlane({ zones }: BitLayout, flags: StoredForm["flags"]): number {
  return flags === "entropy" ? 1 : zones;
}

/** Planes of bits that are stored for the salient columns only. */
function compactPlanes(layout: BitLayout, flags: StoredForm["flags"]): number {
  const planes = flags === "entropy" ? layout.planes : bitPlanes(layout);
  return Math.max(0, planes - firstCompactPlane(layout, flags));
}

/**
 * What a packed linear layer with plain flags takes, from its form alone: the sum of `parts` in bytes.
 *
 * signs and flags: one bit per weight, in words of 32 columns; scales: f16, or few bits and two factors
 * in f16 for each row; one bit per column says which are salient; a third and fourth sign (or a second
 * one, with a single zone) of `salient` columns.
 *
 * @param scaleBits Of a mean or scale.
 */
export function storedParts(
  layout: BitLayout,
  salient: number,
  scaleBits: 16 | 8 | 4 = 16,
): StoredParts {
  const { rows, cols, blockSize, zones, planes } = layout;
  const blocks = Math.ceil(cols / blockSize);
  const perRow = Math.ceil(blocks * scaleBits / 8) * scalesPerBlock(layout);
  return {
    signs: 4 * rows * words(cols),
    flags: zones === 2 ? 4 * rows * words(cols) : 0,
    "salient-signs": 4 * compactPlanes(layout, "plain") * words(rows * salient),
    "salient-columns": planes > 0 ? 4 * words(cols) : 0,
    scales: rows * (perRow + (scaleBits < 16 ? 4 : 0)),
  };
}

/** Bits per weight as the paper counts: one sign, and the further signs of salient columns. */
export function paperBits({ cols, planes }: BitLayout, salient: number): number {
  return 1 + Math.max(0, planes - 1) * salient / cols;
}

/** Bits per weight as papers count: without scales and without what says where they apply. */
export function paperBitsOf(host: HostLinear): number {
  return isGrid(host) ? gridPaperBits(host) : paperBits(host, salientColumns(host).length);
}

/** Reads a linear layer's bits back from the GPU. */
export async function readBits(linear: LinearBits): Promise<HostBits> {
  const { bits, scales, salient: columns, ...layout } = linear;
  const { gpu } = bits;
  const marks = await gpu.read(columns, "u32");
  const salient = new Uint32Array(words(layout.cols));
  marks.forEach((mark, col) => salient[col >> 5] |= mark << (col & 31));
  return {
    rows: layout.rows,
    cols: layout.cols,
    blockSize: layout.blockSize,
    zones: layout.zones,
    planes: layout.planes,
    bits: await gpu.read(bits, "u32"),
    scales: await gpu.read(scales),
    salient,
  };
}

/** Numbers of the columns whose bit is set, ascending. */
export function salientColumns({ cols, planes, salient }: HostBits): number[] {
  if (planes === 0) return [];
  const all = Array.from({ length: cols }, (_, col) => col);
  return all.filter((col) => (salient[col >> 5] >>> (col & 31)) & 1);
}

/** The tensors that store a linear layer, and what is to be said of it. */
export function packLinear<Host extends HostLinear>(
  name: string,
  host: Host,
  form: StoredForm = { flags: "plain" },
): PackedLinear<Host> {
  const isOnGrid = isGrid(host);
  const tensors = isOnGrid ? gridTensors(name, host, form) : bitTensors(name, host, form);
  return {
    name,
    host,
    tensors,
    parts: sizesOf(tensors, isOnGrid ? {} : noParts()),
    salientColumns: isOnGrid ? [] : salientColumns(host),
    highFraction: isOnGrid ? 0 : highFraction(host),
  };
}

/**
 * The tensors that store BiLLM's bits, NAME.signs and so on.
 *
 * @param form With a single zone there are no flags, whatever it says.
 */
function bitTensors(name: string, host: HostBits, form: StoredForm): TensorToWrite[] {
  const flags = host.zones === 2 ? form.flags : "plain";
  const { rows, cols, blockSize, zones, planes, bits } = host;
  const width = words(cols);
  const plane = (k: number) => bits.subarray(k * rows * width, (k + 1) * rows * width);
  const columns = salientColumns(host);
  const bytes = (array: Uint32Array | Uint16Array | Float16Array | Int8Array) =>
    new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
  const tensors: TensorToWrite[] = [];
  const add = (part: string, dtype: StoredDtype, shape: number[], data: Uint8Array) =>
    tensors.push({ name: `${name}.${part}`, dtype, shape, data });
  add("signs", "U32", [rows, width], bytes(plane(0)));
  if (flags === "entropy") {
    const codes = encodeFlags({ rows, cols, plane: plane(1), salient: marksOf(host) });
    add("flags", "U16", [codes.length], bytes(codes));
  } else if (zones === 2) {
    add("flags", "U32", [rows, width], bytes(plane(1)));
  }
  if (planes > 0) add("salient_columns", "U32", [width], bytes(host.salient));
  const compact = compactPlanes(host, flags);
  if (compact > 0 && columns.length > 0) {
    const planeWords = words(rows * columns.length);
    const packed = new Uint32Array(compact * planeWords);
    for (let k = 0; k < compact; k++) {
      const source = plane(firstCompactPlane(host, flags) + k);
      const target = packed.subarray(k * planeWords, (k + 1) * planeWords);
      for (let row = 0, at = 0; row < rows; row++) {
        for (const col of columns) {
          const bit = (source[row * width + (col >> 5)] >>> (col & 31)) & 1;
          target[at >> 5] |= bit << (at & 31);
          at++;
        }
      }
    }
    add("salient_signs", "U32", [compact, planeWords], bytes(packed));
  }
  const shape = [rows, Math.ceil(cols / blockSize), scalesPerBlock(host)];
  if (host.codes) {
    if (host.codes.bits === 4) {
      add("scales", "U8", nibbleShape(host), toNibbles(host, host.codes.values));
    } else {
      add("scales", "I8", shape, bytes(host.codes.values));
    }
    add("scale_factors", "F16", [rows, 2], bytes(Float16Array.from(host.codes.factors)));
  } else {
    add("scales", "F16", shape, bytes(Float16Array.from(host.scales)));
  }
  return tensors;
}

/** BiLLM's bits have all parts, if only with nothing in them. */
function noParts(): Record<keyof StoredParts, number> {
  return { signs: 0, flags: 0, "salient-signs": 0, "salient-columns": 0, scales: 0 };
}

/** Adds what tensors of a packed linear layer take to `parts`. */
function sizesOf(
  tensors: readonly TensorToWrite[],
  parts: Record<string, number>,
): Record<string, number> {
  for (const { name, data } of tensors) {
    const word = name.slice(name.lastIndexOf(".") + 1);
    const part = PART_NAMES[word] ?? GRID_PARTS[word];
    parts[part] = (parts[part] ?? 0) + (data as Uint8Array).length;
  }
  return parts;
}

/** Which columns are salient, as bits; none without planes for them. */
function marksOf({ cols, planes, salient }: HostBits): Uint32Array {
  return planes > 0 ? salient : new Uint32Array(words(cols));
}

/** Fraction of the weights outside the salient columns that are in the high zone. */
export function highFraction(host: HostBits): number {
  const others = host.rows * (host.cols - salientColumns(host).length);
  return host.zones === 2 && others > 0 ? countFlags(host) / others : 0;
}

/** Weights outside the salient columns whose flag says high zone. */
function countFlags({ rows, cols, planes, bits, salient }: HostBits): number {
  const width = words(cols);
  let count = 0;
  for (let i = 0; i < rows * width; i++) {
    let flags = bits[rows * width + i];
    if (planes > 0) flags &= ~salient[i % width];
    count += bitCount(flags);
  }
  return count;
}

/** The ones among 32 bits: sums of 2, of 4, of 8 bits side by side, then of the four bytes. */
function bitCount(word: number): number {
  word -= (word >>> 1) & 0x55555555;
  word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Whether a checkpoint holds a linear layer in packed form. */
export function isPacked(checkpoint: Checkpoint, name: string): boolean {
  return checkpoint.has(`${name}.signs`) || isPackedGrid(checkpoint, name);
}

/** The tensor that each packed linear layer has, with a row for each of its rows. */
export function mainTensor(checkpoint: Checkpoint, name: string): StoredTensor {
  return checkpoint.get(isPackedGrid(checkpoint, name) ? `${name}.grid_codes` : `${name}.signs`);
}

/** The parts that a packed linear layer may have, as the last words of its tensors' names. */
const PART_NAMES: Record<string, keyof StoredParts> = {
  signs: "signs",
  flags: "flags",
  salient_signs: "salient-signs",
  salient_columns: "salient-columns",
  scales: "scales",
  scale_factors: "scales",
};

/** The part of a packed linear layer that a tensor is; undefined for another tensor. */
export function partOf(checkpoint: Checkpoint, tensor: string): string | undefined {
  const dot = tensor.lastIndexOf(".");
  const [name, word] = [tensor.slice(0, dot), tensor.slice(dot + 1)];
  const parts: Record<string, string> = isPackedGrid(checkpoint, name) ? GRID_PARTS : PART_NAMES;
  return isPacked(checkpoint, name) && Object.hasOwn(parts, word) ? parts[word] : undefined;
}

/** The packed linear layers of a checkpoint by name, in its order, with what each is stored in. */
export function packedLinears(
  checkpoint: Checkpoint,
): Map<string, { tensors: string[]; parts: Record<string, number> }> {
  const linears = new Map<string, { tensors: string[]; parts: Record<string, number> }>();
  for (const { name, bytes } of checkpoint.tensors.values()) {
    const part = partOf(checkpoint, name);
    if (!part) continue;
    const linear = name.slice(0, name.lastIndexOf("."));
    if (!linears.has(linear)) {
      const parts = isPackedGrid(checkpoint, linear) ? {} : noParts();
      linears.set(linear, { tensors: [], parts });
    }
    const { tensors, parts } = linears.get(linear)!;
    tensors.push(name);
    parts[part] = (parts[part] ?? 0) + bytes;
  }
  return linears;
}

/** Columns of a packed linear layer; undefined if config.json does not say. */
export function columnsOf({ columns }: QuantizationConfig, name: string): number | undefined {
  const module = Object.keys(columns).find((known) => name.endsWith(`.${known}`));
  return module === undefined ? undefined : columns[module];
}

/**
 * Reads a packed linear layer, of whichever form.
 *
 * @throws {UserError} If a tensor is missing or has a shape that does not fit the others, or another
 *   type.
 */
export function readLinear(
  checkpoint: Checkpoint,
  name: string,
  cols: number,
  blockSize: number,
): HostLinear {
  const read = isPackedGrid(checkpoint, name) ? unpackGrid : unpackLinear;
  return read(checkpoint, name, cols, blockSize);
}

/**
 * Reads a linear layer in BiLLM's bits.
 *
 * @throws {UserError} If a tensor is missing or has a shape that does not fit the others, or another
 *   type.
 */
export function unpackLinear(
  checkpoint: Checkpoint,
  name: string,
  cols: number,
  blockSize: number,
): HostBits {
  const [rows] = checkpoint.get(`${name}.signs`).shape;
  const width = words(cols);
  const blocks = Math.ceil(cols / blockSize);
  const zones = checkpoint.has(`${name}.flags`) ? 2 : 1;
  const refuse = ({ file, name }: StoredTensor, found: string, wanted: string): never => {
    throw new UserError(
      `"${file}": "${name}" is ${found}, expected ${wanted}; the file does not fit its config.json`,
    );
  };
  const storedScales = checkpoint.get(`${name}.scales`);
  const isNibbles = storedScales.dtype === "U8";
  const perBlock = storedScales.shape[isNibbles ? 0 : 2];
  // Zones only, or a mean and one scale for each plane besides.
  const planes = perBlock === 2 * zones ? 0 : perBlock - 2 * zones - 1;
  if (!(perBlock === 2 * zones || planes >= 1 && planes <= MAX_PLANES)) {
    const [least, most] = [2 * zones + 2, 2 * zones + 1 + MAX_PLANES];
    refuse(
      storedScales,
      shapeText(storedScales.shape),
      (isNibbles ? `[N, ${rows}, ${Math.ceil(blocks / 2)}]` : `[${rows}, ${blocks}, N]`) +
        ` with N = ${2 * zones} or ${least} .. ${most}`,
    );
  }
  const layout: BitLayout = { rows, cols, blockSize, zones, planes };
  const read = (
    part: string,
    dtype: StoredDtype,
    shape: readonly number[],
  ): Uint8Array<ArrayBuffer> => {
    const tensor = checkpoint.get(`${name}.${part}`);
    if (tensor.dtype !== dtype || shapeText(tensor.shape) !== shapeText(shape)) {
      const found = `${tensor.dtype} ${shapeText(tensor.shape)}`;
      refuse(tensor, found, `${dtype} ${shapeText(shape)}`);
    }
    return checkpoint.readBytes(tensor.name);
  };
  const bits = new Uint32Array(bitPlanes(layout) * rows * width);
  const plane = (k: number) => bits.subarray(k * rows * width, (k + 1) * rows * width);
  plane(0).set(new Uint32Array(read("signs", "U32", [rows, width]).buffer));
  const flags = zones === 2 && checkpoint.get(`${name}.flags`).dtype === "U16"
    ? "entropy"
    : "plain";
  if (zones === 2 && flags === "plain") {
    plane(1).set(new Uint32Array(read("flags", "U32", [rows, width]).buffer));
  }
  const shape = [rows, blocks, perBlock];
  let scales: Float32Array<ArrayBuffer>;
  let codes: HostCodes | undefined;
  if (checkpoint.has(`${name}.scale_factors`)) {
    const values = isNibbles
      ? fromNibbles(layout, read("scales", "U8", nibbleShape(layout)))
      : new Int8Array(read("scales", "I8", shape).buffer);
    const factors = toFloat32(read("scale_factors", "F16", [rows, 2]), "F16");
    codes = { values, factors, ...(isNibbles && { bits: 4 }) };
    scales = decodeScales(layout, codes);
  } else {
    scales = toFloat32(read("scales", "F16", shape), "F16");
  }
  const salient = new Uint32Array(width);
  if (planes > 0) salient.set(new Uint32Array(read("salient_columns", "U32", [width]).buffer));
  const host: HostBits = { ...layout, bits, scales, salient, ...(codes && { codes }) };
  if (flags === "entropy") {
    const tensor = checkpoint.get(`${name}.flags`);
    const codes = new Uint16Array(read("flags", "U16", [tensor.bytes / 2]).buffer);
    if (!decodeFlags(codes, { rows, cols, plane: plane(1), salient: marksOf(host) })) {
      refuse(tensor, "no entropy code of flags", `one of ${rows} x ${cols}`);
    }
  }
  const compact = compactPlanes(layout, flags);
  const columns = salientColumns(host);
  if (compact > 0 && columns.length > 0) {
    // In version 1 each row begins with a word of its own.
    const isOfWords = checkpoint.get(`${name}.salient_signs`).shape.length === 3;
    const rowWords = words(columns.length);
    const rowBits = isOfWords ? WORD * rowWords : columns.length;
    const planeWords = words(rows * rowBits);
    const shape = isOfWords ? [compact, rows, rowWords] : [compact, planeWords];
    const packed = new Uint32Array(read("salient_signs", "U32", shape).buffer);
    for (let k = 0; k < compact; k++) {
      const source = packed.subarray(k * planeWords, (k + 1) * planeWords);
      const target = plane(firstCompactPlane(layout, flags) + k);
      for (let row = 0; row < rows; row++) {
        columns.forEach((col, i) => {
          const at = row * rowBits + i;
          target[row * width + (col >> 5)] |= ((source[at >> 5] >>> (at & 31)) & 1) << (col & 31);
        });
      }
    }
  }
  return host;
}

/** Of each number of a row and block, whether it is a mean (0) or a scale (1). */
function kindsOf(layout: BitLayout): number[] {
  return Array.from(
    { length: scalesPerBlock(layout) },
    (_, i) => i < 2 * layout.zones ? i % 2 : Number(i > 2 * layout.zones),
  );
}

/** 4-bit codes lie apart by what they are, two neighbouring blocks of a row to a byte. */
function nibbleShape(layout: BitLayout): [numbers: number, rows: number, bytes: number] {
  const blocks = Math.ceil(layout.cols / layout.blockSize);
  return [scalesPerBlock(layout), layout.rows, Math.ceil(blocks / 2)];
}

/** Tells where each 4-bit code lies among its bytes, and what is added to it there: 8 to means. */
function visitNibbles(
  layout: BitLayout,
  visit: (code: number, at: number, shift: number, plus: number) => void,
): void {
  const [perBlock, rows, rowBytes] = nibbleShape(layout);
  const blocks = Math.ceil(layout.cols / layout.blockSize);
  const plus = kindsOf(layout).map((kind) => kind === 0 ? 8 : 0);
  for (let row = 0, code = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      for (let i = 0; i < perBlock; i++, code++) {
        const at = (i * rows + row) * rowBytes + (block >> 1);
        visit(code, at, 4 * (block & 1), plus[i]);
      }
    }
  }
}

function toNibbles(layout: BitLayout, codes: Int8Array): Uint8Array {
  const bytes = new Uint8Array(nibbleShape(layout).reduce((product, size) => product * size));
  visitNibbles(layout, (i, at, shift, plus) => bytes[at] |= (codes[i] + plus) << shift);
  return bytes;
}

function fromNibbles(layout: BitLayout, bytes: Uint8Array): Int8Array<ArrayBuffer> {
  const blocks = Math.ceil(layout.cols / layout.blockSize);
  const codes = new Int8Array(layout.rows * blocks * scalesPerBlock(layout));
  visitNibbles(layout, (i, at, shift, plus) => codes[i] = ((bytes[at] >> shift) & 15) - plus);
  return codes;
}

/** What codes stand for, f32 `[rows, blocks, scalesPerBlock]`. */
function decodeScales(
  layout: BitLayout,
  { values, factors }: HostCodes,
): Float32Array<ArrayBuffer> {
  const perBlock = scalesPerBlock(layout);
  const perRow = values.length / layout.rows;
  const kinds = kindsOf(layout);
  const scales = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    scales[i] = values[i] * factors[2 * Math.floor(i / perRow) + kinds[i % perBlock]];
  }
  return scales;
}

/**
 * The weights that a packed linear layer stands for, or `rows` rows of them from `first` on, f32
 * `[rows, cols]`; the same bits as `dequantize()` and `dequantizeGrid()` give on the GPU.
 */
export function dequantizeOnHost(
  host: HostLinear,
  first = 0,
  rows = host.rows - first,
): Float32Array<ArrayBuffer> {
  if (isGrid(host)) return dequantizeGridOnHost(host, first, rows);
  const { cols, blockSize, zones, planes, bits, scales, salient } = host;
  const width = words(cols);
  const blocks = Math.ceil(cols / blockSize);
  const perBlock = scalesPerBlock(host);
  const planeStride = host.rows * width;
  const weight = new Float32Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let word = 0; word < width; word++) {
      const start = word * WORD;
      const at = ((first + row) * blocks + Math.floor(start / blockSize)) * perBlock;
      const index = (first + row) * width + word;
      const signs = bits[index];
      const flags = zones === 2 ? bits[planeStride + index] : 0;
      const marked = planes > 0 ? salient[word] : 0;
      for (let i = 0; i < WORD && start + i < cols; i++) {
        let value: number;
        if ((marked >>> i) & 1) {
          value = scales[at + 2 * zones];
          for (let plane = 0; plane < planes; plane++) {
            const scale = scales[at + 2 * zones + 1 + plane];
            const plus = (bits[plane * planeStride + index] >>> i) & 1;
            value = Math.fround(plus ? value + scale : value - scale);
          }
        } else {
          const zone = at + 2 * ((flags >>> i) & 1);
          const scale = scales[zone + 1];
          value = scales[zone] + ((signs >>> i) & 1 ? scale : -scale);
        }
        weight[row * cols + start + i] = value;
      }
    }
  }
  return weight;
}
