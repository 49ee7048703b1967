import assert from "node:assert/strict";
import { dequantize } from "~/codecs/billm/dequantize.ts";
import type { BillmBits } from "~/codecs/billm/quantize_block.ts";
import { roundScales } from "~/codecs/billm/round_scales.ts";
import { canSearch, rowSearchOf, searchBits, sweepBlocks } from "~/codecs/billm/search.ts";
import { rowSearchShape, searchRows } from "~/codecs/row_search/row_search.ts";
import type { Gpu } from "~/gpu/device.ts";
import { MAX_GROUPS } from "~/gpu/kernel.ts";
import { reducesInSubgroup } from "~/gpu/kernels/reduce/reduction.ts";
import type { Tensor } from "~/gpu/tensor.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import { openAsHardware } from "../../gpu/open_gpu.ts";
import { damped, matmul } from "../../reference/linear_algebra.ts";
import { normals, seededRandom } from "../../reference/random.ts";
import {
	lossOf,
	PARAMETERS,
	type SearchedLayer,
	sweepReference,
	tabuReference,
	valuesOfLayer,
} from "../../reference/row_search.ts";

interface Problem {
	layer: SearchedLayer;
	hasSalient: boolean;
	target: Float32Array;
	hessian: Float32Array;
}

interface Shape {
	rows: number;
	cols: number;
	blockSize: number;
	hasSalient: boolean;
}

/** A Hessian of correlated inputs; H_ij = 0.6^|i - j| for many columns, where sums would take long. */
function makeHessian(cols: number, isDead: (col: number) => boolean): Float32Array {
	if (cols > 400) {
		return Float32Array.from(
			{ length: cols * cols },
			(_, at) => 0.6 ** Math.abs(Math.floor(at / cols) - at % cols),
		);
	}
	const tokens = cols + 20;
	const shared = normals(tokens, 5);
	const x = normals(tokens * cols, 6).map((value, i) =>
		isDead(i % cols) ? 0 : (value + 0.5 * shared[Math.floor(i / cols)]) * (1 + i % cols % 3)
	);
	const xt = new Float32Array(cols * tokens).map((_, i) => x[i % tokens * cols + i / tokens | 0]);
	const hessian = matmul(xt, x, cols, cols, tokens).map((sum) => sum / tokens);
	return Float32Array.from(damped(hessian, cols, 0.01));
}

/** A layer with arbitrary bits; every third row has its low scale so small that the zone is nearly empty. */
function makeProblem({ rows, cols, blockSize, hasSalient }: Shape): Problem {
	const random = seededRandom(rows + cols);
	const isDead = (col: number) => cols > 60 && col % 41 === 7;
	const salient = Uint8Array.from({ length: cols }, () => Number(hasSalient && random() < 0.1));
	if (hasSalient && cols > blockSize) salient.fill(0, 0, blockSize); // a block without any
	const typical = [0.02, 0.4, -0.05, 1.3, 0.1, 1, 0.5];
	const count = rows * Math.ceil(cols / blockSize) * PARAMETERS;
	const scales = Float64Array.from(
		{ length: count },
		(_, i) => Math.f16round(typical[i % PARAMETERS] * (0.7 + 0.6 * random())),
	);
	const codes = Uint8Array.from({ length: rows * cols }, () => 4 * random());
	const target = normals(rows * cols, cols).map((w, i) => isDead(i % cols) ? 0 : w);
	const layer = { rows, cols, blockSize, salient, codes, scales };
	return { layer, hasSalient, target, hessian: makeHessian(cols, isDead) };
}

/** A problem on the GPU, with what its kernels make of it. */
class OnGpu implements Disposable {
	readonly bits: BillmBits;
	readonly quantized: Tensor;
	readonly target: Tensor;
	readonly hessian: Tensor;

