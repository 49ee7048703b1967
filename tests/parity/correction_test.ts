// The correction of weights and the refit of norms against what a program in f64 computes from a layer
// of SmolLM2 behind ten quantized ones. The expected numbers lie outside the project; the test says so
// where they are missing.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { ChannelMoments } from "~/gpu/kernels/reduce/channel_moments.ts";
import { access, ArtifactStore } from "~/pipeline/run/artifacts.ts";
import type { GroupContext, GroupStage, LinearLayer } from "~/pipeline/stage.ts";
import { propagateError } from "~/stages/propagate_error.ts";
import { fitLayerNorm, fitScale } from "~/stages/refit_norm.ts";
import { assertClose } from "../assert_close.ts";
import { openSafetensors } from "../open.ts";

const FILE = "../shared/fixtures/codecs/correction.safetensors";
const ignore = !existsSync(FILE);
const without = ignore ? " (needs ../shared)" : "";

Deno.test({
	name: `propagate-error corrects a layer of SmolLM2 as f64 does${without}`,
	ignore,
	async fn() {
		await using gpu = await openGpu();
		using fixture = openSafetensors(FILE);
		const read = (name: string) => fixture.readFloat32(name);
		const [rows, n] = fixture.get("weight").shape;
		const hessian = new Float32Array(n * n);
		const upper = read("hessian_upper");
		for (let i = 0, at = 0; i < n; i++) {
			for (let j = i; j < n; j++) hessian[i * n + j] = hessian[j * n + i] = upper[at++];
		}
		const weight = read("weight");
		const expected = read("corrected");
		const upload = (values: Float32Array, ...shape: number[]) => gpu.upload(values, shape);
		// Few rows by themselves, and so many that the matrix of the correction comes first.
		for (const layers of [1, 4]) {
			const linears = Array.from({ length: layers }, (_, i): LinearLayer => ({
				name: `linear ${i}`,
				module: `linear ${i}`,
				rows,
				cols: n,
				original: upload(weight, rows, n),
				weight: upload(weight, rows, n),
				quantized: gpu.empty([rows, n]),
			}));
			using store = new ArtifactStore();
			store.set("hessian", upload(hessian, n, n));
			store.set("cross-term", upload(read("cross"), n, n));
			const context = { gpu, linears, emit: assert.fail, ...access(store) };
			const options = propagateError.options.parse({});
			await (propagateError as GroupStage).run(context as unknown as GroupContext, options);
			const scale = Math.max(...expected.map(Math.abs));
			for (const { original, weight, correction } of linears) {
				for (const tensor of [original, weight]) {
					assertClose(await gpu.read(tensor), expected, { abs: 1e-5 * scale, what: "weights" });
				}
				assertClose([correction!], [0.16], { abs: 0.005, what: "relative change" });
			}
		}
	},
});

Deno.test({
	name: `the final norm is fitted as f64 does${without}`,
	ignore,
	async fn() {
		await using gpu = await openGpu();
		using fixture = openSafetensors(FILE);
		const read = (name: string) => fixture.readFloat32(`norm.${name}`);
		const { shape } = fixture.get("norm.full");
		using full = gpu.upload(read("full"), shape);
		using normalized = gpu.upload(read("normalised"), shape);
		const moments = new ChannelMoments(shape[1]);
		await moments.add(gpu, full, normalized);
		const plain = { weight: new Float32Array(shape[1]).fill(1), bias: new Float32Array(shape[1]) };
		const tolerance = { rel: 1e-5, abs: 1e-6 };
		assertClose(fitScale(moments, plain).weight, read("weight"), tolerance);
		const { weight, bias } = fitLayerNorm(moments, plain);
		assertClose(weight, read("layer_weight"), tolerance);
		assertClose(bias!, read("layer_bias"), tolerance);
	},
});
