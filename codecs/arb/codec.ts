import type { Codec } from "../codec.ts";
import { infiniteHalves } from "../part_reader.ts";
import { SALIENT_COLUMNS, salientPerBlock, ZONED_COLUMNS } from "../salient_facts.ts";
import { type ArbHost, arbKinds, dequantizeArb, highFraction, salientOf } from "./host.ts";
import { arbMatrix, uploadArb, uploadArbGroup } from "./products.ts";
import { loadArb, storeArb } from "./store.ts";

/**
 * The codec arb: a sign and a zone per weight, a second sign for salient columns, which may have zones,
 * too; scales by row and block times scales by column, or means and scales by row and block.
 *
 * @see ARB-LLM, https://arxiv.org/abs/2410.03129
 */
export const arb: Codec<ArbHost> = {
	name: "arb",
	main: "arb_signs",
	since: 6,
	parts: {
		arb_signs: "signs",
		arb_flags: "flags",
		arb_salient_signs: "salient-signs",
		arb_salient_columns: "salient-columns",
		arb_scales: "scales",
		arb_column_scales: "column-scales",
		arb_salient_column_scales: "column-scales",
	},
	usualParts: ["signs", "flags", "salient-signs", "salient-columns", "scales"],
	sizeColumns: {
		signs: ["signs"],
		flags: ["flags"],
		salient: ["salient-signs", "salient-columns"],
		scales: ["scales", "column-scales"],
	},
	factColumns: ZONED_COLUMNS,
	factMaps: [SALIENT_COLUMNS],
	load: loadArb,
	store: storeArb,
	dequantize: dequantizeArb,

	facts(host) {
		const salient = salientOf(host);
		return {
			salientColumns: salientPerBlock(salient, host),
			highFraction: highFraction(host),
			paperBits: 1 + salient.length / host.cols,
		};
	},

	nonFinite({ scales, columns }) {
		return { arb_scales: infiniteHalves(scales), arb_column_scales: infiniteHalves(columns) };
	},

	kinds: arbKinds,
	matrix: arbMatrix,
	upload: uploadArb,
	groups: () => true,
	uploadGroup: uploadArbGroup,
};