	constructor(readonly gpu: Gpu, readonly problem: Problem) {
		const { layer, hasSalient, target, hessian } = problem;
		const { rows, cols, blockSize, codes, salient } = layer;
		const words = Math.ceil(cols / 32);
		const planes = new Uint32Array(2 * rows * words);
		codes.forEach((code, i) => {
			const [row, col] = [Math.floor(i / cols), i % cols];
			for (const plane of [0, 1]) {
				planes[(plane * rows + row) * words + (col >> 5)] |= (code >> plane & 1) << (col & 31);
			}
		});
		const perBlock = hasSalient ? 7 : 4;
		const scales = Float32Array.from(layer.scales.filter((_, i) => i % PARAMETERS < perBlock));
		this.bits = {
			...{ rows, cols, blockSize, zones: 2, planes: hasSalient ? 2 : 0 },
			bits: gpu.upload(planes, [2, rows, words]),
			scales: gpu.upload(scales, [rows, scales.length / rows / perBlock, perBlock]),
			salient: gpu.upload(Uint32Array.from(salient), [cols]),
		};
		this.quantized = gpu.upload(Float32Array.from(valuesOfLayer(layer)), [rows, cols]);
		this.target = gpu.upload(target, [rows, cols]);
		this.hessian = gpu.upload(hessian, [cols, cols]);
	}

	/** (W - Q) H. */
	residual(): Tensor {
		const { layer, target, hessian } = this.problem;
		const { rows, cols } = layer;
		const error = valuesOfLayer(layer).map((value, i) => target[i] - value);
		const residual = Float32Array.from(matmul(error, hessian, rows, cols, cols));
		return this.gpu.upload(residual, [rows, cols]);
	}

	/** The result as a layer, checked to be consistent; scales of few bits are no values of f16. */
	async read(
		haveFewBits = false,
	): Promise<{ layer: SearchedLayer; quantized: Float32Array; words: Uint32Array }> {
		const { gpu, bits, problem: { layer } } = this;
		const { rows, cols, planes } = bits;
		const quantized = await gpu.read(this.quantized);
		const words = await gpu.read(bits.bits, "u32");
		const width = words.length / 2 / rows;
		const marks = new Uint32Array(width);
		if (planes) {
			for (let col = 0; col < cols; col++) {
				marks[col >> 5] |= layer.salient[col] << col;
			}
		}
		using salient = gpu.upload(marks, [width]);
		using again = await dequantize(gpu, bits, bits.bits, bits.scales, salient);
		assert.deepEqual(await gpu.read(again), quantized, "the bits give back the values");
		if (cols % 32 > 0) {
			const beyond = words.filter((_, i) => i % width === width - 1)
				.map((word) => word >>> (cols % 32));
			assert(beyond.every((word) => word === 0), "bits beyond the last column are 0");
		}
		const bit = (plane: number, i: number) =>
			words[(plane * rows + Math.floor(i / cols)) * width + (i % cols >> 5)] >>> (i % cols & 31) &
			1;
		const codes = layer.codes.map((_, i) => bit(0, i) + 2 * bit(1, i));
		const stored = await gpu.read(bits.scales);
		if (!haveFewBits) assert.deepEqual(stored, stored.map(Math.f16round), "scales are f16");
		const perBlock = planes ? 7 : 4;
		const scales = layer.scales.map((_, i) =>
			i % PARAMETERS < perBlock ? stored[Math.floor(i / PARAMETERS) * perBlock + i % PARAMETERS] : 0
		);
		return { layer: { ...layer, codes, scales }, quantized, words };
	}

	[Symbol.dispose](): void {
		const { bits, scales, salient } = this.bits;
		this.gpu.free(bits, scales, salient, this.quantized, this.target, this.hessian);
	}
}

function copyOf(layer: SearchedLayer): SearchedLayer {
	return { ...layer, codes: layer.codes.slice(), scales: layer.scales.slice() };
}

/** The loss of the weights on the device, in f64, which must be that of the reference. */
function assertSameLoss(
	{ target, hessian, layer }: Problem,
	quantized: Float32Array,
	wanted: SearchedLayer,
): void {
	const found = lossOf(target, quantized, hessian, layer.cols);
	const expected = lossOf(target, valuesOfLayer(wanted), hessian, layer.cols);
	assertClose([found], [expected], { rel: 1e-4, what: "loss" });
}

function shareOfEqual(a: ArrayLike<number>, b: ArrayLike<number>): number {
	return Array.from(a).filter((value, i) => value === b[i]).length / a.length;
}

// Rows on both sides of a workgroup's; one block, a short last one, widths of no full word or vec4.
const SHAPES: [rows: number, cols: number, blockSize: number][] = [
	[5, 32, 32],
	[17, 75, 32],
	[16, 64 + 2, 64],
	[3, 128, 128],
	[9, 128 + 45, 128],
	[2, 256 + 31, 256],
];

