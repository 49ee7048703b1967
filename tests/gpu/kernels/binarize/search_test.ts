import assert from "node:assert/strict";
import { uniform } from "~/gpu/kernel.ts";
import salientSearchSource from "~/gpu/kernels/binarize/salient_search.wgsl" with {
	type: "text",
};
import {
	bestCandidate,
	columnOrder,
	markColumns,
	saliency,
	type SaliencyMetric,
	searchGrid,
	type SearchShape,
	selectSalientColumns,
	splitZones,
} from "~/gpu/kernels/binarize/search.ts";
import splitSearchSource from "~/gpu/kernels/binarize/split_search.wgsl" with {
	type: "text",
};
import type { Tensor } from "~/gpu/tensor.ts";
import { assertClose } from "../../../assert_close.ts";
import {
	columnSaliency,
	quantilesReference,
	salientErrors,
	splitErrors,
} from "../../../reference/billm.ts";
import { normals, seededRandom, uniforms } from "../../../reference/random.ts";
import { hardware } from "../../devices.ts";
import { gpu } from "../../gpu.ts";

// Rows on both sides of a part (16 or 32), columns of the vec4 and of a word.
const SHAPES = [
	[1, 2],
	[1, 128],
	[3, 5],
	[4, 31],
	[5, 32],
	[17, 33],
	[7, 63],
	[8, 64],
	[9, 65],
	[37, 100],
	[33, 128],
	[6, 129],
	[13, 255],
	[5, 256],
	[4099, 6],
];

/**
 * Weights of a block: some columns far larger than the others, one dead, one row of zeros and one
 * constant.
 */
function makeBlock(rows: number, cols: number, heavy: number) {
	const weight = normals(rows * cols, rows * 1000 + cols);
	const random = seededRandom(cols);
	const order = Array.from({ length: cols }, (_, c) => c).sort(() => random() - 0.5);
	for (const c of order.slice(0, heavy)) {
		for (let r = 0; r < rows; r++) weight[r * cols + c] *= 8;
	}
	if (cols > 3) { for (let r = 0; r < rows; r++) weight[r * cols + order[cols - 1]] = 0; }
	if (rows > 2) weight.fill(0, cols, 2 * cols).fill(0.5, 2 * cols, 3 * cols);
	return { weight, cost: uniforms(cols, cols + 1, 0.1, 2) };
}

/** The candidate taken must be as good as the best, to the accuracy of sums in f32. */
function assertAsGood(errors: number[], taken: number, what: string): void {
	const best = Math.min(...errors);
	const message = `${what}: candidate ${taken} has error ${errors[taken]}, the best has ${best}`;
	assert(errors[taken] <= best * (1 + 1e-5) + 1e-9, message);
}

const CASES = [
	...SHAPES.map(([rows, cols]) => ({ gpu, suits: "", rows, cols })),
	...[[3, 5], [33, 128], [130, 33], [13, 255], [5, 256], [4099, 6]].map(([rows, cols]) => ({
		gpu: hardware,
		suits: ", as on a GPU",
		rows,
		cols,
	})),
];

