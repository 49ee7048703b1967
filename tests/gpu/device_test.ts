import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { Gpu } from "~/gpu/device.ts";
import { Kernel, type KernelSource, uniform } from "~/gpu/kernel.ts";
import { activation } from "~/gpu/kernels/elementwise/activation.ts";
import { Readback } from "~/gpu/readback.ts";
import { Tensor } from "~/gpu/tensor.ts";
import { DENO_GPU } from "~/hosts/deno_gpu.ts";
import { assertClose } from "../assert_close.ts";
import { uniforms } from "../reference/random.ts";
import { openGpu } from "./open_gpu.ts";

const gpu = await openGpu();

/** x = 3 x + addend, so that the order of calls shows. */
const STEP: KernelSource = {
	name: "step",
	source: `
    struct Params { size: u32, addend: u32 }
    @group(0) @binding(0) var<uniform> p: Params;
    @group(0) @binding(1) var<storage, read_write> x: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
      let i = id.y * groups.x * 64 + id.x;
      if (i < p.size) { x[i] = 3 * x[i] + p.addend; }
    }`,
};

async function step(device: Gpu, x: Tensor, addend: number): Promise<void> {
	const kernel = await device.kernel(STEP);
	kernel.dispatch({
		params: uniform([x.size, addend]),
		tensors: [x],
		workgroups: Math.ceil(x.size / 64),
	});
}

const COPY: KernelSource = {
	name: "copy",
	source: `
    @group(0) @binding(1) var<storage, read> source: array<u32>;
    @group(0) @binding(3) var<storage, read_write> result: array<u32>;
    @compute @workgroup_size(1)
    fn main(@builtin(global_invocation_id) id: vec3u) { result[id.x] = source[id.x]; }`,
};

Deno.test("upload() and read() keep every dtype", async () => {
	using f32 = gpu.upload(Float32Array.of(1.5, -0, 3e-39, Infinity), [2, 2]);
	assert.deepEqual(await gpu.read(f32), Float32Array.of(1.5, -0, 3e-39, Infinity));
	using u32 = gpu.upload(Uint32Array.of(0, 0xffffffff), [2]);
	assert.deepEqual(await gpu.read(u32, "u32"), Uint32Array.of(0, 0xffffffff));
	using i32 = gpu.upload(Int32Array.of(-7), [1]);
	assert.deepEqual(new Int32Array((await gpu.readBytes(i32)).buffer), Int32Array.of(-7));
	assert.deepEqual([f32.dtype, u32.dtype, i32.dtype], ["f32", "u32", "i32"]);
	using f16 = gpu.upload(Uint16Array.of(0x3c00, 0x7fff, 0x8001), [3], "f16");
	assert.deepEqual([f16.size, f16.bytes], [3, 8]);
	const halves = new Uint16Array((await gpu.readBytes(f16)).buffer);
	assert.deepEqual(halves.subarray(0, 3), Uint16Array.of(0x3c00, 0x7fff, 0x8001));
});

Deno.test("upload() and read() pass on what is larger than their pieces", async () => {
	const size = 2 * (1 << 20) + 5; // 8 MiB and a little; the pieces have 4 MiB
	const data = Uint32Array.from({ length: size }, (_, i) => Math.imul(i, 2654435761));
	using tensor = gpu.upload(data, [size]);
	assert(Buffer.compare(await gpu.readBytes(tensor), new Uint8Array(data.buffer)) === 0);
});

Deno.test("upload() takes a part of a host array", async () => {
	const data = Float32Array.of(1, 2, 3, 4, 5);
	using tensor = gpu.upload(data.subarray(1, 3), [2]);
	assertClose(await gpu.read(tensor), [2, 3]);
});

Deno.test("upload() takes data piece by piece, from one buffer", async () => {
	const data = Uint8Array.from({ length: 14 }, (_, i) => i);
	function* pieces() {
		const buffer = new Uint8Array(8);
		for (const [start, end] of [[0, 3], [3, 3], [3, 8], [8, 9], [9, 10], [10, 14]]) {
			buffer.set(data.subarray(start, end));
			yield buffer.subarray(0, end - start);
			buffer.fill(255);
		}
	}
	using tensor = gpu.upload(pieces(), [7], "f16");
	assert.deepEqual((await gpu.readBytes(tensor)).subarray(0, 14), data);
	for (const shape of [[6], [8]]) {
		const before = gpu.memory.current;
		assert.throws(() => gpu.upload(pieces(), shape, "f16"), {
			name: "RangeError",
			message: `14 bytes of data do not fill [${shape}] f16`,
		});
		assert.equal(gpu.memory.current, before);
	}
});