for (const { kernels, gpu } of DEVICES) {
	for (const hasSalient of [true, false]) {
		const what = `${hasSalient ? "with" : "without"} salient columns, ${kernels}`;
		Deno.test(`a sweep is that of f64, ${what}`, async () => {
			for (const [rows, cols, blockSize] of SHAPES) {
				const problem = makeProblem({ rows, cols, blockSize, hasSalient });
				const { target, hessian } = problem;
				using device = new OnGpu(gpu, problem);
				using residual = device.residual();
				await sweepBlocks(gpu, device.hessian, residual, device.bits, device.quantized);
				const { layer, quantized } = await device.read();
				const wanted = copyOf(problem.layer);
				sweepReference(wanted, target, hessian);
				const loss = lossOf(target, quantized, hessian, cols);
				const before = lossOf(target, valuesOfLayer(problem.layer), hessian, cols);
				assert(loss < 0.5 * before, `${loss} after ${before}`);
				assertSameLoss(problem, quantized, wanted);
				assert(shareOfEqual(layer.codes, wanted.codes) > 0.99, `codes of ${rows}, ${cols}`);
				if (cols <= blockSize) {
					// A place of f16, since f32 sums may lie on the other side of a boundary. Several parameters
					// give the same values to few salient columns.
					const zones = ({ scales }: SearchedLayer) => scales.filter((_, i) => i % PARAMETERS < 4);
					const halves = { rel: 2 ** -10, abs: 2 ** -13, what: "means and scales of zones" };
					assertClose(zones(layer), zones(wanted), halves);
					assertClose(quantized, valuesOfLayer(wanted), { abs: 2 ** -9, what: "values" });
				}
				const error = target.map((w, i) => w - quantized[i]);
				const expected = matmul(error, hessian, rows, cols, cols);
				assertClose(await gpu.read(residual), expected, { abs: 1e-3, what: "R" });
			}
		});

		Deno.test(`tabu search is that of f64, ${what}`, async () => {
			for (const [rows, cols, blockSize] of [SHAPES[1], SHAPES[4], [2, 8 * 64 + 3, 128]]) {
				const { lanes, perThread, most } = rowSearchShape(gpu, cols);
				assert.equal(perThread, Math.ceil(cols / lanes));
				for (const moves of [1, 12, 150]) {
					assert(moves <= most);
					const problem = makeProblem({ rows, cols, blockSize, hasSalient });
					const { target, hessian } = problem;
					using device = new OnGpu(gpu, problem);
					using residual = device.residual();
					const { bits } = device;
					await searchRows(
						gpu,
						rowSearchOf(gpu, bits),
						device.hessian,
						residual,
						device.quantized,
						moves,
						3,
					);
					const { layer, quantized } = await device.read();
					const wanted = copyOf(problem.layer);
					const coarseLanes = reducesInSubgroup(gpu) ? undefined : lanes;
					tabuReference(wanted, target, hessian, moves, 3, coarseLanes);
					assertSameLoss(problem, quantized, wanted);
					assert(shareOfEqual(layer.codes, wanted.codes) > 0.98, `codes of ${rows}, ${cols}`);
					const changed = layer.codes.filter((code, i) => code !== problem.layer.codes[i]).length;
					assert(changed > 0 && changed <= moves * rows, `${changed} codes changed`);
				}
			}
		});
	}
}

Deno.test("a sweep negates scales that become negative, with the bits that use them", async () => {
	const shape = { rows: 17, cols: 75, blockSize: 32, hasSalient: true };
	const problem = makeProblem(shape);
	const { layer, target } = problem;
	// All values of ordinary columns are 0 and those of salient ones -0.25, with all bits 0: what moves
	// them up makes the scales negative.
	layer.scales.forEach((_, i) => layer.scales[i] = [0, 0, 0, 0, 0, 0.25, 0][i % PARAMETERS]);
	layer.salient = Uint8Array.from({ length: 75 }, (_, col) => Number(col % 16 === 3));
	target.forEach((w, i) => target[i] = layer.salient[i % 75] ? -0.25 : 1 + 0.1 * w);
	using device = new OnGpu(gpu, problem);
	using residual = device.residual();
	await sweepBlocks(gpu, device.hessian, residual, device.bits, device.quantized);
	const { layer: found } = await device.read();
	const wanted = copyOf(layer);
	sweepReference(wanted, target, problem.hessian);
	assert(wanted.codes.some((code) => code === 1), "some scales have been negated");
	assert.deepEqual(found.codes, wanted.codes);
	assert(found.scales.every((value, i) => ![1, 3, 5, 6].includes(i % PARAMETERS) || value >= 0));
});

