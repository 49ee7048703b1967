import type { Codec, WeightKind } from "../codec.ts";
import { infiniteHalves } from "../part_reader.ts";
import { SALIENT_COLUMNS, salientPerBlock, ZONED_COLUMNS } from "../salient_facts.ts";
import { dequantizeHaar, type HaarHost, highFraction, salientOf } from "./host.ts";
import { haarMatrix, uploadHaar, uploadHaarGroup } from "./products.ts";
import { loadHaar, storeHaar } from "./store.ts";

/**
 * The codec haar: a sign and a group of each coefficient of a Haar transform, of rows or of columns, with
 * means and scales by row and block.
 *
 * @see HBLLM, https://arxiv.org/abs/2512.00862
 */
export const haar: Codec<HaarHost> = {
	name: "haar",
	main: "haar_signs",
	since: 6,
	parts: {
		haar_signs: "signs",
		haar_flags: "flags",
		haar_salient_signs: "salient-signs",
		haar_salient_flags: "salient-flags",
		haar_salient_columns: "salient-columns",
		haar_scales: "scales",
	},
	usualParts: ["signs", "flags", "salient-columns", "scales"],
	sizeColumns: {
		signs: ["signs"],
		flags: ["flags"],
		salient: ["salient-signs", "salient-flags", "salient-columns"],
		scales: ["scales"],
	},
	factColumns: ZONED_COLUMNS,
	factMaps: [SALIENT_COLUMNS],
	load: loadHaar,
	store: storeHaar,
	dequantize: dequantizeHaar,

	facts(host) {
		const salient = salientOf(host);
		return {
			salientColumns: salientPerBlock(salient, host),
			highFraction: highFraction(host),
			paperBits: host.axis === "row" ? 1 + salient.length / host.cols : 1,
		};
	},

	nonFinite({ scales }) {
		return { haar_scales: infiniteHalves(scales) };
	},

	kinds({ cols, mask }) {
		return Array.from(
			{ length: cols },
			(_, col): WeightKind => (mask[col >> 5] >>> (col & 31)) & 1 ? "salient" : "all",
		);
	},

	matrix: haarMatrix,
	upload: uploadHaar,
	groups: () => true,
	uploadGroup: uploadHaarGroup,
};