Deno.test("upload() refuses data that do not fill the shape", () => {
	const before = gpu.memory.current;
	assert.throws(() => gpu.upload(new Float32Array(5), [2, 3]), {
		name: "RangeError",
		message: "20 bytes of data do not fill [2, 3] f32",
	});
	assert.throws(() => gpu.upload(new Uint16Array(2), [1], "bf16"), {
		message: "4 bytes of data do not fill [1] bf16",
	});
	assert.equal(gpu.memory.current, before);
});

Deno.test("empty() is NaN on a poisoned device, also in used memory; zeros() is zero", async () => {
	for (let turn = 0; turn < 2; turn++) {
		using tensor = gpu.empty([5, 20]);
		assert((await gpu.read(tensor)).every(Number.isNaN));
		await step(gpu, tensor, 1);
	}
	using zeros = gpu.zeros([100]);
	assertClose(await gpu.read(zeros), new Float32Array(100));
});

Deno.test("clone(), copy() and clear() act in the order of the calls", async () => {
	using x = gpu.upload(Uint32Array.of(1, 2), [2]);
	using first = gpu.clone(x);
	await step(gpu, x, 5);
	using second = gpu.clone(x);
	gpu.clear(x);
	await step(gpu, x, 1);
	gpu.copy(x, first);
	gpu.copy(second, x);
	assert.deepEqual(await gpu.read(first, "u32"), Uint32Array.of(1, 1));
	assert.deepEqual(await gpu.read(second, "u32"), Uint32Array.of(8, 11));
	assert.deepEqual(await gpu.read(x, "u32"), Uint32Array.of(8, 11));
	assert.deepEqual([second.shape, second.dtype, second.owned], [[2], "u32", true]);
});

Deno.test("views share memory; clear() and copy() stay inside them", async () => {
	const align = gpu.device.limits.minStorageBufferOffsetAlignment / 4;
	using whole = gpu.upload(new Uint32Array(3 * align).fill(7), [3 * align]);
	const middle = whole.view(align, [align / 2, 2]);
	assert.deepEqual([middle.offset, middle.bytes, middle.owned], [4 * align, 4 * align, false]);
	await step(gpu, middle, 1);
	gpu.clear(middle.view(1, [2]));
	using one = gpu.upload(Uint32Array.of(5), [1]);
	gpu.copy(one, middle.view(3, [1]));
	gpu.free(middle); // does nothing
	const expected = new Uint32Array(3 * align).fill(7).fill(22, align, 2 * align);
	expected.fill(0, align + 1, align + 3).fill(5, align + 3, align + 4);
	assert.deepEqual(await gpu.read(whole, "u32"), expected);
	assert.deepEqual(await gpu.read(middle.view(0, [4]), "u32"), Uint32Array.of(22, 0, 0, 5));
});

Deno.test("view() stays inside its tensor", () => {
	using whole = gpu.zeros([4, 3]);
	assert.throws(() => whole.view(7, [2, 3]), {
		name: "RangeError",
		message: "No view of [2, 3] from element 7 of [4, 3]",
	});
	assert.throws(() => whole.view(-1, [1]), { name: "RangeError" });
	assert.throws(() => whole.view(2, [2]).view(1, [2]), { name: "RangeError" });
	assert.equal(whole.view(6, [2, 3]).bytes, 24);
});

Deno.test("dispatches keep their order and parameters over many submissions", async () => {
	using x = gpu.upload(Uint32Array.of(1, 5, 9), [3]);
	const expected = Uint32Array.of(1, 5, 9);
	for (let turn = 0; turn < 200; turn++) {
		await step(gpu, x, turn * turn);
		if (turn % 7 === 0) gpu.copy(gpu.clone(x), x); // copies take a place in the queue as well
		expected.forEach((value, i) => expected[i] = Math.imul(3, value) + turn * turn);
	}
	assert.deepEqual(await gpu.read(x, "u32"), expected);
});

Deno.test("a freed tensor's memory is reused after the calls queued before", async () => {
	const size = 1000;
	const first = gpu.upload(new Uint32Array(size).fill(1), [size]);
	using kept = gpu.zeros([size], "u32");
	await step(gpu, first, 4);
	gpu.copy(first, kept);
	gpu.free(first);
	using second = gpu.upload(new Uint32Array(size).fill(50), [size]);
	assert.equal(second.buffers[0], first.buffers[0]);
	await step(gpu, second, 0);
	assert.deepEqual(await gpu.read(kept, "u32"), new Uint32Array(size).fill(7));
	assert.deepEqual(await gpu.read(second, "u32"), new Uint32Array(size).fill(150));
});

