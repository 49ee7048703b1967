// The search over rows on single linear layers against an independent implementation of its steps, whose
// levels are free and in 8 bits: the relative output errors must be no larger. The expected numbers lie
// outside the project; the test says so where they are missing.

import assert from "node:assert/strict";
import type { BillmDraft } from "~/codecs/billm/draft.ts";
import { dequantizeBillm } from "~/codecs/billm/host.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { StageClock } from "~/pipeline/run/run.ts";
import { compensate } from "~/stages/compensate.ts";
import { residualBinarize } from "~/stages/residual_binarize.ts";
import { rowSearch } from "~/stages/row_search.ts";
import { salientSelect } from "~/stages/salient_select.ts";
import { splitSearch } from "~/stages/split_search.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { planned } from "../stages/linear_on_gpu.ts";
import {
	areLayersThere,
	errorOf,
	expectedOf,
	LAYERS,
	suffix,
	uploadLayer,
} from "./single_layers.ts";

const BLOCKS = [
	planned(salientSelect, { columns: 8 }),
	planned(residualBinarize),
	planned(splitSearch),
	planned(compensate),
];

/**
 * The expected entry and its tolerance by the options of the search. There is none at first, where theirs
 * refits its levels to the codes of all blocks.
 */
const EFFORTS = [
	{ name: "billm+-gptq", tolerance: 0.08 },
	{ name: "billm+-cd", tolerance: 0.02, options: { rounds: 3, sweeps: 2, moves: 0 } },
	{ name: "billm+", tolerance: 0.03, options: { rounds: 3, sweeps: 2, moves: 1 } },
];

for (const layer of LAYERS) {
	Deno.test({
		name: `row-search on ${layer} leaves the expected output error${suffix}`,
		ignore: !areLayersThere,
		async fn() {
			await using gpu = await openGpu();
			const expected = expectedOf(layer);
			const uploaded = await uploadLayer(gpu, layer, 128);
			const { linear, context } = uploaded;
			const { quantized } = linear;
			using store = uploaded.store;
			const clock = new StageClock(gpu);
			const error = () => errorOf(linear, store.get("hessian"));
			await quantizeLinear(context, store, linear, BLOCKS, clock);
			const draft = linear.draft as BillmDraft;
			const blocks = [draft.bits.bits, draft.bits.scales, quantized];
			const before = blocks.map((tensor) => gpu.clone(tensor));
			for (const { name, tolerance, options } of EFFORTS) {
				before.forEach((tensor, i) => gpu.copy(tensor, blocks[i]));
				const search = options ? [planned(rowSearch, options)] : [];
				await quantizeLinear(context, store, linear, search, clock);
				const found = await error();
				const { proxy } = expected[name];
				assert.ok(found < (1 + tolerance) * proxy, `${name}: ${found}, expected ${proxy}`);
			}
			const searched = await error();
			const after = blocks.map((tensor) => gpu.clone(tensor));
			for (const [scales, most] of [["f16", 1], ["i8", 1.005], ["i4", 1.25]] as const) {
				after.forEach((tensor, i) => gpu.copy(tensor, blocks[i]));
				const host = await draft.download({ scales, flags: "plain" }, quantized);
				assert.deepEqual(dequantizeBillm(host), await gpu.read(quantized), scales);
				const found = await error();
				assert.ok(found <= most * searched, `${scales}: ${found}, ${searched} in f16`);
			}
		},
	});
}
