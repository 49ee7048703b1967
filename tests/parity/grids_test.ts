// Searched grids on single linear layers against an independent implementation: what codes decode to, and
// the relative output errors that methods leave. The expected numbers lie outside the project; the test
// says so where they are missing.

import assert from "node:assert/strict";
import type { GridDraft } from "~/codecs/grid/draft.ts";
import { grid as codec } from "~/codecs/grid/codec.ts";
import type { GridBits, Zeros } from "~/codecs/grid/grid.ts";
import { dequantizeGridHost, type GridHost } from "~/codecs/grid/store.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { LinearStage } from "~/pipeline/stage.ts";
import { gptq } from "~/stages/gptq.ts";
import { rtn } from "~/stages/rtn.ts";
import type { Checkpoint } from "~/storage/checkpoint.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import {
	areLayersThere,
	codesOf,
	digest,
	errorOf,
	expectedOf,
	LAYERS,
	suffix,
	uploadLayer,
} from "./single_layers.ts";

const GROUP = 64;
/** The codes of the fixture as a linear layer. */
function hostOf(file: Checkpoint, name: string, bits: GridBits, zeros: Zeros): GridHost {
	const scales = file.readFloat32(`${name}.s`);
	const offsets = file.has(`${name}.zero`)
		? file.readFloat32(`${name}.zero`)
		: Float32Array.from(file.readBytes(`${name}.twice_zero`), (twice) => twice / 2);
	const [rows, groups] = file.get(`${name}.s`).shape;
	return {
		rows,
		cols: groups * GROUP,
		groupSize: GROUP,
		grid: "range",
		zeros,
		bits,
		salient: false,
		codes: new Uint32Array(file.readBytes(`${name}.packed`).buffer),
		fits: Float32Array.from(Array.from(scales, (scale, i) => [scale, offsets[i]]).flat()),
	};
}

Deno.test({
	name: `codes with all kinds of zeros decode to the expected weights${suffix}`,
	ignore: !areLayersThere,
	async fn() {
		await using gpu = await openGpu();
		for (const layer of LAYERS) {
			const expected = expectedOf(layer);
			using file = codesOf(layer);
			const names = Object.keys(expected).filter((name) =>
				file.has(`${name}.s`) && /^grid/.test(name)
			);
			assert.equal(names.length, 10);
			for (const name of names) {
				const [, bits, zeros] = name.match(/^grid(\d)-.*-(\w+)$/)!;
				const host = hostOf(file, name, Number(bits) as GridBits, zeros as Zeros);
				const weights = dequantizeGridHost(host);
				assert.equal(digest(weights), expected[name].decoded_sha256, `${layer} ${name}`);
				using matrix = await codec.matrix(gpu, host);
				assert.deepEqual(await gpu.read(matrix), weights);
			}
		}
	},
});

/** Forms that take different ways through the kernels; "range" is from minimum to maximum. */
const FORMS: [stage: "rtn" | "gptq", order: string, bits: number, zeros: Zeros | "range"][] = [
	["rtn", "none", 2, "free"],
	["rtn", "none", 3, "any"],
	["rtn", "none", 4, "half"],
	["gptq", "none", 2, "middle"],
	["gptq", "none", 4, "free"],
	["gptq", "static", 2, "free"],
	["gptq", "static", 3, "symmetric"],
	["gptq", "static", 4, "any"],
	["gptq", "falling", 2, "any"],
	["gptq", "falling", 3, "half"],
	["gptq", "falling", 3, "range"],
];

/** The tolerance of the fixtures, and that of zeros that are found by other steps than theirs. */
const TOLERANCE = 0.02;
const TOLERANCE_OF_FREE = 0.025;

for (const layer of LAYERS) {
	Deno.test({
		name: `searched grids on ${layer} leave the expected output error${suffix}`,
		ignore: !areLayersThere,
		async fn() {
			await using gpu = await openGpu();
			const expected = expectedOf(layer);
			const uploaded = await uploadLayer(gpu, layer, GROUP, () => true);
			const { linear, context } = uploaded;
			using store = uploaded.store;
			for (const [name, order, bits, zeros] of FORMS) {
				const kind = zeros === "range" ? "min-max" : zeros;
				const wanted = expected[`grid${bits}-${name}-${order}-${kind}`].proxy;
				gpu.copy(linear.original, linear.weight);
				const stage = { rtn, gptq }[name];
				const options = stage.options.parse({
					bits,
					"group-size": GROUP,
					...(zeros === "range" ? { grid: "range" } : { grid: "search", zeros }),
					...(name === "gptq" && { order }),
				});
				const planned = [{ stage, options }] as unknown as Planned<LinearStage>[];
				await quantizeLinear(context, store, linear, planned, new StageClock(gpu));
				const draft = linear.draft as GridDraft;
				const found = await errorOf(linear, store.get("hessian"));
				const what = `${name}, ${bits} bits, order ${order}, zeros ${zeros}: ${found}`;
				const tolerance = zeros === "free" ? TOLERANCE_OF_FREE : TOLERANCE;
				assert.ok(found < (1 + tolerance) * wanted, `${what}, expected ${wanted}`);
				const host = await draft.download();
				assert.deepEqual(dequantizeGridHost(host), await gpu.read(linear.quantized), what);
				draft[Symbol.dispose]();
				delete linear.draft;
			}
		},
	});
}
