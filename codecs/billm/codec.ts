import { bitWords } from "../../base/bits.ts";
import type { Codec, LinearFacts, WeightKind } from "../codec.ts";
import { SALIENT_COLUMNS, salientPerBlock, ZONED_COLUMNS } from "../salient_facts.ts";
import { dequantize } from "./dequantize.ts";
import {
	type BillmHost,
	dequantizeBillm,
	highFraction,
	paperBits,
	salientColumns,
} from "./host.ts";
import { canGroup, uploadGroup } from "./group.ts";
import { multipliesVectors } from "./vector_product.ts";
import { billmKind, BillmStack } from "./stack.ts";
import { uploadBillm } from "./tensors.ts";
import { infiniteHalves } from "../part_reader.ts";
import { loadBillm, storeBillm } from "./store.ts";
import { BillmGroup, BillmWeight } from "./weight.ts";

/**
 * The BiLLM codec: a sign and a zone per weight, further signs for salient columns, means and scales
 * per row and block.
 *
 * @see BiLLM, https://arxiv.org/abs/2402.04291
 */
export const billm: Codec<BillmHost> = {
	name: "billm",
	main: "signs",
	since: 2,
	parts: {
		signs: "signs",
		flags: "flags",
		salient_signs: "salient-signs",
		salient_columns: "salient-columns",
		scales: "scales",
		scale_factors: "scales",
	},
	usualParts: ["signs", "flags", "salient-signs", "salient-columns", "scales"],
	sizeColumns: {
		signs: ["signs"],
		flags: ["flags"],
		salient: ["salient-signs", "salient-columns"],
		scales: ["scales"],
	},
	factColumns: ZONED_COLUMNS,
	factMaps: [SALIENT_COLUMNS],
	load: loadBillm,
	store: storeBillm,
	dequantize: dequantizeBillm,

	facts(host): LinearFacts {
		const salient = salientColumns(host);
		return {
			salientColumns: salientPerBlock(salient, host),
			highFraction: highFraction(host),
			paperBits: paperBits(host, salient.length),
		};
	},

	nonFinite({ scales, codes }): Record<string, number> {
		if (!codes) return { scales: infiniteHalves(scales) };
		return { scale_factors: infiniteHalves(codes.factors) };
	},

	kinds({ rows, cols, zones, planes, bits, salient }, row) {
		const width = bitWords(cols);
		return Array.from({ length: cols }, (_, col): WeightKind => {
			const isSet = (word: number) => ((word >>> (col & 31)) & 1) === 1;
			if (planes > 0 && isSet(salient[col >> 5])) return "salient";
			if (zones < 2) return "all";
			return isSet(bits[(rows + row) * width + (col >> 5)]) ? "high" : "low";
		});
	},

	async matrix(gpu, host) {
		using bits = gpu.upload(host.bits, [host.bits.length]);
		using scales = gpu.upload(host.scales, [host.scales.length]);
		using salient = gpu.upload(host.salient, [host.salient.length]);
		return await dequantize(gpu, host, bits, scales, salient);
	},

	async upload(gpu, host) {
		return new BillmWeight(gpu, await uploadBillm(gpu, host));
	},

	groups: multipliesVectors,

	expertKind(gpu, host) {
		return multipliesVectors(gpu, host.blockSize) ? billmKind(host) : undefined;
	},

	uploadExperts: (gpu, hosts) => BillmStack.upload(gpu, hosts),

	async uploadGroup(gpu, hosts) {
		if (!canGroup(hosts)) return undefined;
		return new BillmGroup(gpu, await uploadGroup(gpu, hosts));
	},
};
