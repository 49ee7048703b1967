import { listed } from "../../base/figures.ts";
import { shapeText } from "../../gpu/tensor.ts";
import type { Checkpoint } from "../../storage/checkpoint.ts";
import { type TensorToWrite, toFloat32 } from "../../storage/safetensors.ts";
import { codeAt } from "../bit_codes.ts";
import type { PackedShape } from "../codec.ts";
import { partBytes, PartReader } from "../part_reader.ts";
import {
	fieldsOf,
	LEVEL_COUNTS,
	LEVEL_FIELDS,
	LEVEL_KINDS,
	type LevelKind,
	levelParts,
	type LevelsLayout,
	levelWords,
	parametersOf,
} from "./levels.ts";

/** A linear layer of levels in host memory; its arrays match those of {@link LinearLevels}. */
export interface LevelsHost extends LevelsLayout {
	/** `[rows, levelWords]`. */
	codes: Uint32Array<ArrayBuffer>;
	/** `[rows, parameters]`. */
	theta: Float32Array<ArrayBuffer>;
}

/** The tensors that store a linear layer of levels: NAME.level_codes and NAME.levels_COUNT. */
export function storeLevels(name: string, host: LevelsHost): TensorToWrite[] {
	const { rows, count, codes, theta } = host;
	return [
		{
			name: `${name}.level_codes`,
			dtype: "U32",
			shape: [rows, levelWords(host)],
			data: partBytes(codes),
		},
		{
			name: `${name}.levels_${count}`,
			dtype: "F16",
			shape: [rows, parametersOf(host)],
			data: partBytes(Float16Array.from(theta)),
		},
	];
}

/** The bytes that {@link storeLevels} takes. */
export function levelsBytes(layout: LevelsLayout): number {
	return 4 * layout.rows * levelWords(layout) + 2 * layout.rows * parametersOf(layout);
}

/**
 * Loads a linear layer of levels.
 *
 * @throws {UserError} If a tensor is missing, has an unexpected dtype, its shape does not match the
 *   others, or a field is none of codes.
 */
export function loadLevels(
	checkpoint: Checkpoint,
	name: string,
	{ cols }: PackedShape,
): LevelsHost {
	const reader = new PartReader(checkpoint, name);
	const [rows] = reader.get("level_codes").shape;
	const counts = LEVEL_COUNTS.filter((count) => reader.has(`levels_${count}`));
	if (counts.length !== 1) {
		const found = counts.map((count) => `"${name}.levels_${count}"`);
		reader.refuse(
			"level_codes",
			found.length > 0 ? `beside ${listed(found, "and")}` : "alone",
			`one "${name}.levels_N" beside it, with N = ${LEVEL_COUNTS.join(", ")}`,
		);
	}
	const [count] = counts;
	const part = `levels_${count}`;
	const { shape } = reader.get(part);
	const kinds = LEVEL_KINDS.filter((kind) => kind.count === count);
	const kind = kinds.find((kind) => shapeText(shape) === shapeText([rows, parametersOf(kind)]));
	if (!kind) {
		const widths = kinds.map(parametersOf).sort().join(" or ");
		return reader.refuse(part, shapeText(shape), `[${rows}, ${widths}]`);
	}
	const layout: LevelsLayout = { rows, cols, ...kind };
	const words = reader.read("level_codes", "U32", [rows, levelWords(layout)]);
	// Without -0, which the negative level would be otherwise.
	const theta = toFloat32(reader.read(part, "F16", shape), "F16").map((value) => value + 0);
	const host: LevelsHost = { ...layout, codes: new Uint32Array(words.buffer), theta };
	const bad = badField(host);
	if (bad) {
		const { columns } = LEVEL_FIELDS[count];
		reader.refuse("level_codes", bad, `fields below ${count ** columns}`);
	}
	return host;
}

/** A field whose digits are not those of codes, as text; undefined if there is none. */
function badField(host: LevelsHost): string | undefined {
	const { columns, bits } = LEVEL_FIELDS[host.count];
	const end = host.count ** columns;
	if (end === 2 ** bits) return undefined;
	const [fields, words] = [fieldsOf(host), levelWords(host)];
	for (let row = 0; row < host.rows; row++) {
		for (let field = 0; field < fields; field++) {
			const value = codeAt(host.codes, row * words, field * bits, bits);
			if (value >= end) return `a list with field ${value} in row ${row}`;
		}
	}
	return undefined;
}

/** The levels of a row with these parameters, f32. */
export function levelsWith(kind: LevelKind, theta: ArrayLike<number>): Float32Array {
	return Float32Array.from(
		levelParts(kind),
		({ parameter, factor }) => factor === 0 ? 0 : theta[parameter] * factor + 0, // not -0
	);
}

/**
 * The dequantized weights of a linear layer of levels, or `rows` rows of them from row `first`, f32
 * `[rows, cols]`; bit-identical to `dequantizeLevels()` on the GPU.
 */
export function dequantizeLevelsHost(
	host: LevelsHost,
	first = 0,
	rows = host.rows - first,
): Float32Array<ArrayBuffer> {
	const { cols, count, codes, theta } = host;
	const { columns, bits } = LEVEL_FIELDS[count];
	const [words, parameters] = [levelWords(host), parametersOf(host)];
	const weight = new Float32Array(rows * cols);
	for (let i = 0; i < rows; i++) {
		const row = first + i;
		const levels = levelsWith(host, theta.subarray(row * parameters, (row + 1) * parameters));
		for (let col = 0, at = 0; col < cols; at += bits) {
			let field = codeAt(codes, row * words, at, bits);
			for (const end = Math.min(col + columns, cols); col < end; col++) {
				weight[i * cols + col] = levels[field % count];
				field = Math.floor(field / count);
			}
		}
	}
	return weight;
}
