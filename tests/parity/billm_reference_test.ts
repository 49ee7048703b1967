// Single linear layers against what the released BiLLM program computes from the same weight and
// Hessian. The expected numbers lie outside the project; the test says so where they are missing.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import type { BillmDraft } from "~/codecs/billm/draft.ts";
import { dequantizeBillm, salientColumns } from "~/codecs/billm/host.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { access, ArtifactStore } from "~/pipeline/run/artifacts.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { BlockStage, GroupContext, GroupStage } from "~/pipeline/stage.ts";
import { compensate } from "~/stages/compensate.ts";
import { hessian } from "~/stages/hessian.ts";
import { residualBinarize } from "~/stages/residual_binarize.ts";
import { salientSelect } from "~/stages/salient_select.ts";
import { splitSearch } from "~/stages/split_search.ts";
import { PLAIN } from "../codecs/store_forms.ts";
import { openSafetensors } from "../open.ts";
import { linearOnGpu } from "../stages/linear_on_gpu.ts";

const FOLDER = "../shared/fixtures/billm-reference";

/** tr(D H Dᵀ) in f64. */
function quadraticForm(d: Float64Array, h: Float32Array, n: number): number {
	let total = 0;
	for (let row = 0; row < d.length / n; row++) {
		for (let i = 0; i < n; i++) {
			let sum = 0;
			for (let j = 0; j < n; j++) sum += h[i * n + j] * d[row * n + j];
			total += d[row * n + i] * sum;
		}
	}
	return total;
}

for (const model of ["tiny-llama", "tiny-opt"]) {
	const file = `${FOLDER}/${model}.linears.safetensors`;
	const there = existsSync(file);
	Deno.test({
		name: `linear layers of ${model} equal the released program's${
			there ? "" : " (needs ../shared)"
		}`,
		ignore: !there,
		async fn() {
			await using gpu = await openGpu();
			using fixture = openSafetensors(file);
			const names = [...fixture.tensors.keys()].filter((name) => name.endsWith(".hessian"))
				.map((name) => name.slice(0, -".hessian".length));
			assert.ok(names.length >= 4);
			for (const name of names) {
				const [rows, cols] = fixture.get(`${name}.weight`).shape;
				const weight = fixture.readFloat32(`${name}.weight`);
				const h = fixture.readFloat32(`${name}.hessian`);
				const linear = linearOnGpu(gpu, weight, rows, name);
				using store = new ArtifactStore();
				store.set("hessian", gpu.upload(h, [cols, cols]));
				const context = {
					gpu,
					blockSize: 128,
					linears: [linear],
					isNeeded: (name: string) => ["factor", "column-costs"].includes(name),
					...access(store),
				} as unknown as GroupContext;
				const reference = (stage: { options: typeof hessian.options; presets?: unknown }) =>
					stage.options.parse((stage.presets as { reference?: object })?.reference ?? {});
				await (hessian as GroupStage).run(context, reference(hessian));
				const stages = [salientSelect, residualBinarize, splitSearch, compensate]
					.map((stage) => ({ stage, options: reference(stage) })) as Planned<BlockStage>[];
				await quantizeLinear(context, store, linear, stages, new StageClock(gpu));

				const host = await (linear.draft as BillmDraft).download(PLAIN, linear.quantized);
				const salient = fixture.readBytes(`${name}.salient`);
				const large = fixture.readBytes(`${name}.large`);
				const isSalient = new Set(salientColumns(host));
				const words = Math.ceil(cols / 32);
				let sameSalient = 0;
				let sameLarge = 0;
				const theirs = fixture.readFloat32(`${name}.quantized`);
				const ours = dequantizeBillm(host);
				assert.deepEqual(ours, await gpu.read(linear.quantized), "what is packed is what was used");
				for (let i = 0; i < rows * cols; i++) {
					const col = i % cols;
					const word = rows * words + Math.floor(i / cols) * words + (col >> 5);
					const flag = (host.bits[word] >>> (col & 31)) & 1;
					sameSalient += Number(Number(isSalient.has(col)) === salient[i]);
					sameLarge += Number((isSalient.has(col) ? 0 : flag) === large[i]);
				}
				const error = (q: Float32Array) =>
					quadraticForm(Float64Array.from(weight, (w, i) => w - q[i]), h, cols);
				const ratio = error(ours) / error(theirs);
				const share = (count: number) => count / (rows * cols);
				console.log(
					`${model} ${name}: salient ${share(sameSalient).toFixed(4)}, ` +
						`large ${share(sameLarge).toFixed(4)}, error ratio ${ratio.toFixed(5)}`,
				);
				assert.ok(share(sameSalient) >= 0.99, `${name}: salient masks agree`);
				assert.ok(share(sameLarge) >= 0.99, `${name}: zones agree`);
				assert.ok(Math.abs(ratio - 1) < 0.01, `${name}: error ratio ${ratio}`);
				gpu.free(linear.original, linear.weight, linear.quantized);
			}
		},
	});
}
