import { percentText } from "../../base/units.ts";
import { type BillmHost } from "../../codecs/billm/host.ts";
import { type BillmGroupTensors, freeGroup, uploadGroup } from "../../codecs/billm/group.ts";
import { billmMatmul } from "../../codecs/billm/matmul.ts";
import { billmMatvec } from "../../codecs/billm/matvec.ts";
import { billmVectorProduct, multipliesVectors } from "../../codecs/billm/vector_product.ts";
import { type BillmTensors, freeBillm, uploadBillm } from "../../codecs/billm/tensors.ts";
import { emptyBits, scalesPerBlock } from "../../codecs/billm/quantize_block.ts";
import { rowSearchOf, sweepBlocks } from "../../codecs/billm/search.ts";
import type { WeightGroup } from "../../codecs/codec.ts";
import { searchRows } from "../../codecs/row_search/row_search.ts";
import { searchGrid } from "../../codecs/grid/search_grid.ts";
import { fitLevels } from "../../codecs/levels/fit_levels.ts";
import { parametersOf } from "../../codecs/levels/levels.ts";
import { refitLevels, type SearchedLevels } from "../../codecs/levels/refit_levels.ts";
import { moveLevels } from "../../codecs/levels/search_levels.ts";
import { descendLevels } from "../../codecs/levels/sweep_levels.ts";
import { storeLinear } from "../../codecs/mod.ts";
import type { Gpu } from "../../gpu/device.ts";
import { attention } from "../../gpu/kernels/attention/attention.ts";
import {
	columnOrder,
	selectSalientColumns,
	splitZones,
} from "../../gpu/kernels/binarize/search.ts";
import { inverseFactor } from "../../gpu/kernels/hessian/inverse_factor.ts";
import { gemm, type GemmLayout } from "../../gpu/kernels/matmul/gemm.ts";
import { quantiles } from "../../gpu/kernels/reduce/quantile.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { count, runCommand, usageErrors } from "../task.ts";
import { copyByKernel } from "./measure.ts";
import { RANDOM_FORMS } from "./random_packed.ts";

const HELP = `Usage: deno task bench [--size N] [--runs N]

Measures the kernels on this machine's adapter: the median time of several runs (from GPU
timestamps if available), the throughput, and its ratio to that of a plain copy or a plain product
(GEMM f32 NN). Products of packed weights with one token are also compared with a copy of equal
size, which on a GPU has a lower throughput than a long copy.

Options
  --size N   Rows and columns of the matrices (4096 on a GPU, 768 on a software adapter)
  --runs N   Runs of each kernel (10 on a GPU, 3 on a software adapter)
  --help     Print this
`;

const WARM_UP_MS = 500;

/** The forms of linear layers whose products are measured beside those of BiLLM. */
const OTHER_FORMS = ["grid-4", "levels-2", "trellis-2"];

const usageError = usageErrors("bench");

const command = {
	name: "bench",
	help: HELP,
	options: { size: { type: "string" }, runs: { type: "string" } },
	takesArguments: false,
} as const;

