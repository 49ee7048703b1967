// ARB-LLM and HBLLM as stages: what they store, and what each option brings.

import assert from "node:assert/strict";
import { arbBytes } from "~/codecs/arb/store.ts";
import { ArbDraft } from "~/codecs/arb/draft.ts";
import type { HaarDraft } from "~/codecs/haar/draft.ts";
import { haarBytes } from "~/codecs/haar/store.ts";
import { dequantizedLinear, storeLinear } from "~/codecs/mod.ts";
import type { PackedLinear } from "~/codecs/codec.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { LinearLayer, Stage } from "~/pipeline/stage.ts";
import { arb } from "~/stages/arb.ts";
import { hbllm } from "~/stages/hbllm.ts";
import { rowSearch } from "~/stages/row_search.ts";
import { salientSelect } from "~/stages/salient_select.ts";
import { splitSearch } from "~/stages/split_search.ts";
import { gpu } from "../gpu/gpu.ts";
import { matmul, transposed } from "../reference/linear_algebra.ts";
import { normals } from "../reference/random.ts";
import { lossOf } from "../reference/row_search.ts";
import { freeLinear, layerOnGpu, planned } from "./linear_on_gpu.ts";

const [ROWS, COLS, SIZE] = [22, 64, 32];
const FORM = { scales: "f16", flags: "plain" } as const;

type Options = Record<string, unknown>;

function inMode(stage: Stage, options: Options, mode: "reference" | "default"): Planned<Stage> {
	return planned(stage, { ...(mode === "reference" && stage.presets?.reference), ...options });
}

/** Quantizes random weights; returns the loss, what is stored, and the values that later layers see. */
async function quantize(
	stage: Stage,
	{ split = {}, ...options }: Options & { split?: Options },
	mode: "reference" | "default",
	search: Options | undefined = undefined,
) {
	const tokens = 2 * COLS;
	const mix = normals(COLS * COLS, 8, 0.3);
	const x = Float32Array.from(matmul(normals(tokens * COLS, 1), mix, tokens, COLS, COLS));
	const xx = Float32Array.from(matmul(transposed(x, tokens, COLS), x, COLS, COLS, tokens));
	const weight = normals(ROWS * COLS, 2).map((w, i) => i % COLS % 11 === 3 ? 3 * w : w);
	const { linear, context, store } = await layerOnGpu(gpu, { weight, hessian: xx }, SIZE);
	using _store = store;
	const stages = [
		inMode(salientSelect, { "max-columns": 9 }, mode),
		...(stage === arb ? [inMode(splitSearch, { candidates: 9, ...split }, mode)] : []),
		inMode(stage, { "block-size": SIZE, ...options }, mode),
		...(search ? [inMode(rowSearch, search, mode)] : []),
	];
	await quantizeLinear(context, store, linear, stages, new StageClock(gpu));
	const found = await gpu.read(linear.quantized);
	const draft = linear.draft as ArbDraft | HaarDraft;
	const packed = { codec: draft.codec, host: await draft.download() } as unknown as PackedLinear;
	freeLinear(gpu, linear);
	return { loss: lossOf(weight, found, xx, COLS), packed, found };
}

const FORMS: [string, Stage, Options][] = [
	["arb rc with bitmap", arb, { iterations: 4 }],
	["arb x", arb, {
		variant: "x",
		"group-bitmap": false,
		iterations: 4,
		split: { search: "output" },
	}],
	["hbllm by row", hbllm, {}],
	["hbllm by column", hbllm, { variant: "column" }],
];

for (const [name, stage, options] of FORMS) {
	Deno.test(`${name}: bytes are as by formula, values as stored; each option lowers the error`, async () => {
		const reference = await quantize(stage, options, "reference");
		const before = gpu.memory.current; // constants stay on the device
		const own = await quantize(stage, options, "default");
		const searched = await quantize(stage, options, "default", { moves: 1 });
		const again = await quantize(stage, options, "default", { moves: 1 });
		assert.equal(gpu.memory.current, before, "everything is freed");
		assert.deepEqual(again.packed, searched.packed, "the same from run to run");
		const losses = [reference.loss, own.loss, searched.loss];
		assert.ok(losses[1] < losses[0] && losses[2] < 0.98 * losses[1], `${losses}`);
		for (const { packed, found } of [reference, own, searched]) {
			assert.deepEqual(dequantizedLinear(packed), found);
			const { tensors, parts } = storeLinear("linear", packed, FORM);
			const bytes = tensors.reduce((sum, { data }) => sum + (data as Uint8Array).length, 0);
			const { salientColumns } = packed.codec.facts(packed.host);
			const salient = salientColumns.reduce((a, b) => a + b);
			assert.ok(salient > 0);
			const formula = stage === arb ? arbBytes : haarBytes;
			assert.equal(bytes, formula(packed.host as never, salient));
			assert.equal(bytes, Object.values(parts).reduce((a, b) => a + b));
		}
	});
}

Deno.test("hbllm refuses an odd number of rows or columns, and says which layer has it", async () => {
	const linear = { name: "layers.0.q_proj", rows: 7, cols: 8 } as LinearLayer;
	const context = { gpu, linear, block: { first: 0, cols: 8, size: 32 } };
	const run = hbllm.run as (context: unknown, options: unknown) => Promise<void>;
	await assert.rejects(run(context, hbllm.options.parse({})), {
		name: "UserError",
		message: /"layers\.0\.q_proj" has 7 x 8 weights; use arb or compensate/,
	});
});
