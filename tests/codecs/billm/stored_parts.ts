import { type BillmLayout, bitPlanes, scalesPerBlock } from "~/codecs/billm/quantize_block.ts";

export interface StoredParts {
	signs: number;
	flags: number;
	"salient-signs": number;
	"salient-columns": number;
	scales: number;
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
	layout: BillmLayout,
	salient: number,
	scaleBits: 16 | 8 | 4 = 16,
): StoredParts {
	const { rows, cols, blockSize, zones, planes } = layout;
	const blocks = Math.ceil(cols / blockSize);
	const perRow = Math.ceil(blocks * scaleBits / 8) * scalesPerBlock(layout);
	return {
		signs: 4 * rows * Math.ceil(1 / 32 * cols),
		flags: zones === 2 ? 4 * rows * Math.ceil(1 / 32 * cols) : 0,
		"salient-signs": 4 * Math.max(0, bitPlanes(layout) - zones) *
			Math.ceil(1 / 32 * rows * salient),
		"salient-columns": planes > 0 ? 4 * Math.ceil(1 / 32 * cols) : 0,
		scales: rows * (perRow + (scaleBits < 16 ? 4 : 0)),
	};
}
