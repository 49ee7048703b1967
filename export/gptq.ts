import { VERSION } from "../base/version.ts";
import { stepGroups } from "../codecs/equal_steps.ts";
import type { Export } from "./export.ts";
import { type FolderFormat, lazyTensor, writeFolder } from "./folder.ts";
import {
	packRows,
	packZeros,
	rowWords,
	transposed,
	type WholeCodes,
	wholeCodesOf,
} from "./whole_codes.ts";

interface Form {
	bits: number;
	/** Columns that share a scale; -1 if a row does. */
	groupSize: number;
	isSymmetric: boolean;
	/** Whether scale groups are not neighbouring columns. */
	isOrdered: boolean;
	rows: number;
	cols: number;
}

const BITS = [2, 3, 4, 8];
const GROUPS = [32, 64, 128];

/**
 * The checkpoint format "gptq_v2" of GPTQModel: codes as bit strings along the columns, transposed; zeros as
 * bit strings along the rows, as they are; the scale group of each column.
 *
 * @see https://github.com/ModelCloud/GPTQModel
 */
const format: FolderFormat<Form> = {
	name: "gptq",
	dtype: "float16",

	formOf(steps, isLinear) {
		if (!isLinear) {
			return { problem: "embedding and head have no codes there", remedy: "embeddings: stored" };
		}
		const whole = wholeCodesOf(steps);
		if ("problem" in whole) return whole;
		const { bits, rows, cols, groupSize, groupOf, isSymmetric } = whole;
		if (!BITS.includes(bits)) {
			return { problem: `it has ${bits}-bit codes`, remedy: "2, 3, 4 or 8" };
		}
		const isRow = groupSize === cols;
		if (!isRow && !GROUPS.includes(groupSize)) {
			const remedy = "group-size: 32, 64, 128 or row";
			return { problem: `its scale groups have ${groupSize} columns`, remedy };
		}
		if (rows % 32 || cols % 32 || !isRow && cols % groupSize) {
			return {
				problem: `its ${rows} x ${cols} weights are no multiple of 32 and of a scale group`,
				remedy: "a group-size that divides the columns; skip for such linear layers",
			};
		}
		const isOrdered = groupOf !== undefined;
		return { bits, groupSize: isRow ? -1 : groupSize, isSymmetric, isOrdered, rows, cols };
	},

	label: ({ bits, groupSize }) =>
		`${bits}-bit codes${groupSize > 0 ? ` in groups of ${groupSize}` : ""}`,

	tensors(name, { bits, groupSize, rows, cols }, open) {
		const codes = () => wholeCodesOf(open()) as WholeCodes;
		const size = groupSize > 0 ? groupSize : cols;
		const groups = stepGroups({ cols, groupSize: size });
		return [
			lazyTensor(
				{ name: `${name}.qweight`, dtype: "I32", shape: [rowWords({ cols, bits }), rows] },
				() => transposed(packRows(codes()), rows),
			),
			lazyTensor(
				{ name: `${name}.qzeros`, dtype: "I32", shape: [groups, rows * bits / 32] },
				() => packZeros(codes()),
			),
			lazyTensor(
				{ name: `${name}.scales`, dtype: "F16", shape: [groups, rows] },
				() => Float16Array.from(transposed(codes().scales, rows)),
			),
			lazyTensor({ name: `${name}.g_idx`, dtype: "I32", shape: [cols] }, () => {
				const { groupOf } = codes();
				return Int32Array.from({ length: cols }, (_, i) => groupOf?.[i] ?? Math.floor(i / size));
			}),
		];
	},

	config(forms, [, ...dense]) { // the head is plain anyway
		const kinds = [...Map.groupBy([...forms], ([, form]) => format.label(form)).values()]
			.sort((a, b) => b.length - a.length);
		const [[[, usual]]] = kinds;
		const all = [...forms.values()];
		const dynamic = Object.fromEntries([
			...dense.map((name) => [`-:^${escaped(name)}$`, {}]),
			...kinds.slice(1).flat().map((
				[name, { bits, groupSize }],
			) => [`+:^${escaped(name)}$`, { bits, group_size: groupSize }]),
		]);
		return {
			quantization_config: {
				quant_method: "gptq",
				checkpoint_format: "gptq_v2",
				bits: usual.bits,
				group_size: usual.groupSize,
				desc_act: all.some(({ isOrdered }) => isOrdered),
				sym: all.every(({ isSymmetric }) => isSymmetric),
				lm_head: false,
				pack_dtype: "int32",
				...(Object.keys(dynamic).length > 0 && { dynamic }),
				meta: { quantizer: [`billm:${VERSION}`] },
			},
		};
	},
};

/** A text as a regular expression that matches it. */
function escaped(text: string): string {
	return text.replaceAll(/[.\\+*?^$()[\]{}|]/g, "\\$&");
}

/** A folder for GPTQModel, transformers and vLLM. */
export const gptq: Export = {
	name: "gptq",
	summary: "A folder for GPTQModel, transformers and vLLM, in the format gptq_v2",
	form: { kind: "folder" },
	write: (source, path, options) => writeFolder(source, path, format, options),
};
