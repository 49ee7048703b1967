import assert from "node:assert/strict";
import { access, ArtifactStore } from "~/pipeline/run/artifacts.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { BlockStage, GroupContext } from "~/pipeline/stage.ts";
import { compensate } from "~/stages/compensate.ts";
import { assertClose } from "../assert_close.ts";
import { gpu } from "../gpu/gpu.ts";
import { matmul } from "../reference/linear_algebra.ts";
import { normals } from "../reference/random.ts";
import { freeLinear, linearOnGpu, planned, randomFactor, seenFactor } from "./linear_on_gpu.ts";

const ROWS = 9;

// Fewer columns than are made up for at a time, just as many, more, and some over.
for (const cols of [200, 1024, 1100, 2176]) {
	for (const feedback of ["column", "block"]) {
		Deno.test(`later columns make up for all errors: ${cols} columns, feedback ${feedback}`, async () => {
			const weight = normals(ROWS * cols, 1);
			const factor = randomFactor(cols);
			const errors = new Float32Array(ROWS * cols);
			let quantized = new Float32Array();
			let before = 0;
			for (let turn = 0; turn < 2; turn++) {
				before = gpu.memory.current; // constants stay on the device from the first turn on
				const linear = linearOnGpu(gpu, weight, ROWS);
				using store = new ArtifactStore();
				store.set("factor", gpu.upload(factor, [cols, cols]));
				const probe: Partial<BlockStage> = {
					name: "probe",
					scope: "block",
					async run({ get, block }) {
						const found = await gpu.read(get("block-error"));
						for (let row = 0; row < ROWS; row++) {
							errors.set(
								found.subarray(row * block.cols, (row + 1) * block.cols),
								row * cols + block.first,
							);
						}
					},
				};
				const stages = [planned(compensate, { feedback }), { stage: probe, options: {} }];
				const context = { gpu, blockSize: 128, ...access(store) } as unknown as GroupContext;
				await quantizeLinear(
					context,
					store,
					linear,
					stages as Planned<BlockStage>[],
					new StageClock(gpu),
				);
				quantized = await gpu.read(linear.quantized);
				freeLinear(gpu, linear);
			}
			const seen = seenFactor(factor, 128, feedback);
			const difference = weight.map((w, i) => w - quantized[i]);
			assert.ok(errors.some((error) => Math.abs(error) > 0.1));
			// Sums of up to 2176 f32 products of about 0.05.
			assertClose(difference, matmul(errors, seen, ROWS, cols, cols), { abs: 3e-4, what: "W - Q" });
			assert.equal(gpu.memory.current, before, "everything is freed");
		});
	}
}