await runCommand(command, async ({ values }) => {
	await using gpu = await openGpu();
	const size = count(usageError, "--size", values.size, gpu.software ? 768 : 4096);
	const runs = count(usageError, "--runs", values.runs, gpu.software ? 3 : 10);
	console.log(`${gpu.name}, Deno ${Deno.version.deno}, ${size} x ${size}, median of ${runs} runs`);

	const random = (shape: number[]): Tensor => {
		const values = new Float32Array(shape.reduce((a, b) => a * b));
		for (let i = 0; i < values.length; i++) {
			values[i] = ((i * 7919 + (i >> 9) * 31) % 997) / 997 - 0.5;
		}
		return gpu.upload(values, shape);
	};
	const plainRates: Record<string, number> = {};
	/**
	 * Times `work`, which is called `repeat` times per run, and prints its throughput.
	 *
	 * @param sameSize Throughput of a copy of equal size.
	 */
	const measure = async (
		name: string,
		amount: number,
		unit: string,
		work: () => Promise<void>,
		repeat = gpu.software ? 1 : 10,
		sameSize?: number,
	): Promise<number> => {
		await work(); // compiles
		await gpu.idle();
		// An idle GPU needs time to reach its clock rate.
		for (
			const start = performance.now();
			!gpu.software && performance.now() < start + WARM_UP_MS;
		) {
			for (let i = 0; i < repeat; i++) await work();
			await gpu.idle();
		}
		const times: number[] = [];
		for (let run = 0; run < runs; run++) {
			const start = await clock(gpu);
			gpu.section({ name: "bench" });
			for (let i = 0; i < repeat; i++) await work();
			gpu.section(undefined);
			times.push((await clock(gpu) - start) / repeat);
		}
		const ms = times.sort((a, b) => a - b)[times.length >> 1];
		const rate = amount / ms / (unit.startsWith("M") ? 1e3 : 1e6);
		// The first result of a unit is the reference: a plain copy, a plain product.
		const plain = plainRates[unit] ??= rate;
		const fraction = unit.startsWith("M") ? "" : `  ${percentText(rate / plain, 0)}` +
			(sameSize === undefined ? "" : `, ${percentText(rate / sameSize, 0)} of the copy above`);
		console.log(
			`${name.padEnd(34)} ${ms.toFixed(3).padStart(10)} ms  ` +
				`${rate.toFixed(1).padStart(9)} ${unit}${fraction}`,
		);
		return rate;
	};

	const a = random([size, size]);
	const b = random([size, size]);
	const c = gpu.empty([size, size]);
	const cube = 2 * size ** 3;
	{
		// Larger than the cache of a GPU.
		using from = gpu.zeros([gpu.software ? size * size : 1 << 27]);
		using to = gpu.empty(from.shape);
		await measure("copy", 2 * from.bytes, "GB/s", () => copyByKernel(gpu, from, to));
	}
	for (const layout of ["NN", "NT", "TN"] as GemmLayout[]) {
		await measure(
			`GEMM f32 ${layout}`,
			cube,
			"GFLOP/s",
			() => gemm(gpu, { layout, m: size, n: size, k: size, a, b, c }),
		);
	}
	if (!gpu.software) { // feed-forward layers of LLaMA-7B for a batch of tokens
		const [hidden, inner, tokens] = [4096, 11008, 8192];
		const x = gpu.zeros([tokens, inner]);
		const y = gpu.zeros([tokens, inner]);
		const weight = gpu.zeros([inner, hidden]);
		for (const [n, k] of [[inner, hidden], [hidden, inner]]) {
			await measure(
				`GEMM f32 NT, ${tokens} x ${n} x ${k}`,
				2 * tokens * n * k,
				"GFLOP/s",
				() =>
					gemm(gpu, {
						layout: "NT",
						m: tokens,
						n,
						k,
						a: { tensor: x, stride: k },
						b: { tensor: weight, stride: k },
						c: { tensor: y, stride: n },
					}),
			);
		}
		gpu.free(x, y, weight);
	}
	await measure(
		"Hessian, upper triangle of XᵀX",
		cube / 2,
		"GFLOP/s",
		() => gemm(gpu, { layout: "TN", m: size, n: size, k: size, a, b: a, c, upperOnly: true }),
	);

	const tokens = gpu.software ? 64 : 512;
	// Shapes of LLaMA-7B.
	const shapes = gpu.software
		? [[size, size]]
		: [[4096, 4096], [3 * 4096, 4096], [2 * 11008, 4096], [4096, 11008], [32000, 4096]];
	for (const [rows, cols] of shapes) {
		const host = packedLayer(rows, cols);
		// Several in turn, so that they exceed the cache of a GPU.
		const count = gpu.software ? 2 : Math.ceil(150e6 / (rows * cols / 4));
		using x = random([1, cols]);
		let turn = 0;
		const repeat = gpu.software ? 1 : 4 * count;
		const run = async (
			bytes: number,
			multiply: (i: number) => Promise<Tensor>,
			what = "packed",
		) => {
			const words = Math.ceil(bytes / 2 / 4096) * 1024; // read and written: half of them each
			using from = gpu.zeros([count, words]);
			using to = gpu.empty([count, words]);
			const copied = await measure(
				`copy of ${(bytes / 1e6).toFixed(1)} MB`,
				8 * words,
				"GB/s",
				() => {
					const at = turn++ % count * words;
					return copyByKernel(gpu, from.view(at, [words]), to.view(at, [words]));
				},
				repeat,
			);
			await measure(
				`${what} ${rows} x ${cols}, 1 token`,
				bytes,
				"GB/s",
				async () => gpu.free(await multiply(turn++ % count)),
				repeat,
				copied,
			);
		};
		if (multipliesVectors(gpu, host.blockSize)) {
			const groups: BillmGroupTensors[] = [];
			for (let i = 0; i < count; i++) groups.push(await uploadGroup(gpu, [host]));
			const { bits, scales } = groups[0];
			await run(bits.bytes + scales.bytes, (i) => billmVectorProduct(gpu, x, groups[i]));
			for (const group of groups) freeGroup(gpu, group);
		} else {
			const weights: BillmTensors[] = [];
			for (let i = 0; i < count; i++) weights.push(await uploadBillm(gpu, host));
			const { bits, scales } = weights[0];
			await run(bits.bytes + scales.bytes, (i) => billmMatvec(gpu, x, weights[i]));
			for (const weight of weights) freeBillm(gpu, weight);
		}
		for (const name of OTHER_FORMS) {
			const { codec, host } = RANDOM_FORMS[name].linear(rows, cols);
			const groups: WeightGroup[] = [];
			for (let i = 0; i < count; i++) {
				const group = await codec.uploadGroup!(gpu, [host]);
				if (group) groups.push(group);
			}
			const { parts } = storeLinear("", { codec, host }, { scales: "i8", flags: "plain" });
			const bytes = Object.values(parts).reduce((sum, own) => sum + own, 0);
			if (groups.length > 0) await run(bytes, (i) => groups[i].multiplyVector(x), name);
			for (const group of groups) group[Symbol.dispose]();
		}
		gpu.trim();
	}
	const weight = await uploadBillm(gpu, packedLayer(size, size));
	{
		using x = random([tokens, size]);
		await measure(
			`packed weight, ${tokens} tokens`,
			2 * tokens * size ** 2,
			"GFLOP/s",
			async () => gpu.free(await billmMatmul(gpu, x, weight)),
		);
	}
	freeBillm(gpu, weight);
	for (const name of OTHER_FORMS) {
		const { codec, host } = RANDOM_FORMS[name].linear(size, size);
		using weight = await codec.upload(gpu, host);
		using x = random([tokens, size]);
		await measure(
			`${name}, ${tokens} tokens`,
			2 * tokens * size ** 2,
			"GFLOP/s",
			async () => gpu.free(await weight.multiply(x)),
		);
	}

	const [heads, headDim, length] = gpu.software ? [8, 32, 256] : [32, 128, 2048];
	const q = random([length, heads * headDim]);
	await measure(
		`attention, ${heads} x ${headDim}, ${length} tokens`,
		2 * length * length * heads * headDim,
		"GFLOP/s",
		async () =>
			gpu.free(await attention(gpu, q, q, q, { heads, keyValueHeads: heads, headDim, length })),
	);

	const h = gpu.empty([size, size]);
	await gemm(gpu, { layout: "TN", m: size, n: size, k: size, a, b: a, c: h, alpha: 2 });
	await measure("factor of the inverse Hessian", 2 / 3 * size ** 3, "GFLOP/s", async () => {
		const { factor, cost, status } = await inverseFactor(gpu, h, 0.01);
		gpu.free(factor, cost, status);
	}, 1);

	const block = random([size, 128]);
	const cost = random([128]);
	using order = await columnOrder(gpu, block, cost, "magnitude");
	using salient = await selectSalientColumns(gpu, block, order, cost, 49);
	const probabilities = Array.from({ length: 81 }, (_, i) => 0.1 + i / 100);
	using threshold = await quantiles(gpu, block, salient, probabilities);
	const blockWeights = block.size;
	await measure(
		"salient columns of a block",
		blockWeights,
		"Mweights/s",
		async () => gpu.free(await selectSalientColumns(gpu, block, order, cost, 49)),
	);
	await measure(
		"quantiles of a block",
		blockWeights,
		"Mweights/s",
		async () => gpu.free(await quantiles(gpu, block, salient, probabilities)),
	);
	await measure(
		"split of a block",
		blockWeights,
		"Mweights/s",
		async () => gpu.free(await splitZones(gpu, block, salient, cost, threshold)),
	);

	using ones = gpu.upload(new Float32Array(size).fill(1), [size]);
	using fits = gpu.empty([size, Math.ceil(size / 128), 2]);
	for (const [bits, zeros] of [[2, "any"], [2, "free"], [3, "free"], [4, "any"]] as const) {
		await measure(
			`grids of ${bits} bits, ${zeros} zeros`,
			size * size,
			"Mweights/s",
			() => searchGrid(gpu, { bits, zeros, weight: a, groupSize: 128, costs: ones, fits }),
			1,
		);
	}

	const bits = emptyBits(gpu, { rows: size, cols: size, blockSize: 128, zones: 2, planes: 2 });
	gpu.clear(bits.bits);
	gpu.free(bits.scales);
	bits.scales = random([...bits.scales.shape]);
	using quantized = gpu.zeros([size, size]);
	const residual = random([size, size]);
	await measure(
		"sweep over the blocks of rows",
		size * size,
		"Mweights/s",
		() => sweepBlocks(gpu, h, residual, bits, quantized),
		1,
	);
	const moves = Math.ceil(size / 16);
	await measure(
		`tabu search, ${moves} moves a row`,
		size * size,
		"Mweights/s",
		() => searchRows(gpu, rowSearchOf(gpu, bits), h, residual, quantized, moves, 0),
		1,
	);

	const kind = { count: 4, pattern: "free" } as const;
	using codes = gpu.zeros([size, size], "u32");
	using theta = gpu.empty([size, parametersOf(kind)]);
	const layer: SearchedLevels = { kind, codes, theta, hessian: h };
	using product = gpu.empty([parametersOf(kind) * size, size]);
	const levelSteps: [name: string, work: () => Promise<void>][] = [
		["fit of the rows", () => fitLevels(gpu, kind, { weight: a, costs: ones, theta })],
		["refit of the rows", () => refitLevels(gpu, layer, residual, product)],
		["sweep over the rows", () => descendLevels(gpu, layer, product.view(0, [size, size]))],
		[`tabu search, ${moves} moves a row`, async () => {
			await moveLevels(gpu, layer, residual, residual, moves, 0, async () => {});
		}],
	];
	for (const [name, work] of levelSteps) {
		await measure(`4 levels: ${name}`, size * size, "Mweights/s", work, 1);
	}
});

/** Milliseconds after all queued work, of GPU time if available. */
async function clock(gpu: Gpu): Promise<number> {
	if (gpu.isTimed) return 1000 * ((await gpu.sectionSeconds()).bench ?? 0);
	await gpu.idle();
	return performance.now();
}

/** A synthetic BiLLM layer: two zones, a tenth of the columns salient, scales in 8 bits. */
function packedLayer(rows: number, cols: number): BillmHost {
	const words = Math.ceil(cols / 32);
	const layout = { rows, cols, blockSize: 128, zones: 2, planes: 2 } as const;
	const count = rows * Math.ceil(cols / 128) * scalesPerBlock(layout);
	return {
		...layout,
		bits: Uint32Array.from({ length: 2 * rows * words }, (_, i) => Math.imul(i, 2654435761)),
		salient: new Uint32Array(words).fill(0b111).map((mark, i) => i === words - 1 ? 0 : mark),
		scales: new Float32Array(count).fill(0.5),
		codes: {
			values: new Int8Array(count).fill(100),
			factors: new Float32Array(2 * rows).fill(0.005),
		},
	};
}
