import { stepGroups } from "../codecs/equal_steps.ts";
import type { Export } from "./export.ts";
import { type FolderFormat, lazyTensor, writeFolder } from "./folder.ts";
import { packRows, rowWords } from "./whole_codes.ts";

interface Form {
	/** Bits of a code in the file. */
	bits: number;
	/** Columns that share a scale in the file. */
	groupSize: number;
	rows: number;
	cols: number;
}

const BITS = [2, 3, 4, 5, 6, 8];
const GROUPS = [128, 64, 32];

/**
 * The affine quantization of MLX, weight = scale · code + bias with bias = -scale · zero. Scales and biases
 * are f32, which holds them exactly; f16 would not hold all biases.
 *
 * @see https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
 */
const format: FolderFormat<Form> = {
	name: "mlx",

	formOf({ rows, cols, bits, groupSize, groupOf }) {
		if (groupOf) {
			return {
				problem: "its scale groups are not neighbouring columns",
				remedy: "order: static, or group-size: row",
			};
		}
		const width = Math.max(bits, 2); // signs take 2 bits
		if (!BITS.includes(width)) {
			return { problem: `it has ${bits}-bit codes`, remedy: "1 to 6 or 8 bits" };
		}
		const isRow = groupSize >= cols;
		const size = GROUPS.find((size) => cols % size === 0 && (isRow || groupSize % size === 0));
		if (size === undefined) {
			return {
				problem: `its ${cols} columns are no multiple of 32`,
				remedy: "skip for such linear layers",
			};
		}
		return { bits: width, groupSize: size, rows, cols };
	},

	label: ({ bits, groupSize }) => `${bits}-bit codes in groups of ${groupSize}`,

	tensors(name, { bits, groupSize, rows, cols }, open) {
		const groups = cols / groupSize;
		const numbers = (part: string, value: (scale: number, zero: number) => number) =>
			lazyTensor({ name: `${name}.${part}`, dtype: "F32", shape: [rows, groups] }, () => {
				const steps = open();
				const own = stepGroups(steps);
				return Float32Array.from({ length: rows * groups }, (_, i) => {
					const first = (i % groups) * groupSize;
					const at = Math.floor(i / groups) * own + Math.floor(first / steps.groupSize);
					return value(steps.scales[at], steps.zeros[at]);
				});
			});
		return [
			lazyTensor(
				{ name: `${name}.weight`, dtype: "U32", shape: [rows, rowWords({ cols, bits })] },
				() => packRows({ ...open(), bits }),
			),
			numbers("scales", (scale) => scale),
			numbers("biases", (scale, zero) => -scale * zero),
		];
	},

	config(forms) {
		const kinds = [...Map.groupBy([...forms], ([, form]) => format.label(form)).values()]
			.sort((a, b) => b.length - a.length);
		const formOf = ([, { bits, groupSize }]: [string, Form]) => ({ group_size: groupSize, bits });
		const [[usual]] = kinds;
		const quantization = {
			...formOf(usual),
			mode: "affine",
			...Object.fromEntries(kinds.slice(1).flat().map((entry) => [entry[0], formOf(entry)])),
		};
		return { quantization, quantization_config: quantization };
	},
};

/** A folder for mlx-lm and programs with MLX. */
export const mlx: Export = {
	name: "mlx",
	summary: "A folder for mlx-lm and LM Studio on Apple's computers",
	form: { kind: "folder" },
	write: (source, path, options) => writeFolder(source, path, format, options),
};
