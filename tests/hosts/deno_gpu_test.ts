import assert from "node:assert/strict";
import type { Gpu } from "~/gpu/device.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";

/** Runs some work with a value of `BILLM_BINDING`. */
async function withBinding<Result>(value: string, work: () => Promise<Result>): Promise<Result> {
	Deno.env.set("BILLM_BINDING", value);
	try {
		return await work();
	} finally {
		Deno.env.delete("BILLM_BINDING");
	}
}

for (
	const value of ["0", "1", "100", "255", "-1024", "1000.5", "1MB", "many", " ", "1e400", "NaN"]
) {
	Deno.test(`BILLM_BINDING=${value} is refused`, async () => {
		await assert.rejects(withBinding(value, openGpu), {
			name: "UserError",
			message: `BILLM_BINDING must be a whole number of bytes of at least 256, found "${value}"`,
		});
	});
}

Deno.test("BILLM_BINDING lowers the limit of a binding, to whole units of 256 bytes", async () => {
	await using usual = await openGpu();
	for (
		const [value, binding] of [
			["256", 256],
			["1000", 768],
			["65536", 65536],
			["", usual.maxBinding],
			[String(2 ** 52), usual.maxBinding],
		] as const
	) {
		await using gpu = await withBinding(value, openGpu);
		assert.equal(gpu.maxBinding, binding, value);
		const values = Uint32Array.from({ length: 500 }, (_, i) => i);
		using tensor = gpu.upload(values, [500]);
		assert.deepEqual(await gpu.read(tensor, "u32"), values);
	}
});

const DOUBLE = {
	name: "double_for_this_test",
	source: `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] *= 2; }`,
};

/** Doubles numbers with a kernel. */
async function double(gpu: Gpu, values: Float32Array): Promise<Float32Array> {
	using x = gpu.upload(values, [values.length]);
	const kernel = await gpu.kernel(DOUBLE);
	kernel.dispatch({ tensors: [x], workgroups: 1 });
	return await gpu.read(x);
}

Deno.test("a device serves the next Gpu, with its kernels and nothing else", async () => {
	const values = Float32Array.of(1, 2, 3, 4);
	const first = await openGpu();
	const { device } = first;
	first.upload(values, [4]); // is not freed
	await double(first, values);
	await using other = await openGpu();
	assert.notEqual(other.device, device, "it is in use");
	await first[Symbol.asyncDispose]();
	await first[Symbol.asyncDispose](); // once is enough

	device.createComputePipeline = () => assert.fail("it is compiled already");
	const second = await openGpu();
	assert.equal(second.device, device);
	assert.deepEqual(second.memory, { current: 0, pooled: 0, peak: 0 });
	assert.deepEqual([...await double(second, values)], [2, 4, 6, 8]);
	device.createBuffer({ size: 4, usage: 0xffff }); // is invalid
	await assert.rejects(second[Symbol.asyncDispose](), /^Error: WebGPU: /);
	await using third = await openGpu();
	assert.notEqual(third.device, device, "one with an error is not used again");
	for (let i = 0; i < 2; i++) {
		await assert.rejects(third.kernel({ name: `${i}`, source: "fn main( {" }), /Cannot compile/);
	}
});