for (const { kernels, gpu } of DEVICES) {
	Deno.test(`rounds lower the loss, with the same bits each time, ${kernels}`, async () => {
		for (const hasSalient of [true, false]) {
			const problem = makeProblem({ rows: 17, cols: 75, blockSize: 32, hasSalient });
			const { target, hessian } = problem;
			let last = lossOf(target, valuesOfLayer(problem.layer), hessian, 75);
			for (
				const [rounds, sweeps, moves] of [[1, 1, 0], [1, 2, 0], [3, 2, 0], [1, 2, 1], [3, 2, 1]]
			) {
				const results = [];
				for (let turn = 0; turn < 2; turn++) {
					using device = new OnGpu(gpu, problem);
					let pauses = 0;
					await searchBits(
						gpu,
						device.target,
						device.hessian,
						device.bits,
						device.quantized,
						{ rounds, sweeps, moves },
						async () => {
							pauses++;
						},
					);
					assert.equal(pauses, rounds * (sweeps + moves) + 1);
					results.push(await device.read());
				}
				assert.deepEqual(results[0], results[1]);
				const loss = lossOf(target, results[0].quantized, hessian, 75);
				assert(loss <= last * (1 + 1e-6), `${loss} after ${last}`);
				last = loss;
			}
		}
	});
}

Deno.test("more sweeps and moves never raise the loss of a row", async () => {
	const problem = makeProblem({ rows: 17, cols: 75, blockSize: 32, hasSalient: true });
	const { target, hessian } = problem;
	using device = new OnGpu(gpu, problem);
	const losses = (values: ArrayLike<number>) =>
		Array.from({ length: 17 }, (_, row) => {
			const part = (all: ArrayLike<number>) => Array.from(all).slice(75 * row, 75 * (row + 1));
			return lossOf(part(target), part(values), hessian, 75);
		});
	let last = losses(valuesOfLayer(problem.layer));
	for (const moves of [0, 0, 0, 0, 0.5, 2, 0, 8, 8]) {
		const { bits, quantized } = device;
		const effort = { rounds: 1, sweeps: 1, moves };
		await searchBits(gpu, device.target, device.hessian, bits, quantized, effort);
		const found = losses((await device.read()).quantized);
		// Where nothing is left to improve, rounding to f16 and to f32 may tip.
		found.forEach((loss, row) => assert(loss <= last[row] * (1 + 1e-5), `${loss}, ${last[row]}`));
		last = found;
	}
});

Deno.test("bits are searched once more for means and scales of few bits", async () => {
	for (const scaleBits of [8, 4] as const) {
		const problem = makeProblem({ rows: 17, cols: 150, blockSize: 64, hasSalient: true });
		const { target, hessian } = problem;
		const effort = { rounds: 1, sweeps: 2, moves: 0.5 };
		const round = async ({ bits }: OnGpu) => {
			const { codes, factors } = await roundScales(gpu, bits, bits.scales, scaleBits);
			gpu.free(codes, factors);
		};
		using after = new OnGpu(gpu, problem); // rounded after the search
		await searchBits(gpu, after.target, after.hessian, after.bits, after.quantized, effort);
		await round(after);
		using _ = after.residual();
		await searchRows(gpu, rowSearchOf(gpu, after.bits), after.hessian, _, after.quantized, 0, 0);
		using within = new OnGpu(gpu, problem);
		const { bits, quantized } = within;
		await searchBits(gpu, within.target, within.hessian, bits, quantized, { ...effort, scaleBits });
		const scales = await gpu.read(bits.scales);
		const found = lossOf(target, (await within.read(true)).quantized, hessian, 150);
		const without = lossOf(target, (await after.read(true)).quantized, hessian, 150);
		assert(found < without, `${found} instead of ${without}`);
		await round(within);
		assert.deepEqual(await gpu.read(bits.scales), scales, "rounding again changes nothing");
	}
});

