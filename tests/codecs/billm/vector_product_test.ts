import assert from "node:assert/strict";
import { canGroup, freeGroup, uploadGroup } from "~/codecs/billm/group.ts";
import { billmVectorProduct, multipliesVectors, shapeFor } from "~/codecs/billm/vector_product.ts";
import { billmVectorBytes, billmVectorKernel } from "~/codecs/billm/vector_product_source.ts";
import { freeBillm, uploadBillm } from "~/codecs/billm/tensors.ts";
import type { BillmLayout } from "~/codecs/billm/quantize_block.ts";
import { type VectorSource } from "~/codecs/codec.ts";
import { openAsHardware, openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { normals } from "../../reference/random.ts";
import { productReference, randomPacked } from "./random_packed.ts";

const gpu = await openAsHardware();
assert(gpu.subgroupSize >= 8, "the adapter has subgroups of one size");

/** Rows of each layer of a group, the layout that they share, and whether scales are codes. */
type Case = [rows: number[], layout: Omit<BillmLayout, "rows">, coded: boolean, share: number];

const CASES: Case[] = [
	[[64, 40, 300], { cols: 256, blockSize: 128, zones: 2, planes: 2 }, true, 0.1],
	[[100], { cols: 700, blockSize: 128, zones: 2, planes: 2 }, false, 0.2],
	[[33, 20], { cols: 129, blockSize: 256, zones: 2, planes: 3 }, true, 0.4],
	[[1], { cols: 1, blockSize: 128, zones: 2, planes: 2 }, true, 1],
	[[70], { cols: 1290, blockSize: 128, zones: 1, planes: 2 }, true, 1],
	[[70], { cols: 1290, blockSize: 384, zones: 1, planes: 0 }, false, 0],
	[[129], { cols: 2500, blockSize: 128, zones: 2, planes: 1 }, false, 0.05],
	[[95], { cols: 700, blockSize: 128, zones: 1, planes: 4 }, true, 0.3],
];

/** Rows of three layers for which a workgroup takes three steps, and ends in the middle at a layer's end. */
function rowsOfThreeSteps(lanes: number): number[] {
	const step = 132 * lanes;
	return [step + 77, 200, step + 5];
}

/** What {@link agree} multiplies: x itself, with what is added to the product, or what it makes of x. */
const INPUTS = ["plain", "bias", "residual", "rms", "activation", "gated"] as const;
type Input = typeof INPUTS[number];

/** Multiplies as `adapter` would, on {@link gpu}, and compares with the reference. */
async function agree(
	adapter: typeof gpu,
	[rows, layout, coded, share]: Case,
	inputs: readonly Input[] = INPUTS,
): Promise<void> {
	const { cols } = layout;
	const layers = rows.map((rows, i) =>
		randomPacked({ ...layout, rows } as BillmLayout, 10 * cols + i, { coded, share })
	);
	const before = gpu.memory.current;
	const group = await uploadGroup(gpu, layers.map(({ host }) => host));
	const x = normals(cols, 5);
	const weight = normals(cols, 6);
	const up = Math.ceil(cols / 64) * 64;
	const both = new Float32Array(up + cols);
	both.set(normals(cols, 7));
	both.set(normals(cols, 8), up);
	const bias = normals(group.rows, 9);
	const residual = normals(group.rows, 10);

	const check = async (
		input: Float32Array,
		effective: Float64Array,
		error: number,
		source?: VectorSource,
		{ bias, residual }: { bias?: Float32Array; residual?: Float32Array } = {},
	) => {
		using xs = gpu.upload(input, [1, input.length]);
		using biases = bias && gpu.upload(bias, [1, group.rows]);
		using residuals = residual && gpu.upload(residual, [1, group.rows]);
		const addends = { bias: biases, residual: residuals };
		using y = await billmVectorProduct(adapter, xs, group, { source, ...addends });
		const actual = await gpu.read(y);
		for (const [i, { weight }] of layers.entries()) {
			const { sums, magnitudes } = productReference(Float32Array.from(effective), weight, cols);
			for (let row = 0; row < rows[i]; row++) {
				const at = group.starts[i] + row;
				const [b, r] = [bias?.[at] ?? 0, residual?.[at] ?? 0];
				const expected = sums[row] + b + r;
				const allowed = error * (magnitudes[row] + Math.abs(b) + Math.abs(r));
				assert(
					Math.abs(actual[at] - expected) <= allowed,
					`${actual[at]} in row ${row} of layer ${i}, expected ${expected} within ${allowed}`,
				);
			}
		}
	};

	const plain = Float64Array.from(x);
	if (inputs.includes("plain")) await check(x, plain, 2e-6);
	if (inputs.includes("bias")) await check(x, plain, 2e-6, undefined, { bias });
	if (inputs.includes("residual")) await check(x, plain, 2e-6, undefined, { residual });
	const norm = gpu.upload(weight, [cols]);
	const squares = x.reduce((sum, value) => sum + value * value, 0);
	const rms = Math.sqrt(squares / cols + 1e-5);
	const normed = Float64Array.from(x, (value, i) => value * weight[i] / rms);
	const rmsSource = { op: "rms", weight: norm, epsilon: 1e-5 } as const;
	if (inputs.includes("rms")) await check(x, normed, 3e-6, rmsSource, { bias, residual });
	const relu = { op: "activation", name: "relu" } as const;
	const positive = Float64Array.from(x, (value) => Math.max(value, 0));
	if (inputs.includes("activation")) await check(x, positive, 2e-6, relu);
	const gated = Float64Array.from(
		{ length: cols },
		(_, i) => both[i] / (1 + Math.exp(-both[i])) * both[up + i],
	);
	const silu = { op: "activation", name: "silu", up } as const;
	if (inputs.includes("gated")) await check(both, gated, 3e-6, silu, { bias, residual });

	freeGroup(gpu, group);
	gpu.free(norm);
	assert.equal(gpu.memory.current, before);
}

/** {@link gpu} as another adapter, whose kernels `rewrite` makes fit for it, and their names. */
function asAdapter(
	lanes: number,
	workgroupBytes: number,
	rewrite: (source: string) => string,
): { adapter: typeof gpu; names: Set<string> } {
	const names = new Set<string>();
	const limits = {
		maxComputeInvocationsPerWorkgroup: 1024,
		maxComputeWorkgroupStorageSize: workgroupBytes,
	};
	const kernel: typeof gpu.kernel = ({ name, source, constants }) => {
		names.add(name);
		return gpu.kernel({
			name: `${name}_${lanes}_threads`,
			source: () => rewrite((source as () => string)()),
			constants,
		});
	};
	const other = { subgroupSize: lanes, subgroupBarriers: false, device: { limits }, kernel };
	const adapter = new Proxy(gpu, {
		get(target, name) {
			if (Object.hasOwn(other, name)) return other[name as keyof typeof other];
			const value = target[name as keyof typeof gpu];
			return typeof value === "function" ? value.bind(target) : value;
		},
	});
	return { adapter, names };
}

/** A kernel of subgroups of `lanes` threads for an adapter without any: registers become memory. */
function withoutSubgroups(source: string, lanes: number): string {
	const splits = Number(source.match(/@workgroup_size\((\d+)\)/)![1]) / lanes;
	const tables = source.match(/var t\d+: f32;/g)!.length;
	const publish = Array.from({ length: tables }, (_, t) => `shared_t[split][${t}][lane] = t${t};`);
	const sum = (type: string) =>
		`fn sum_${type}(split: u32, lane: u32, x: ${type}) -> ${type} {
  workgroupBarrier();
  shared_${type}[split][lane] = x;
  workgroupBarrier();
  var sum = ${type}(0);
  for (var i = 0u; i < ${lanes}u; i++) { sum += shared_${type}[split][i]; }
  return sum;
}
var<workgroup> shared_${type}: array<array<${type}, ${lanes}>, ${splits}>;
`;
	const rewritten = source
		.replace("var at = lane;", (text) => `${publish.join(" ")} workgroupBarrier(); ${text}`)
		.replaceAll(/subgroupShuffle\(t(\d+), /g, "table(split, $1u, ")
		.replace(/let marked_count = subgroupAdd\(/, "let marked_count = sum_u32(split, lane, ")
		.replaceAll("subgroupAdd(", "sum_f32(split, lane, ");
	assert(!/subgroup[A-Z]/.test(rewritten));
	return `${sum("u32")}${sum("f32")}
var<workgroup> shared_t: array<array<array<f32, ${lanes}>, ${tables}>, ${splits}>;
fn table(split: u32, t: u32, i: u32) -> f32 {
  return select(1e30, shared_t[split][t][min(i, ${lanes - 1}u)], i < ${lanes}u);
}
${rewritten}`;
}

for (const [i, example] of CASES.entries()) {
	const [rows, { cols, blockSize, zones, planes }, coded] = example;
	const what =
		`${rows.join(", ")} rows, ${cols} columns in blocks of ${blockSize}, ${zones} zones, ` +
		`${planes} planes${coded ? ", codes" : ""}`;
	// Each input is a kernel of its own, alike for all forms: the first case has all of them.
	const inputs = i === 0 ? INPUTS : [INPUTS[i % 3], INPUTS[3 + i % 3]];
	Deno.test(`billmVectorProduct() agrees with the reference: ${what}`, async () => {
		await agree(gpu, example, inputs);
	});
}

for (const lanes of new Set([gpu.subgroupSize, 32, 64])) {
	const isNative = lanes === gpu.subgroupSize;
	const how = isNative ? "barriers of whole workgroups" : "emulated";
	Deno.test(`subgroups of ${lanes} threads, ${how}, agree with the reference`, async () => {
		const { adapter, names } = asAdapter(
			lanes,
			14000,
			isNative ? (source) => source : (source) => withoutSubgroups(source, lanes),
		);
		const layout = { cols: 1000, blockSize: 256, zones: 2, planes: 3 } as const;
		const inputs = isNative ? INPUTS : ["residual", lanes === 32 ? "rms" : "gated"] as const;
		await agree(adapter, [rowsOfThreeSteps(lanes), layout, true, 0.2], inputs);
		assert(
			[...names].every((name) => /_2_\dx3_turns_/.test(name)),
			`three steps and more units than subgroups, found ${[...names]}`,
		);
		const small = { cols: 129, blockSize: 128, zones: 1, planes: 1 } as const;
		await agree(adapter, [[33], small, false, 0.2], ["activation"]);
	});
}

Deno.test("a workgroup keeps its tables for several steps of rows where there are many", async () => {
	const layout = { rows: 16390, cols: 140, blockSize: 128, zones: 2, planes: 2 } as const;
	const { host, weight } = randomPacked(layout, 3);
	const group = await uploadGroup(gpu, [host]);
	const names = watchKernels(gpu);
	const x = normals(layout.cols, 4);
	using xs = gpu.upload(x, [1, layout.cols]);
	using y = await billmVectorProduct(gpu, xs, group);
	assert.deepEqual([...names], ["packed_vector_2_2_f16_1_2x2_plain"]);
	const actual = await gpu.read(y);
	const { sums, magnitudes } = productReference(x, weight, layout.cols);
	sums.forEach((sum, i) => assert(Math.abs(actual[i] - sum) <= 2e-6 * magnitudes[i]));
	freeGroup(gpu, group);
});

Deno.test("shapeFor() shares rows and columns as the adapter allows", () => {
	const shapeOf = (rows: number, cols: number, threads = 1024, bytes = 49152, lanes = 32) => {
		const limits = {
			maxComputeInvocationsPerWorkgroup: threads,
			maxComputeWorkgroupStorageSize: bytes,
		} as GPUSupportedLimits;
		const adapter = { subgroupSize: lanes, subgroupBarriers: true, device: { limits } };
		const shape = shapeFor(adapter as unknown as typeof gpu, rows, Math.ceil(cols / 128));
		assert(shape.splits * lanes <= threads && billmVectorBytes(shape) <= bytes);
		const { splits, steps, turns } = shape;
		return `${splits}x${steps}${turns ? " turns" : ""}`;
	};
	assert.equal(shapeOf(4096, 4096), "16x1 turns");
	assert.equal(shapeOf(22016, 4096), "16x6 turns");
	assert.equal(shapeOf(32000, 4096), "16x8 turns");
	assert.equal(shapeOf(4096, 11008), "22x1 turns");
	assert.equal(shapeOf(128256, 4096), "16x8 turns", "as much as the memory holds");
	assert.equal(shapeOf(4096, 1024), "8x1");
	assert.equal(shapeOf(4096, 4096, 256, 16384), "8x1 turns");
	assert.equal(shapeOf(32000, 128, 256, 16384), "1x1");
	assert.equal(
		shapeOf(22016, 4096, 1024, 32768),
		"11x6 turns",
		"tables that serve one step cost more",
	);
	assert.equal(shapeOf(4096, 4096, 256, 16384, 64), "4x1 turns");
});

Deno.test("the layers of a group are packed weights of their own", async () => {
	const layers = [40, 200].map((rows, i) =>
		randomPacked({ rows, cols: 300, blockSize: 128, zones: 2, planes: 2 }, i, { coded: true }).host
	);
	const group = await uploadGroup(gpu, layers);
	for (const [i, host] of layers.entries()) {
		const alone = await uploadBillm(gpu, host);
		for (const part of ["bits", "salient", "order", "scales", "factors"] as const) {
			const [expected, actual] = [alone[part]!, group.weights[i][part]!];
			assert.deepEqual(actual.shape, expected.shape);
			assert.deepEqual(await gpu.readBytes(actual), await gpu.readBytes(expected), part);
		}
		freeBillm(gpu, alone);
	}
	freeGroup(gpu, group);
});

Deno.test("canGroup() and multipliesVectors() say what goes together", async () => {
	const layout = { rows: 8, cols: 256, blockSize: 128, zones: 2, planes: 2 } as const;
	const { host } = randomPacked(layout, 1);
	assert(canGroup([host, { ...host, rows: 4 }]));
	assert(!canGroup([host, host, host, host]));
	assert(!canGroup([host, { ...host, cols: 255 }]));
	assert(!canGroup([host, { ...host, zones: 1 }]));
	assert(!canGroup([host, randomPacked(layout, 1, { coded: true }).host]));
	assert(multipliesVectors(gpu, layout.blockSize));
	assert(multipliesVectors(await openGpu(), layout.blockSize), "a software adapter too");
	for (const [lanes, suits] of [[0, false], [4, false], [8, true], [64, true], [128, false]]) {
		const adapter = { subgroupSize: lanes } as typeof gpu;
		assert.equal(multipliesVectors(adapter, layout.blockSize), suits, `${lanes} threads`);
	}
	assert(!multipliesVectors(gpu, 96));
	const group = await uploadGroup(gpu, [host]);
	using x = gpu.zeros([1, 255]);
	await assert.rejects(
		() => billmVectorProduct(gpu, x, group),
		new RangeError("Cannot multiply [1, 255] with packed weights of [8, 256]"),
	);
	freeGroup(gpu, group);
});

Deno.test("the kernel for subgroups of 32 threads looks five columns up at a time", () => {
	const form = { zones: 2, planes: 2, coded: true, mixed: false } as const;
	const shape = { lanes: 32, splits: 4, steps: 2, turns: false, subgroupBarriers: false };
	const source = billmVectorKernel(form, shape, "plain", 1);
	assert(source.includes("@workgroup_size(128)"));
	for (const sum of ["plus", "high", "both", "marked0", "marked1"]) {
		assert.equal(source.split(`${sum} += subgroupShuffle`).length - 1, 26, sum);
	}
	assert.equal(source.match(/workgroupBarrier/g)!.length, 3);
	const barriers = billmVectorKernel(form, { ...shape, subgroupBarriers: true }, "plain", 1);
	assert.equal(barriers.match(/workgroupBarrier/g)!.length, 1);
	assert.equal(billmVectorBytes(shape), 4 * 4 * (140 + 12 * 28 + 64 + 1));
});