for (const { gpu, suits, rows, cols } of CASES) {
	Deno.test(`saliency() is w² · cost on [${rows}, ${cols}]${suits}`, async () => {
		const { weight, cost } = makeBlock(rows, cols, 2);
		using weightTensor = gpu.upload(weight, [rows, cols]);
		using costTensor = gpu.upload(cost, [cols]);
		using out = await saliency(gpu, weightTensor, costTensor);
		const expected = Array.from(weight, (w, i) => w * w * cost[i % cols]);
		assertClose(await gpu.read(out), expected, { rel: 2e-7 }); // two roundings
	});

	for (const metric of ["hessian", "magnitude"] as SaliencyMetric[]) {
		Deno.test(`columnOrder() by ${metric} sorts the columns of [${rows}, ${cols}]${suits}`, async () => {
			const { weight, cost } = makeBlock(rows, cols, 2);
			if (cols > 4) {
				// Two equal columns, and a second one of zeros: ties keep the order of the columns.
				for (let r = 0; r < rows; r++) weight[r * cols + 4] = weight[r * cols + 1];
				for (let r = 0; r < rows; r++) weight[r * cols + 2] = 0;
				cost[4] = cost[1];
			}
			using weightTensor = gpu.upload(weight, [rows, cols]);
			using costTensor = gpu.upload(cost, [cols]);
			using out = await columnOrder(gpu, weightTensor, costTensor, metric);
			const order = [...await gpu.read(out, "u32")];
			assert.deepEqual(order.toSorted((a, b) => a - b), order.map((_, c) => c), "a permutation");
			const sums = columnSaliency(weight, cols, metric === "hessian" ? cost : undefined);
			for (let k = 1; k < cols; k++) {
				const [before, after] = [order[k - 1], order[k]];
				const message = `columns ${before} and ${after}: ${sums[before]} before ${sums[after]}`;
				if (sums[before] === sums[after]) assert(before < after, message);
				else assert(sums[before] >= sums[after] * (1 - 1e-5), message); // f32 sums of up to 4099
			}
		});
	}

	for (const [maxColumns, heavy] of [[49, 7], [1, 0], [128, 40]]) {
		Deno.test(`selectSalientColumns() of at most ${maxColumns} finds the best of [${rows}, ${cols}]${suits}`, async () => {
			const { weight, cost } = makeBlock(rows, cols, Math.min(heavy, cols - 1));
			const sums = columnSaliency(weight, cols, cost);
			const order = sums.map((_, c) => c).sort((a, b) => sums[b] - sums[a]);
			using values = gpu.upload(weight, [rows, cols]);
			using orderTensor = gpu.upload(Uint32Array.from(order), [cols]);
			using costTensor = gpu.upload(cost, [cols]);
			using out = await selectSalientColumns(gpu, values, orderTensor, costTensor, maxColumns);
			const salient = await gpu.read(out, "u32");
			const count = salient.filter((flag) => flag === 1).length;
			const expected = Uint32Array.from(salient, () => 0);
			for (const c of order.slice(0, count)) expected[c] = 1;
			assert.deepEqual(salient, expected, "the first columns of the order");
			const errors = salientErrors(weight, cols, order, cost, Math.min(maxColumns, cols - 1));
			assertAsGood(errors, count - 1, "salient columns");
		});
	}

	Deno.test(`splitZones() finds the best threshold for [${rows}, ${cols}]${suits}`, async () => {
		const { weight, cost } = makeBlock(rows, cols, 2);
		const sums = columnSaliency(weight, cols, cost);
		const order = sums.map((_, c) => c).sort((a, b) => sums[b] - sums[a]);
		const ladder = Array.from({ length: 81 }, (_, i) => 0.1 + i / 100);
		for (const salientColumns of [0, Math.floor(cols / 4), cols - 1, cols]) {
			const salient = new Uint32Array(cols);
			for (const c of order.slice(0, salientColumns)) salient[c] = 1;
			const quantiles = quantilesReference(weight, cols, salient, ladder);
			// Also thresholds with nothing below, with nothing above, and a single one.
			for (const thresholds of [quantiles, [0, 0.3, 1, 1e9], [0.7], [1e9]]) {
				const limits = Float32Array.from(thresholds);
				using values = gpu.upload(weight, [rows, cols]);
				using salientTensor = gpu.upload(salient, [cols]);
				using costTensor = gpu.upload(cost, [cols]);
				using limitTensor = gpu.upload(limits, [limits.length]);
				using out = await splitZones(gpu, values, salientTensor, costTensor, limitTensor);
				const zones = await gpu.read(out, "u32");
				const words = Math.ceil(cols / 32);
				const zonesAt = (limit: number) => {
					const bits = new Uint32Array(rows * words);
					weight.forEach((w, i) => {
						const [r, c] = [Math.floor(i / cols), i % cols];
						if (!salient[c] && Math.abs(w) >= limit) {
							bits[r * words + Math.floor(c / 32)] |= 1 << (c % 32);
						}
					});
					return bits;
				};
				const taken = [...limits].findIndex((limit) =>
					zonesAt(limit).every((word, i) => word === zones[i])
				);
				assert(taken >= 0, "the zones are those of one of the thresholds");
				const errors = splitErrors(weight, cols, salient, cost, [...limits]);
				assertAsGood(errors, taken, `${salientColumns} salient columns`);
			}
		}
	});
}

/** Candidates one after the other, side by side, and both. */
const SEARCH_SHAPES: SearchShape[] = [
	{ ROWS: 4, SLOTS: 1, QUADS: 32 },
	{ ROWS: 4, SLOTS: 1, QUADS: 3 },
	{ ROWS: 8, SLOTS: 4, QUADS: 1 },
	{ ROWS: 4, SLOTS: 2, QUADS: 2 },
];

/** The errors of all candidates, summed over the parts. */
async function searchErrors(
	kernel: { name: string; source: string },
	tensors: Tensor[],
	[rows, cols, candidates]: number[],
	shape: SearchShape,
): Promise<number[]> {
	const { constants, workgroups } = searchGrid(shape, rows, cols, candidates);
	const search = await gpu.kernel({ ...kernel, constants });
	using error = gpu.empty([workgroups[0], candidates]);
	search.dispatch({
		params: uniform([rows, cols, candidates]),
		tensors: [...tensors, error],
		workgroups,
	});
	const sums = new Array<number>(candidates).fill(0);
	(await gpu.read(error)).forEach((value, i) => sums[i % candidates] += value);
	return sums;
}

