import { UserError } from "../../base/errors.ts";
import { stepGroups } from "../../codecs/equal_steps.ts";
import { hasEqualSteps } from "../../codecs/equal_steps.ts";
import { fromFloat32 } from "../../storage/safetensors.ts";
import type { ExportOptions, Misfit } from "../export.ts";
import { IntegerLevels } from "../integer_levels.ts";
import type { Matrix } from "../source.ts";
import type { Piece } from "./tensors.ts";
import { BLOCK_TYPES, type BlockType, FLOAT_TYPES, ON_REQUEST } from "./types.ts";

/** How a matrix is stored. */
export type Storage =
	| { kind: "blocks"; type: BlockType }
	| { kind: "float"; type: typeof FLOAT_TYPES[keyof typeof FLOAT_TYPES] };

/** Why a matrix has no block type. */
type Unfit = Pick<Misfit, "problem" | "remedy">;

/**
 * How a matrix of pieces is stored: plain ones in their dtype, codes in the smallest type that holds them.
 *
 * @param types The types that linear layers may have; all but those on request if absent.
 * @returns The storage; with a misfit it is an approximation.
 */
export function storageOf(
	pieces: readonly Piece[],
	types: ExportOptions["types"],
): { storage: Storage; misfit?: Misfit } {
	const matrices = pieces.map(({ matrix }) => matrix);
	const dtypes = new Set(matrices.map(({ dtype }) => dtype));
	const [{ name: tensor }] = matrices;
	if (!dtypes.has(undefined)) {
		const [dtype] = dtypes;
		if (dtypes.size === 1 && dtype !== "F64") return { storage: float(dtype!) };
		if (!dtypes.has("F64")) return { storage: float("F32") };
		const problem = "it is stored as F64";
		return {
			storage: float("F32"),
			misfit: { tensor, problem, remedy: "F32, F16 or BF16", instead: "F32" },
		};
	}
	const own = dtypes.size > 1
		? { problem: "only a part of it is quantized", remedy: "no skip of a part" }
		: blockTypeOf(matrices, types);
	if ("size" in own) return { storage: { kind: "blocks", type: own } };
	return {
		storage: float("F16"),
		misfit: { tensor, ...own, instead: "F16, dequantized" },
	};
}

function float(dtype: keyof typeof FLOAT_TYPES): Storage {
	return { kind: "float", type: FLOAT_TYPES[dtype] };
}

/** The smallest type that holds the codes of some matrices, or why there is none. */
function blockTypeOf(
	matrices: readonly Matrix[],
	types: ExportOptions["types"],
): BlockType | Unfit {
	const [{ isLinear }] = matrices;
	let left = BLOCK_TYPES.filter(({ name }) =>
		isLinear && types ? types.includes(name) : !ON_REQUEST.has(name)
	);
	for (const matrix of matrices) {
		const { steps } = matrix.open();
		if (!steps || !hasEqualSteps(steps)) return steps ?? { problem: "it is plain", remedy: "" };
		if (steps.groupOf) {
			return {
				problem: "its scale groups are not neighbouring columns",
				remedy: "order: static, or group-size: row",
			};
		}
		const levels = IntegerLevels.of(steps);
		if (!levels) {
			return isLinear
				? {
					problem: "its zeros are any numbers",
					remedy: "zeros: middle with 2, 3 or 4 bits, or any with 2 and 3 bits",
				}
				: { problem: "its zeros are any numbers", remedy: "embeddings: 8, or 4 without zeros" };
		}
		if (!levels.hasHalfUnits) {
			return { problem: "f16 cannot hold its scales", remedy: "weights of a usual size" };
		}
		const before = left;
		left = left.filter((type) => problemOf(type, levels) === undefined);
		if (left.length === 0) return unfit(before, levels);
	}
	return left[0];
}