Deno.test("tabu search of many moves is cut into calls whose loops software adapters finish", async () => {
	if (!gpu.software) return;
	const [rows, cols] = [2, 2049];
	const { most } = rowSearchShape(gpu, cols);
	assert(most < cols / 4);
	const problem = makeProblem({ rows, cols, blockSize: 256, hasSalient: true });
	const { target, hessian } = problem;
	{
		using device = new OnGpu(gpu, problem);
		using residual = device.residual();
		await searchRows(
			gpu,
			rowSearchOf(gpu, device.bits),
			device.hessian,
			residual,
			device.quantized,
			most,
			0,
		);
		const wanted = copyOf(problem.layer);
		tabuReference(wanted, target, hessian, most, 0, reducesInSubgroup(gpu) ? undefined : 16);
		assertSameLoss(problem, (await device.read()).quantized, wanted);
	}
	using device = new OnGpu(gpu, problem);
	let pauses = 0;
	const count = async () => {
		pauses++;
	};
	const effort = { rounds: 1, sweeps: 1, moves: 0.25 };
	const { bits, quantized } = device;
	await searchBits(gpu, device.target, device.hessian, bits, quantized, effort, count);
	assert.equal(pauses, 2 + Math.ceil(Math.ceil(cols / 4) / most));
	const wanted = copyOf(problem.layer);
	sweepReference(wanted, target, hessian);
	const found = lossOf(target, (await device.read()).quantized, hessian, cols);
	const sweeps = lossOf(target, valuesOfLayer(wanted), hessian, cols);
	assert(found < 0.99 * sweeps, `${found}, ${sweeps} after a sweep`);
});

Deno.test("tabu search takes more rows than a dispatch has workgroups", async () => {
	const problem = makeProblem({ rows: MAX_GROUPS + 5, cols: 3, blockSize: 32, hasSalient: false });
	using device = new OnGpu(gpu, problem);
	using residual = device.residual();
	await searchRows(
		gpu,
		rowSearchOf(gpu, device.bits),
		device.hessian,
		residual,
		device.quantized,
		2,
		0,
	);
	const { layer } = await device.read();
	const wanted = copyOf(problem.layer);
	const lanes = reducesInSubgroup(gpu) ? undefined : rowSearchShape(gpu, 3).lanes;
	tabuReference(wanted, problem.target, problem.hessian, 2, 0, lanes);
	assert(shareOfEqual(layer.codes, wanted.codes) > 0.999);
	assert(shareOfEqual(layer.codes.slice(-15), problem.layer.codes.slice(-15)) < 1);
});

Deno.test("the search suits adapters with little workgroup memory", async () => {
	const gpu = await openAsHardware();
	const { limits } = gpu.device;
	let memory = 0;
	const few = new Proxy(limits, {
		get: (all, name) =>
			name === "maxComputeWorkgroupStorageSize" ? memory : Reflect.get(all, name, all),
	});
	Object.defineProperty(gpu.device, "limits", { value: few });
	const problem = makeProblem({ rows: 9, cols: 256 + 31, blockSize: 256, hasSalient: true });
	const searched = [];
	// As much as usual; what all adapters have; too little for the levels of the blocks.
	for (memory of [limits.maxComputeWorkgroupStorageSize, 16384, 8 * 9 + 127]) {
		using device = new OnGpu(gpu, problem);
		using residual = device.residual();
		const { bits, quantized } = device;
		if (memory >= 16384) await sweepBlocks(gpu, device.hessian, residual, bits, quantized);
		const swept = (await device.read()).words;
		await searchRows(gpu, rowSearchOf(gpu, bits), device.hessian, residual, quantized, 20, 0);
		searched.push([swept, (await device.read()).words]);
	}
	const [usual, small, unstaged] = searched;
	assert.deepEqual(small, usual);
	const wanted = copyOf(problem.layer);
	const { lanes } = rowSearchShape(gpu, 287);
	tabuReference(wanted, problem.target, problem.hessian, 20, 0, lanes);
	using expected = new OnGpu(gpu, { ...problem, layer: wanted });
	assert.deepEqual(unstaged[1], (await expected.read()).words);
});

Deno.test("canSearch() is for two zones, and two planes of salient columns or none", () => {
	for (const zones of [1, 2] as const) {
		for (const planes of [0, 1, 2, 3, 4]) {
			const isSearched = zones === 2 && (planes === 0 || planes === 2);
			assert.equal(canSearch({ zones, planes }), isSearched);
		}
	}
});
