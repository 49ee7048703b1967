import type { ArbHost } from "~/codecs/arb/host.ts";
import { type ArbLayout, arbPlanes, arbScales } from "~/codecs/arb/layout.ts";
import { markedColumns } from "~/codecs/salient_planes.ts";
import { randomParts } from "../random_bits.ts";

export function randomArb(layout: ArbLayout): ArbHost {
	const { rows, cols, blockSize, columnScales, bitmap } = layout;
	const planes = arbPlanes(layout);
	const { words, mask, codes, halves } = randomParts(rows, cols, planes, arbScales(layout));
	for (let i = 0; bitmap && i < rows * words; i++) codes[i * planes + 2] &= mask[i % words];
	const scales = halves(rows * Math.ceil(cols / blockSize) * arbScales(layout));
	const columns = halves(columnScales ? 4 * cols : 0);
	const salient = new Set(bitmap ? markedColumns(mask, cols) : []);
	for (let col = 0; columnScales && col < cols; col++) {
		if (!salient.has(col)) columns.fill(0, 4 * col + 2, 4 * col + 4);
	}
	return { ...layout, codes, scales, columns, mask };
}
