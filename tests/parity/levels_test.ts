// Levels on single linear layers against an independent implementation: what codes decode to, and the
// relative output errors that the encoder leaves. The expected numbers lie outside the project; the test
// says so where they are missing.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { LevelsDraft } from "~/codecs/levels/draft.ts";
import { levels as codec } from "~/codecs/levels/codec.ts";
import type { LevelKind } from "~/codecs/levels/levels.ts";
import { dequantizeLevelsHost, type LevelsHost, loadLevels } from "~/codecs/levels/store.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { LinearStage } from "~/pipeline/stage.ts";
import { levels } from "~/stages/levels.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { written } from "../open.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import {
	areLayersThere,
	codesOf,
	errorOf,
	expectedOf,
	LAYERS,
	suffix,
	uploadLayer,
} from "./single_layers.ts";

/** The fixture's names of kinds of levels. */
const KINDS: Record<string, LevelKind> = {
	sign: { count: 2, pattern: "free" },
	ternary: { count: 3, pattern: "free" },
	four: { count: 4, pattern: "free" },
	five: { count: 5, pattern: "free" },
	eight: { count: 8, pattern: "gaussian" },
};

/** The codes of the fixture as a linear layer. */
function hostOf(file: Checkpoint, name: string, cols: number): LevelsHost {
	return {
		...KINDS[name],
		rows: file.get(`${name}.theta`).shape[0],
		cols,
		codes: new Uint32Array(file.readBytes(`${name}.packed`).buffer),
		theta: file.readFloat32(`${name}.theta`),
	};
}

Deno.test({
	name: `levels decode to the expected weights${suffix}`,
	ignore: !areLayersThere,
	async fn() {
		await using gpu = await openGpu();
		const widths: Record<string, number> = {
			"tiny-k": 256,
			"smollm2-v": 576,
			"smollm2-down": 1536,
		};
		for (const layer of LAYERS) {
			const expected = expectedOf(layer);
			using file = codesOf(layer);
			for (const name of Object.keys(KINDS)) {
				const cols = widths[layer];
				const host = hostOf(file, name, cols);
				using folder = new TemporaryFolder();
				using checkpoint = written(
					folder.path,
					codec.store("up", host, { scales: "f16", flags: "plain" }),
				);
				const found = loadLevels(checkpoint, "up", { cols, blockSize: 128 });
				assert.deepEqual(found, host);
				const weights = dequantizeLevelsHost(found);
				const digest = createHash("sha256").update(weights).digest("hex");
				assert.equal(digest, expected[`${name}-tabu`].decoded_sha256, `${layer} ${name}`);
				using matrix = await codec.matrix(gpu, found);
				assert.deepEqual(await gpu.read(matrix), weights);
			}
		}
	},
});

/** The entry of the fixture by the effort. */
const EFFORTS = [
	{ name: "gptq", options: { rounds: 0 } },
	{ name: "cd", options: { moves: 0 } },
	{ name: "tabu", options: {} },
];

const ROTATION = { seed: 0, block: 64 };

for (const layer of LAYERS) {
	Deno.test({
		name: `levels on ${layer} leave the expected output error${suffix}`,
		ignore: !areLayersThere,
		async fn() {
			await using gpu = await openGpu();
			const expected = expectedOf(layer);
			const uploaded = await uploadLayer(
				gpu,
				layer,
				128,
				(name) => name === "ordered-factor",
				ROTATION,
			);
			const { linear, context } = uploaded;
			using store = uploaded.store;
			for (const [kind, { count }] of Object.entries(KINDS)) {
				for (const { name, options } of EFFORTS) {
					const { proxy, tolerance } = expected[`${kind}-${name}`];
					const stage = { stage: levels, options: levels.options.parse({ count, ...options }) };
					const planned = [stage] as unknown as Planned<LinearStage>[];
					await quantizeLinear(context, store, linear, planned, new StageClock(gpu));
					const found = await errorOf(linear, store.get("hessian"));
					const what = `${kind}-${name}: ${found}, expected ${proxy}`;
					assert.ok(found < (1 + tolerance) * proxy, what);
					const draft = linear.draft as LevelsDraft;
					const host = await draft.download();
					assert.deepEqual(dequantizeLevelsHost(host), await gpu.read(linear.quantized), what);
					draft[Symbol.dispose]();
					delete linear.draft;
				}
			}
		},
	});
}
