import assert from "node:assert/strict";
import { type KernelSource, needsOf } from "~/gpu/kernel.ts";
import { gemm } from "~/gpu/kernels/matmul/gemm.ts";
import { splitBindings } from "~/gpu/panels.ts";
import { seededRandom } from "../reference/random.ts";
import { KERNEL_TEXTS } from "./kernel_texts.ts";
import { openGpu } from "./open_gpu.ts";

const gpu = await openGpu();

/** Bindings of 256 bytes, buffers of three bindings. */
const small = await openGpu({ limits: { binding: 256, buffer: 768 } });

const storagesIn = (text: string) => [...text.matchAll(/var<storage/g)].length;

/** Kernels with packed planes or pairs as elements, which panels might cut, or with a lone counter. */
const REFUSED = ["billmVectorKernel", "kl_divergence.wgsl", "narrow.wgsl", "non_finite.wgsl"];
/** Texts of each generator that are tried. */
const PER_FAMILY = 4;

Deno.test("every kernel is valid WGSL with its arrays in panels", async () => {
	const has = {
		"subgroups": gpu.subgroupSize > 0,
		"subgroup barriers": gpu.subgroupBarriers,
		"f64": gpu.f64,
		"f16": gpu.matrices,
		"subgroup matrices": gpu.matrices,
	};
	const refused = new Set<string>();
	const tried = new Map<string, number>();
	for (const [name, text] of KERNEL_TEXTS) {
		const family = name.replace(/,? .*|,$/, "");
		const before = tried.get(family) ?? 0;
		const needs = needsOf(text);
		if (before === PER_FAMILY || !needs.every((need) => has[need])) continue;
		tried.set(family, before + 1);
		const split = splitBindings(text, new Array(storagesIn(text)).fill(2 + before % 2));
		if (!split) {
			refused.add(family);
			continue;
		}
		gpu.device.pushErrorScope("validation");
		gpu.device.createShaderModule({ code: (gpu.host.prelude?.(needs) ?? "") + split.source });
		assert.equal((await gpu.device.popErrorScope())?.message, undefined, name);
	}
	assert.deepEqual([...refused].sort(), REFUSED);
});

Deno.test("arrays of one panel stay as they are, and bindings keep their order", () => {
	const text = `
    @group(0) @binding(0) var<uniform> n: u32;
    @group(0) @binding(2) var<storage, read_write> y: array<f32>;
    @group(0) @binding(1) var<storage, read> x: array<f32>; // x[0] of a comment
    fn main() { y[1] = x[0]; }`;
	const { source, bindings } = splitBindings(text, [3, 1])!;
	assert.deepEqual(bindings, [[1, 3, 4], [2]]);
	assert.match(source, /y\[1\] = x_element\(u32\(0\)\);/);
	assert.match(source, /@binding\(2\) var<storage, read_write> y: array<f32>;/);
});

Deno.test("a text that takes the address of an element is refused", () => {
	const text = `
    @group(0) @binding(0) var<storage, read_write> y: array<f32>;
    fn main() { let p = &y[1]; }`;
	assert.throws(() => splitBindings(text, [2]), /"y" cannot be split: its address is taken/);
});

/** Every form of access: reads in indices, members, all assignments, lengths, atomic operations. */
const FORMS: KernelSource = {
	name: "forms",
	source: `
    @group(0) @binding(0) var<storage, read> order: array<u32>;
    @group(0) @binding(1) var<storage, read_write> values: array<vec4f>;
    @group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;
    @group(0) @binding(3) var<storage, read_write> lengths: array<u32>;
    @compute @workgroup_size(1) fn main() {
      let n = arrayLength(&order);
      for (var i = 0u; i < n; i++) {
        let place = i;
        values[order[order[place]]].y += f32(order[i] & order[n - 1u - i]);
        values[i] = values[i] * 2.0 + vec4f(values[order[i]].x);
        if (values[i].z == values[i].w) { values[i].z = 5.0; }
        atomicAdd(&counts[order[i] / 2u], 3u + order[i]);
        if (atomicLoad(&counts[i]) > 4u) { atomicStore(&counts[i], atomicMax(&counts[n - 1u], i)); }
        lengths[i] += n; lengths[i]++;
      }
    }`,
};

async function runForms(device: typeof gpu, count: number) {
	const random = seededRandom(3);
	const order = Uint32Array.from({ length: count }, () => Math.floor(random() * count));
	const numbers = Float32Array.from({ length: 4 * count }, () => random());
	using a = device.upload(order, [count]);
	using b = device.upload(numbers, [count, 4]);
	using c = device.zeros([count], "u32");
	using d = device.zeros([count], "u32");
	const kernel = await device.kernel(FORMS);
	kernel.dispatch({ tensors: [a, b, c, d], workgroups: 1 });
	return [await device.read(b), await device.read(c, "u32"), await device.read(d, "u32")];
}

for (const count of [16, 64, 100]) {
	Deno.test(`a kernel with ${count} elements in panels gives the same bits`, async () => {
		assert.deepEqual(await runForms(small, count), await runForms(gpu, count));
	});
}

Deno.test("a product of tensors in panels gives the same bits", async () => {
	const [m, n, k] = [160, 130, 36];
	await using medium = await openGpu({ limits: { binding: 65536 } });
	const product = async (device: typeof gpu) => {
		const random = seededRandom(4);
		const matrix = (rows: number, cols: number) =>
			device.upload(Float32Array.from({ length: rows * cols }, () => random() - 0.5), [rows, cols]);
		using a = matrix(m, k);
		using b = matrix(n, k);
		using c = matrix(m, n);
		await gemm(device, { layout: "NT", m, n, k, a, b, c, alpha: 0.5, accumulate: true });
		return await device.read(c);
	};
	assert.deepEqual(await product(medium), await product(gpu));
});

Deno.test("upload, read, copy, clear and views reach across buffers", async () => {
	const numbers = Float32Array.from({ length: 1000 }, (_, i) => i);
	using x = small.upload(numbers, [1000]);
	assert.equal(x.buffers.length, 6);
	assert.deepEqual(await small.read(x), numbers);
	using pieces = small.upload(chunks(numbers, 52), [1000], "f32");
	assert.deepEqual(await small.read(pieces), numbers);
	assert.deepEqual(await small.read(x.view(128, [512])), numbers.subarray(128, 640));
	using y = small.zeros([1000]);
	small.copy(x.view(64, [700]), y.view(256, [700]));
	const copied = new Float32Array(1000);
	copied.set(numbers.subarray(64, 764), 256);
	assert.deepEqual(await small.read(y), copied);
	small.clear(y.view(128, [300]));
	assert.deepEqual(await small.read(y), copied.fill(0, 128, 428));
});

function* chunks(values: Float32Array, bytes: number): Generator<Uint8Array> {
	const all = new Uint8Array(values.buffer);
	for (let i = 0; i < all.length; i += bytes) yield all.subarray(i, i + bytes);
}

Deno.test("freed buffers of a large tensor serve small ones", () => {
	const { current } = small.memory;
	const x = small.empty([1000]);
	assert.equal(small.memory.current - current, 4096);
	small.free(x);
	assert.equal(small.memory.current, current);
	using y = small.empty([192]);
	assert(x.buffers.includes(y.buffers[0]));
});
