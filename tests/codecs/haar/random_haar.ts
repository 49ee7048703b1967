import type { HaarHost } from "~/codecs/haar/host.ts";
import { type HaarLayout, haarPlanes, haarScales } from "~/codecs/haar/layout.ts";
import { randomParts } from "../random_bits.ts";

export function randomHaar(layout: HaarLayout): HaarHost {
	const { rows, cols, blockSize } = layout;
	const planes = haarPlanes(layout);
	const { words, mask, codes, halves } = randomParts(rows, cols, planes, planes);
	for (let i = 0; planes === 4 && i < rows * words; i++) {
		for (const plane of [2, 3]) codes[i * planes + plane] &= mask[i % words];
	}
	const scales = halves(rows * Math.ceil(cols / blockSize) * haarScales(layout));
	return { ...layout, codes, scales, mask };
}