Deno.test("free() refuses a tensor that is free already", () => {
	const tensor = gpu.empty([3]);
	gpu.free(tensor);
	assert.throws(() => gpu.free(tensor), { message: "A tensor was freed twice" });
});

Deno.test("work whose tensors have ever other sizes finds their memory again", async () => {
	await using own = await openGpu();
	await own.inFewSizes(async () => {
		for (let i = 0; i < 100; i++) {
			using tensor = own.empty([100_000 + 100 * i]);
			assert.ok(own.memory.current >= tensor.bytes && own.memory.current <= 1.125 * tensor.bytes);
		}
	});
	assert.ok(own.memory.pooled < 1_000_000, `${own.memory.pooled} bytes, of two sizes`);
	using exact = own.empty([100_033]);
	assert.equal(own.memory.current, Math.ceil(exact.bytes / 256) * 256);
});

Deno.test("memory counts what is used, what is pooled and the worst moment", async () => {
	await using own = await Gpu.open(DENO_GPU);
	const megabyte = [1 << 18];
	assert.deepEqual(own.memory, { current: 0, pooled: 0, peak: 0 });
	const a = own.empty(megabyte);
	const b = own.empty([1]); // buffers come in steps of 256 bytes
	assert.deepEqual(own.memory, { current: 2 ** 20 + 256, pooled: 0, peak: 2 ** 20 + 256 });
	own.free(a);
	assert.deepEqual(own.memory, { current: 256, pooled: 2 ** 20, peak: 2 ** 20 + 256 });
	const c = own.empty(megabyte);
	assert.deepEqual(own.memory, { current: 2 ** 20 + 256, pooled: 0, peak: 2 ** 20 + 256 });
	own.free(b, c);
	const d = own.empty([1 << 19]); // fits no pooled buffer
	assert.deepEqual(own.memory, {
		current: 2 ** 21,
		pooled: 2 ** 20 + 256,
		peak: 2 ** 21 + 2 ** 20 + 256,
	});
	own.trim();
	own.resetPeak();
	assert.deepEqual(own.memory, { current: 2 ** 21, pooled: 0, peak: 2 ** 21 });
	own.free(d);
});

Deno.test("trim() keeps the smaller buffers, in their order, with their bind groups", async () => {
	await using own = await Gpu.open(DENO_GPU);
	const created: unknown[] = [];
	const createBindGroup = own.device.createBindGroup.bind(own.device);
	own.device.createBindGroup = (descriptor) => {
		created.push(descriptor);
		return createBindGroup(descriptor);
	};
	const sizes = [64, 128, 64, 256, 64];
	/** A step of tensors of all sizes, whose buffers are returned. */
	const work = async (freed: number[]) => {
		const tensors = sizes.map((size) => own.zeros([size], "u32"));
		for (const tensor of tensors) await step(own, tensor, 1);
		for (const i of freed) own.free(tensors[i]);
		return tensors.flatMap(({ buffers }) => buffers);
	};
	const first = await work([4, 0, 3, 1, 2]);
	assert.equal(created.length, 5);
	for (
		const [kept, left] of [[3000, 5], [3 * 256 + 512 + 1023, 4], [3 * 256, 3], [600, 2], [255, 0]]
	) {
		created.length = 0;
		own.trim(kept);
		const bytes = first.toSorted((a, b) => a.size - b.size).slice(0, left)
			.reduce((sum, { size }) => sum + size, 0);
		assert.equal(own.memory.pooled, bytes, `kept ${kept}`);
		const all = await work([2, 4, 1, 0, 3]);
		assert.equal(created.length, 5 - left, `kept ${kept}`);
		assert.equal(first.filter((buffer) => all.includes(buffer)).length, left);
		own.trim(Infinity);
		first.splice(0, 5, ...await work([0, 1, 2, 3, 4]));
	}
	own.trim();
	assert.equal(own.memory.pooled, 0);
	await own.idle();
});

Deno.test("trim() waits for the calls that use a freed tensor", async () => {
	await using own = await Gpu.open(DENO_GPU);
	const x = own.upload(Uint32Array.of(2), [1]);
	using kept = own.zeros([1], "u32");
	await step(own, x, 1);
	own.copy(x, kept);
	own.free(x);
	own.trim();
	assert.deepEqual(await own.read(kept, "u32"), Uint32Array.of(7));
});

