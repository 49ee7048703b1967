import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROJECT } from "../checkout.ts";
import { access, ArtifactStore } from "~/pipeline/run/artifacts.ts";
import type { GroupContext, GroupStage } from "~/pipeline/stage.ts";
import { propagateError } from "~/stages/propagate_error.ts";
import { openGpu } from "../gpu/open_gpu.ts";
import { runFile, type StageItem } from "../micro_model.ts";

Deno.test("a share of the batches, the first ones, gives the cross term and its Hessian", async () => {
	await using gpu = await openGpu();
	const batches = 5;
	for (const [share, used] of [[1, 5], [0.5, 3], [0.3, 2], [1e-12, 1]] as const) {
		using store = new ArtifactStore();
		const calibration = { batches: { length: batches }, sequences: 8 };
		const { get, ...others } = access(store);
		const context = {
			gpu,
			...others,
			get: (name: "hessian") => name as string === "calibration" ? calibration : get(name),
		} as unknown as GroupContext;
		const options = propagateError.options.parse({ share });
		const sum = (of: (batch: number) => number, count: number) =>
			Array.from({ length: count }, (_, batch) => of(batch)).reduce((a, b) => a + b, 0);
		for (let batch = 0; batch < batches; batch++) {
			using input = gpu.upload(Float32Array.of(1), [1, 1]);
			using original = gpu.upload(Float32Array.of(1 + 2 ** batch), [1, 1]);
			store.set("hessian", gpu.upload(Float32Array.of(sum((i) => 3 ** i, batch + 1)), [1, 1]));
			await (propagateError as GroupStage).observe!(context, options, input, original);
		}
		const [cross] = await gpu.read(store.get("cross-term"));
		assert.equal(cross, 2 / 8 * sum((i) => 2 ** i, used), `share ${share}`);
		const part = store.find("cross-hessian");
		if (used === batches) assert.equal(part, undefined);
		else assert.equal((await gpu.read(part!))[0], sum((i) => 3 ** i, used));
	}
});

Deno.test("a trained model of one bit is better with propagate-error and refit-norm", async () => {
	const folder = mkdtempSync(join(tmpdir(), "billm-test-"));
	const text = (name: string) => join(PROJECT, `examples/text/${name}.gz`);
	const lossOf = async (name: string, ...stages: StageItem[]) => {
		const file = join(folder, `${name}.yaml`);
		const calibration = { "samples": 16, "sequence-length": 128, "batch-tokens": 1024 };
		const perplexity = { "dataset": text("evaluation.txt"), "sequence-length": 128, "windows": 4 };
		const pipeline = {
			name,
			model: join(PROJECT, "examples/models/tiny-llama"),
			output: join(folder, name),
			stages: [
				"download",
				{ calibrate: { dataset: text("calibration.txt"), ...calibration } },
				"hessian",
				...stages,
				"pack",
				{ evaluate: { perplexity: [perplexity], cache: false } },
			],
		};
		writeFileSync(file, JSON.stringify(pipeline));
		return (await runFile(file)).record.evaluation!.packed![0].loss;
	};
	try {
		const gptq = { gptq: { bits: 1 } };
		const plain = await lossOf("plain", gptq);
		const corrected = await lossOf("corrected", "propagate-error", gptq, "refit-norm");
		assert.ok(corrected < plain - 0.3, `${corrected} nats with corrections, ${plain} without`);
	} finally {
		rmSync(folder, { recursive: true });
	}
});