for (const [rows, cols, candidates] of [[1, 4, 3], [4, 33, 32], [9, 63, 33], [6, 256, 128]]) {
	Deno.test(`salient_search gives the error of each of ${candidates} candidates for [${rows}, ${cols}]`, async () => {
		const { weight, cost } = makeBlock(rows, cols, 2);
		weight.set([-1, 0, 1]); // in the third candidate of row 0 a weight is its mean: sign(0) = +1
		const order = Array.from({ length: cols }, (_, c) => c);
		if (cols > 4) order.push(order.splice(3, 1)[0]);
		using values = gpu.upload(weight, [rows, cols]);
		using orderTensor = gpu.upload(Uint32Array.from(order), [cols]);
		using costTensor = gpu.upload(cost, [cols]);
		const kernel = { name: "salient_search", source: salientSearchSource };
		const tensors = [values, orderTensor, costTensor];
		const expected = salientErrors(weight, cols, order, cost, candidates);
		for (const shape of SEARCH_SHAPES) {
			const actual = await searchErrors(kernel, tensors, [rows, cols, candidates], shape);
			assertClose(actual, expected, { abs: 1e-6, rel: 1e-5 }); // f32 sums of up to 1536 terms
		}
	});

	Deno.test(`split_search gives the error of each of ${candidates} thresholds for [${rows}, ${cols}]`, async () => {
		const { weight, cost } = makeBlock(rows, cols, 2);
		const salient = Uint32Array.from({ length: cols }, (_, c) => Number(c % 5 === 3));
		const thresholds = uniforms(candidates, 1, 0, 3).sort();
		thresholds[1] = Math.abs(weight[0]); // a weight on the threshold is in the high zone
		using values = gpu.upload(weight, [rows, cols]);
		using salientTensor = gpu.upload(salient, [cols]);
		using costTensor = gpu.upload(cost, [cols]);
		using thresholdTensor = gpu.upload(thresholds, [candidates]);
		const kernel = { name: "split_search", source: splitSearchSource };
		const tensors = [values, salientTensor, costTensor, thresholdTensor];
		const expected = splitErrors(weight, cols, salient, cost, [...thresholds]);
		for (const shape of SEARCH_SHAPES) {
			const actual = await searchErrors(kernel, tensors, [rows, cols, candidates], shape);
			assertClose(actual, expected, { abs: 1e-6, rel: 1e-5 }); // f32 sums of up to 1536 terms
		}
	});
}

Deno.test("markColumns() marks the first columns of an order", async () => {
	for (const [cols, counts] of [[256, [1, 8, 64, 128]], [45, [1, 44]], [1, [0]]] as const) {
		const random = seededRandom(cols);
		const order = Array.from({ length: cols }, (_, c) => c).sort(() => random() - 0.5);
		for (const device of [gpu, hardware]) {
			using tensor = device.upload(Uint32Array.from(order), [cols]);
			for (const count of counts) {
				using marks = await markColumns(device, tensor, count);
				const expected = Uint32Array.from(order, (_, c) => Number(order.indexOf(c) < count));
				assert.deepEqual(await device.read(marks, "u32"), expected, `${count} of ${cols}`);
			}
		}
	}
});

Deno.test("selectSalientColumns() marks nothing in a block of one column", async () => {
	using values = gpu.upload(Float32Array.of(1, 2, 3), [3, 1]);
	using order = gpu.upload(Uint32Array.of(0), [1]);
	using cost = gpu.upload(Float32Array.of(1), [1]);
	using out = await selectSalientColumns(gpu, values, order, cost, 49);
	assert.deepEqual([...await gpu.read(out, "u32")], [0]);
});

Deno.test("saliency() reaches beyond the 65535 workgroups of one dimension", async () => {
	const [rows, cols] = [16384, 257];
	const values = Float32Array.from({ length: rows * cols }, (_, i) => i % 101 - 50);
	using weight = gpu.upload(values, [rows, cols]);
	using cost = gpu.upload(new Float32Array(cols).fill(2), [cols]);
	using out = await saliency(gpu, weight, cost);
	const actual = await gpu.read(out);
	assert.equal(actual.findIndex((value, i) => value !== 2 * values[i] ** 2), -1);
});

for (
	const { name, errors, best } of [
		{ name: "adds up the parts", errors: [[3, 1, 4], [1, 5, 1]], best: 0 },
		{ name: "takes the first of equals", errors: [[3, 2, 2, 5]], best: 1 },
		{ name: "takes the last", errors: [Array.from({ length: 128 }, (_, i) => 200 - i)], best: 127 },
		{ name: "passes over NaN and infinity", errors: [[NaN, Infinity, 3, NaN]], best: 2 },
		{ name: "takes zero for less than anything", errors: [[1e-30, 0, 1]], best: 1 },
	]
) {
	Deno.test(`best_candidate ${name}`, async () => {
		const shape = [errors.length, errors[0].length];
		using error = gpu.upload(Float32Array.from(errors.flat()), shape);
		using out = await bestCandidate(gpu, error);
		assert.deepEqual([...await gpu.read(out, "u32")], [best]);
	});
}