Deno.test("a number of workgroups beyond 65535 is spread over two dimensions", async () => {
	const size = 64 * 65535 + 65;
	using x = gpu.zeros([size], "u32");
	await step(gpu, x, 9);
	assert((await gpu.read(x, "u32")).every((value) => value === 9));
	const kernel = await gpu.kernel(STEP);
	const call = { params: uniform([size, 9]), tensors: [x] };
	assert.throws(() => kernel.dispatch({ ...call, workgroups: [1, 65536] }), {
		name: "RangeError",
		message: 'The kernel "step" needs a grid of 1,65536,1, at most 65535',
	});
	kernel.dispatch({ ...call, workgroups: 0 });
	kernel.dispatch({ ...call, workgroups: [3, 0] });
	assert.equal((await gpu.read(x, "u32"))[0], 9);
});

Deno.test("kernel() compiles each kernel once for its constants", async () => {
	const source: KernelSource = {
		name: "constant",
		source: `
      override VALUE: u32 = 1;
      @group(0) @binding(0) var<storage, read_write> x: array<u32>;
      @compute @workgroup_size(1)
      fn main() { x[0] = VALUE; }`,
	};
	using x = gpu.zeros([1], "u32");
	const values = [];
	for (const constants of [undefined, { VALUE: 2 }, { VALUE: 3 }]) {
		const kernel = await gpu.kernel({ ...source, constants });
		assert.equal(await gpu.kernel({ ...source, constants }), kernel);
		kernel.dispatch({ tensors: [x], workgroups: 1 });
		values.push((await gpu.read(x, "u32"))[0]);
	}
	assert.deepEqual(values, [1, 2, 3]);
});

Deno.test("kernel() binds tensors in the order of their numbers, without a uniform if there is none", async () => {
	const kernel = await gpu.kernel(COPY);
	assert.deepEqual([kernel.uniformBinding, kernel.whole.bindings], [undefined, [[1], [3]]]);
	using a = gpu.upload(Uint32Array.of(5, 6), [2]);
	using b = gpu.empty([2], "u32");
	kernel.dispatch({ tensors: [a, b], workgroups: 2 });
	assert.deepEqual(await gpu.read(b, "u32"), Uint32Array.of(5, 6));
});

Deno.test("kernel() shows the line of WGSL that does not compile", async () => {
	const source = "@compute @workgroup_size(1)\nfn main() {\n  let x: u32 = 1.5;\n}";
	await assert.rejects(gpu.kernel({ name: "broken", source }), (error: Error) => {
		assert.match(error.message, /^Cannot compile the kernel "broken": /);
		assert.match(error.message, /:3:/);
		assert.match(error.message, /let x: u32 = 1\.5;/);
		return true;
	});
	using x = gpu.upload(Uint32Array.of(1), [1]);
	assert.deepEqual(await gpu.read(x, "u32"), Uint32Array.of(1)); // the device is still good
});

Deno.test("kernel() refuses constants that the WGSL does not declare", async () => {
	await assert.rejects(
		Kernel.compile(gpu, { ...STEP, constants: { NO_SUCH: 1 } }),
		/^Error: Cannot compile the kernel "step": /,
	);
});

Deno.test("dispatch() refuses a wrong number of tensors and missing parameters", async () => {
	using x = gpu.zeros([1], "u32");
	const copy = await gpu.kernel(COPY);
	assert.throws(() => copy.dispatch({ tensors: [x], workgroups: 1 }), {
		name: "RangeError",
		message: 'The kernel "copy" binds 2 tensors, got 1',
	});
	const kernel = await gpu.kernel(STEP);
	assert.throws(() => kernel.dispatch({ tensors: [x], workgroups: 1 }), {
		message: 'The kernel "step" lacks its parameters',
	});
});

Deno.test("read() throws what a call queued before did wrong, once", async () => {
	const kernel = await gpu.kernel(COPY);
	using x = gpu.upload(Uint32Array.of(4), [1]);
	kernel.dispatch({ tensors: [x, x], workgroups: 1 }); // read and written at once
	await assert.rejects(gpu.read(x), /^Error: WebGPU: .*usage/s);
	assert.deepEqual(await gpu.read(x, "u32"), Uint32Array.of(4));
	gpu.copy(x, x);
	await assert.rejects(gpu.idle(), /^Error: WebGPU: /);
	await gpu.idle();
});