/** Why a type does not hold some levels. */
function problemOf(type: BlockType, { steps, ranges }: IntegerLevels): string | undefined {
	const { name, size } = type;
	const { cols, groupSize } = steps;
	const range = ranges.find((range) => !type.holds(range));
	if (range) {
		const { low, high, gap } = range;
		const have = gap === 2 ? `odd multiples from ${low} to ${high}` : `multiples ${low} to ${high}`;
		return `${name} holds ${type.levels} times a scale, not the ${have}`;
	}
	if (cols % size) return `${name} takes rows of a multiple of ${size} columns, not ${cols}`;
	if (groupSize !== cols && groupSize % size) {
		return `${name} takes a scale for ${size} columns, not for ${groupSize}`;
	}
}

function unfit(types: readonly BlockType[], levels: IntegerLevels): Unfit {
	const problems = types.map((type) => problemOf(type, levels)!);
	return {
		problem: problems.join(", "),
		remedy: "another type, or zeros: middle and a group-size that is a multiple of 64",
	};
}

/** The bytes of a matrix. */
export function bytesOf({ kind, type }: Storage, rows: number, cols: number): number {
	return kind === "float" ? rows * cols * type.bytes : rows * cols / type.size * type.bytes;
}

/** Bytes that are written at a time, at least a row. */
const CHUNK = 1 << 20;

/** The bytes of a matrix in chunks of whole rows; a chunk is valid until the next one is requested. */
export function* dataOf(storage: Storage, pieces: readonly Piece[]): Generator<Uint8Array> {
	for (const piece of pieces) {
		yield* storage.kind === "float"
			? floatRows(storage.type.name, piece)
			: blockRows(storage.type, piece);
	}
}

function* floatRows(
	dtype: keyof typeof FLOAT_TYPES,
	{ matrix, rowAt }: Piece,
): Generator<Uint8Array> {
	const { name, rows, cols } = matrix;
	const { values } = matrix.open();
	const together = Math.max(1, Math.floor(CHUNK / (4 * cols)));
	for (let row = 0; row < rows; row += together) {
		const count = Math.min(together, rows - row);
		let chunk: Float32Array;
		if (!rowAt) chunk = values(row, count);
		else {
			chunk = new Float32Array(count * cols);
			for (let i = 0; i < count; i++) chunk.set(values(rowAt(row + i), 1), i * cols);
		}
		if (dtype === "F16") refuseLarge(name, chunk);
		yield fromFloat32(chunk, dtype);
	}
}

/** @throws {UserError} If a value exceeds the range of f16. */
function refuseLarge(name: string, values: Float32Array): void {
	const large = values.find((value) => Math.abs(value) >= 65520);
	if (large === undefined) return;
	throw new UserError(`Cannot export "${name}" as F16: it holds ${large}, beyond the range of f16`);
}

function* blockRows(type: BlockType, { matrix, rowAt }: Piece): Generator<Uint8Array> {
	const { steps } = matrix.open();
	if (!steps || !hasEqualSteps(steps)) throw new Error(`"${matrix.name}" has no equal steps`);
	const levels = IntegerLevels.of(steps)!;
	const { rows, cols, groupSize } = steps;
	const groups = stepGroups(steps);
	const rowBytes = cols / type.size * type.bytes;
	const together = Math.max(1, Math.min(rows, Math.floor(CHUNK / rowBytes)));
	const row = new Int16Array(cols);
	for (let first = 0; first < rows; first += together) {
		const count = Math.min(together, rows - first);
		const bytes = new Uint8Array(count * rowBytes);
		const out = new DataView(bytes.buffer);
		for (let i = 0; i < count; i++) {
			const from = rowAt ? rowAt(first + i) : first + i;
			levels.readRow(from, row);
			for (let col = 0, to = i * rowBytes; col < cols; col += type.size, to += type.bytes) {
				const group = Math.floor(col / groupSize);
				const unit = levels.units[from * groups + group];
				const block = row.subarray(col, col + type.size);
				type.encode(block, unit, levels.rangeOf(from, group), out, to);
			}
		}
		yield bytes;
	}
}
