import assert from "node:assert/strict";
import { access, ArtifactStore } from "../../../pipeline/run/artifacts.ts";
import { quantizeLinear } from "../../../pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "../../../pipeline/run/run.ts";
import type { BlockContext, GroupContext, LinearContext, Stage } from "../../../pipeline/stage.ts";
import { openGpu } from "../../gpu/open_gpu.ts";

const gpu = await openGpu();

Deno.test("stages of scope block run block by block, those of scope linear once, in the order of the chain", async () => {
	const [rows, cols] = [3, 80];
	const calls: string[] = [];
	const stage = (name: string, scope: "group" | "linear" | "block", implied = false) => {
		const run = (context: LinearContext | BlockContext) => {
			const { gpu, linear, find, set } = context;
			assert.deepEqual([linear.rows, linear.cols], [rows, cols]);
			const where = "block" in context ? ` from ${context.block.first}` : "";
			const seen = find("saliency") ? ", artifact seen" : "";
			calls.push(`${name}${where}${seen}`);
			if (name === "b") set("saliency", gpu.zeros([1]));
			return Promise.resolve();
		};
		return { stage: { name, scope, run }, options: {}, implied } as unknown as Planned<Stage>;
	};
	const stages = [
		stage("group", "group"),
		stage("a", "block"),
		stage("b", "linear"),
		stage("c", "block"),
		stage("d", "block", true),
	];
	const before = gpu.memory.current;
	{
		using store = new ArtifactStore();
		using weight = gpu.zeros([rows, cols]);
		using quantized = gpu.zeros([rows, cols]);
		const linear = { name: "m", module: "m", rows, cols, original: weight, weight, quantized };
		const context = { gpu, blockSize: 32, ...access(store) } as unknown as GroupContext;
		const clock = new StageClock(gpu);
		await quantizeLinear(context, store, linear, stages, clock);
		const blocks = [0, 32, 64];
		assert.deepEqual(calls, [
			...blocks.map((first) => `a from ${first}`),
			"b",
			...blocks.flatMap((first) =>
				["c", "d"].map((name) => `${name} from ${first}, artifact seen`)
			),
		]);
		assert.deepEqual(Object.keys(await clock.seconds()).sort(), ["a", "b", "c"], "d is nobody's");
		assert.equal(
			store.find("saliency"),
			undefined,
			"what a linear layer's stage sets ends with it",
		);
	}
	gpu.trim();
	assert.ok(gpu.memory.current <= before + 4096, "artifacts are freed, constants may stay");
});