Deno.test("read() throws what the device was misused for outside of calls", async () => {
	using x = gpu.zeros([1]);
	await gpu.idle();
	gpu.device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE });
	await assert.rejects(gpu.read(x), /^Error: WebGPU: .*usage/is);
	assertClose(await gpu.read(x), [0]);
});

Deno.test("read() keeps throwing an error that no scope caught", async () => {
	const own = await Gpu.open(DENO_GPU);
	using x = own.zeros([1]);
	const error = new GPUValidationError("something broke");
	own.device.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
	for (let turn = 0; turn < 2; turn++) {
		await assert.rejects(own.read(x), { message: "WebGPU: something broke" });
	}
	await assert.rejects(own[Symbol.asyncDispose](), { message: "WebGPU: something broke" });
	assert.equal((await own.device.lost).reason, "destroyed"); // disposed of all the same
});

Deno.test("dispatch() names what a kernel can bind", async () => {
	await using small = await openGpu({ limits: { binding: 256 } });
	const { maxStorageBuffersPerShaderStage: most } = small.device.limits;
	const kernel = await small.kernel(COPY);
	const elements = 64 * most;
	using x = small.zeros([elements], "u32");
	using y = small.zeros([1], "u32");
	assert.throws(() => kernel.dispatch({ tensors: [x, y], workgroups: 1 }), {
		name: "UserError",
		message: `A tensor of [${elements}] u32 takes ${4 * elements} bytes, more than the kernel ` +
			`"copy" can bind on "${small.name}" (256 in each of ${most} bindings)`,
	});
	const pairs = await small.kernel({
		name: "copy pairs",
		source: (COPY.source as string).replaceAll("array<u32>", "array<array<u32, 2>>"),
	});
	using z = small.zeros([65], "u32");
	assert.throws(() => pairs.dispatch({ tensors: [z, y], workgroups: 1 }), {
		name: "UserError",
		message:
			`A tensor of [65] u32 takes 260 bytes, more than the kernel "copy pairs" can bind on ` +
			`"${small.name}" (256)`,
	});
});

Deno.test('Gpu.open() with adapter "hardware" refuses a driver that computes on the CPU', async () => {
	const { isFallbackAdapter } = gpu.device.adapterInfo;
	if (!isFallbackAdapter) {
		await using hardware = await Gpu.open(gpu.host, { adapter: "hardware" });
		assert.equal(hardware.software, false);
		return;
	}
	await assert.rejects(Gpu.open(gpu.host, { adapter: "hardware" }), {
		name: "UserError",
		message:
			`gpu.adapter is "hardware", but the only adapter found is "${gpu.name}", which computes on the CPU; ` +
			'install the GPU\'s Vulkan driver or set gpu.adapter to "auto"',
	});
});

Deno.test("a readback that has to wait for the mapping reads the same", async () => {
	const size = 2 * (1 << 20) + 3; // more than two pieces of 4 MiB
	const data = uniforms(size, 1);
	using tensor = gpu.upload(data, [size]);
	gpu.flush();
	const readback = await Readback.open(gpu.device);
	for (const synchronous of readback.synchronous ? [true, false] : [false]) {
		(readback as { synchronous: boolean }).synchronous = synchronous;
		const whole = new Float32Array(size);
		await readback.read(tensor.buffers[0], 0, new Uint8Array(whole.buffer));
		assert.deepEqual(whole, data);
		const parts = [0, 4, 40, 4096, 4 << 20].map((offset) => ({ offset, bytes: new Uint8Array(8) }));
		await Promise.all(
			parts.map(({ offset, bytes }) => readback.read(tensor.buffers[0], offset, bytes)),
		);
		for (const { offset, bytes } of parts) {
			const expected = data.subarray(offset / 4, offset / 4 + 2);
			assert.deepEqual(new Float32Array(bytes.buffer), expected);
		}
	}
	for (const slot of (readback as unknown as { slots: GPUBuffer[] }).slots) slot.destroy();
});

