import { stepGroups } from "../codecs/equal_steps.ts";
import type { Export } from "./export.ts";
import { type FolderFormat, lazyTensor, writeFolder } from "./folder.ts";
import { packRows, packZeros, rowWords, type WholeCodes, wholeCodesOf } from "./whole_codes.ts";

/** The form of linear layers that one entry of `config_groups` tells of. */
interface Form {
	bits: number;
	/** Columns that share a scale; undefined if a row does. */
	groupSize: number | undefined;
	isSymmetric: boolean;
	rows: number;
	cols: number;
}

/**
 * The format "pack-quantized" of compressed-tensors: codes as bit strings along the columns, scales in f16,
 * zeros as bit strings along the rows.
 *
 * @see https://github.com/vllm-project/compressed-tensors
 */
const format: FolderFormat<Form> = {
	name: "compressed-tensors",
	dtype: "float16",

	formOf(steps, isLinear) {
		if (!isLinear) {
			return { problem: "embedding and head have no codes there", remedy: "embeddings: stored" };
		}
		if (steps.groupOf) {
			return {
				problem: "its scale groups are not neighbouring columns",
				remedy: "order: static, or group-size: row",
			};
		}
		const { cols, groupSize } = steps;
		if (groupSize < cols && cols % groupSize) {
			return {
				problem: `its ${cols} columns are no multiple of its scale groups, ${groupSize}`,
				remedy: "a group-size that divides the columns, or row",
			};
		}
		const whole = wholeCodesOf(steps);
		if ("problem" in whole) return whole;
		const { bits, isSymmetric, rows } = whole;
		return { bits, groupSize: groupSize < cols ? groupSize : undefined, isSymmetric, rows, cols };
	},

	label: ({ bits, groupSize, isSymmetric }) =>
		`${bits}-bit codes${groupSize ? ` in groups of ${groupSize}` : ""}` +
		(isSymmetric ? "" : " with zeros"),

	tensors(name, form, open) {
		const { bits, rows, cols, isSymmetric, groupSize = cols } = form;
		const groups = stepGroups({ cols, groupSize });
		const codes = () => wholeCodesOf(open()) as WholeCodes;
		return [
			lazyTensor(
				{ name: `${name}.weight_packed`, dtype: "I32", shape: [rows, rowWords({ cols, bits })] },
				() => packRows(codes()),
			),
			lazyTensor(
				{ name: `${name}.weight_scale`, dtype: "F16", shape: [rows, groups] },
				() => Float16Array.from(codes().scales),
			),
			lazyTensor(
				{ name: `${name}.weight_shape`, dtype: "I64", shape: [2] },
				() => BigInt64Array.of(BigInt(rows), BigInt(cols)),
			),
			...(isSymmetric ? [] : [lazyTensor(
				{
					name: `${name}.weight_zero_point`,
					dtype: "I32",
					shape: [Math.ceil(rows * bits / 32), groups],
				},
				() => zerosByWord(codes()),
			)]),
		];
	},

	config(forms, dense) {
		const kinds = Map.groupBy([...forms], ([, form]) => format.label(form));
		const groups = [...kinds.values()].map((same, i) => {
			const [[, { bits, groupSize, isSymmetric }]] = same;
			return [`group_${i}`, {
				targets: kinds.size === 1 ? ["Linear"] : same.map(([name]) => name),
				weights: {
					num_bits: bits,
					type: "int",
					symmetric: isSymmetric,
					strategy: groupSize ? "group" : "channel",
					group_size: groupSize ?? null,
					dynamic: false,
					actorder: null,
					block_structure: null,
					observer: "minmax",
					observer_kwargs: {},
				},
				input_activations: null,
				output_activations: null,
			}];
		});
		return {
			quantization_config: {
				quant_method: "compressed-tensors",
				format: "pack-quantized",
				quantization_status: "compressed",
				config_groups: Object.fromEntries(groups),
				ignore: dense,
				kv_cache_scheme: null,
				global_compression_ratio: null,
			},
		};
	},
};

/** Zeros whose words lie along the rows, u32 `[⌈rows · bits / 32⌉, groups]`. */
function zerosByWord(codes: WholeCodes): Uint32Array {
	const groups = stepGroups(codes);
	const byGroup = packZeros(codes);
	const words = byGroup.length / groups;
	return byGroup.map((_, i) => byGroup[(i % groups) * words + Math.floor(i / groups)]);
}

/** A folder for vLLM and transformers. */
export const compressedTensors: Export = {
	name: "compressed-tensors",
	summary: "A folder for vLLM and transformers, in the format pack-quantized",
	form: { kind: "folder" },
	write: (source, path, options) => writeFolder(source, path, format, options),
};