Deno.test("a recording keeps its memory through trim() and gives it back when it is released", async () => {
	await using own = await openGpu();
	using x = own.upload(Float32Array.of(1, -2, 3), [3]);
	using out = own.empty([3]);
	const work = async () => {
		using y = await activation(own, "relu", x);
		using z = await activation(own, "relu", y, y);
		const kernel = await own.kernel({ name: "keep", source: KEEP });
		kernel.dispatch({
			params: uniform([0]),
			tensors: [z, out],
			workgroups: 1,
			later: (steps) => steps < 3 ? uniform([steps]) : undefined,
		});
	};
	const recording = await own.record(work);
	const { current, pooled } = own.memory;
	own.trim();
	assert.deepEqual([own.memory.current, own.memory.pooled], [current, pooled]);
	assert.deepEqual([...await own.read(out)], [1, 0, 9]);
	assert(own.replay(recording, 2));
	assert.deepEqual([...await own.read(out)], [3, 2, 11]);
	assert(!own.replay(recording, 3));
	own.release(recording);
	own.trim();
	assert.equal(own.memory.pooled, 0);
	const before = own.memory;
	await assert.rejects(
		() =>
			own.record(async () => {
				using y = await activation(own, "relu", x);
				own.clear(y);
			}),
		/Nothing can be cleared in a recording/,
	);
	own.trim();
	assert.deepEqual([own.memory.current, own.memory.pooled], [before.current, before.pooled]);
});

/** Deno, but it cannot follow what a function awaits, as browsers cannot. */
const { scope: _, ...WITHOUT_SCOPE } = DENO_GPU;

for (const [name, host] of Object.entries({ "Deno": DENO_GPU, "without scopes": WITHOUT_SCOPE })) {
	Deno.test(`what other callers do meanwhile is not recorded, ${name}`, async () => {
		await using own = await openGpu({}, host);
		using x = own.upload(Uint32Array.of(0), [1]);
		using y = own.upload(Uint32Array.of(0), [1]);
		await step(own, y, 0); // compiles the kernel
		let steps = 0;
		let isOver = false;
		const others = [0, 1, 2].map(async (kind) => {
			while (!isOver) {
				await step(own, y, 0);
				own.free(own.upload(Uint32Array.of(1), [1]));
				if (kind === 1) await own.idle();
				if (kind === 2) await new Promise((done) => setTimeout(done));
				else await own.host.nextTask();
				steps++;
			}
		});
		const recordings = await Promise.all([1, 2].map((addend) =>
			own.record(async () => {
				for (let i = 0; i < 50; i++) {
					await Promise.resolve();
					await step(own, x, 0);
				}
				await step(own, x, addend);
				using _made = own.empty([64]);
			})
		));
		while (steps <= 10) await new Promise((done) => setTimeout(done, 1));
		isOver = true;
		await Promise.all(others);
		assert.deepEqual(recordings.map(({ calls }) => calls.length), [51, 51]);
		own.clear(x);
		await own.idle();
		const before = await own.read(y, "u32");
		assert(own.replay(recordings[0], 1));
		assert.deepEqual(await own.read(x, "u32"), Uint32Array.of(1));
		assert.deepEqual(await own.read(y, "u32"), before);
		for (const recording of recordings) own.release(recording);
		assert(!own.replay(recordings[0], 1));
		assert.equal(own.memory.current, x.buffers[0].size + y.buffers[0].size);
	});

	Deno.test(`work that waits for a kernel leaves a whole recording or none, ${name}`, async () => {
		await using own = await openGpu({}, host);
		using x = own.upload(Uint32Array.of(2), [1]);
		using y = own.empty([1], "u32");
		await step(own, x, 0);
		const recorded = own.record(async () => {
			await step(own, x, 0);
			using made = own.empty([1], "u32");
			const kernel = await own.kernel(COPY);
			for (const [from, to] of [[x, made], [made, y]]) {
				kernel.dispatch({ tensors: [from, to], workgroups: 1 });
			}
		});
		const others = Array.from({ length: 5 }, async () => {
			await own.host.nextTask();
			own.free(own.upload(Uint32Array.of(1), [1])); // which is not refused
		});
		await Promise.all([recorded, ...others]);
		assert.deepEqual(await own.read(y, "u32"), Uint32Array.of(18), "the work itself is done");
		const recording = await recorded;
		assert.equal(own.replay(recording, 1), host === DENO_GPU);
		assert.deepEqual(await own.read(y, "u32"), Uint32Array.of(host === DENO_GPU ? 54 : 18));
		own.release(recording);
		assert.equal(own.memory.current, x.buffers[0].size + y.buffers[0].size);
		own.trim();
		assert.equal(own.memory.pooled, 0);
	});
}

const KEEP = `
@group(0) @binding(0) var<uniform> steps: u32;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < 3u) { out[id.x] = x[id.x] + f32(steps); }
}`;
