import type { Gpu } from "../../gpu/device.ts";
import { gemm } from "../../gpu/kernels/matmul/gemm.ts";
import { productRate } from "../../gpu/kernels/matmul/product_rate.ts";
import type { Tensor } from "../../gpu/tensor.ts";

/** A copy kernel, 16 bytes per thread, because buffer copies are slow on some drivers. */
const COPY = `
@group(0) @binding(0) var<storage, read> values: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256 + id.x;
  if (i < arrayLength(&values)) { out[i] = values[i]; }
}
`;

const RUNS = 5;

/** Throughput of an adapter. */
export interface Rates {
	/** FLOP/s of a product of square f32 matrices. */
	gemmFlops: number;
	/** Bytes/s read and written by a copy kernel. */
	copyBytes: number;
}

/** Measures a product and a copy, the best of a few runs; takes some seconds on a software adapter. */
export async function measureRates(gpu: Gpu): Promise<Rates> {
	const gemmFlops = await productRate(gpu, gpu.software ? 512 : 4096);
	// Larger than the caches of a GPU.
	const words = gpu.software ? 1 << 22 : 1 << 26;
	using from = gpu.zeros([words]);
	using to = gpu.empty([words]);
	const copy = await seconds(gpu, () => copyByKernel(gpu, from, to), gpu.software ? 1 : 20);
	return { gemmFlops, copyBytes: 2 * from.bytes / copy };
}

/** Copies a tensor whose size is a multiple of 1024 elements by a kernel. */
export async function copyByKernel(gpu: Gpu, from: Tensor, to: Tensor): Promise<void> {
	const kernel = await gpu.kernel({ name: "measure_copy", source: COPY });
	kernel.dispatch({ tensors: [from, to], workgroups: from.size / 4 / 256 });
}

/**
 * The largest error of a small product on the adapter against f64, relative to the largest entry.
 */
export async function productError(gpu: Gpu): Promise<number> {
	const n = 96;
	using a = pattern(gpu, [n, n]);
	using b = pattern(gpu, [n, n]);
	using c = gpu.empty([n, n]);
	await gemm(gpu, { layout: "NN", m: n, n, k: n, a, b, c });
	const [x, y, found] = [await gpu.read(a), await gpu.read(b), await gpu.read(c)];
	let error = 0;
	let largest = 0;
	for (let i = 0; i < n * n; i++) {
		let sum = 0;
		for (let k = 0; k < n; k++) sum += x[i - i % n + k] * y[k * n + i % n];
		largest = Math.max(largest, Math.abs(sum));
		const difference = Math.abs(found[i] - sum);
		error = Math.max(error, Number.isNaN(difference) ? Infinity : difference);
	}
	return error / largest;
}

/** A deterministic tensor of numbers between -0.5 and 0.5. */
function pattern(gpu: Gpu, shape: [number, number]): Tensor {
	const values = new Float32Array(shape[0] * shape[1]);
	for (let i = 0; i < values.length; i++) values[i] = (i * 7919 + (i >> 9) * 31) % 997 / 997 - 0.5;
	return gpu.upload(values, shape);
}

/** Seconds of one call, the best of a few runs of `repeat` calls. */
async function seconds(gpu: Gpu, work: () => Promise<void>, repeat: number): Promise<number> {
	await work(); // compiles
	await gpu.idle();
	let best = Infinity;
	for (let run = 0; run < RUNS; run++) {
		const start = performance.now();
		for (let i = 0; i < repeat; i++) await work();
		await gpu.idle();
		best = Math.min(best, (performance.now() - start) / 1000 / repeat);
	}
	return best;
}

/** The time in ms that a GPU which idled needs to reach its clock rate. */
const WARM_UP_MS = 100;

/**
 * Milliseconds of one call, the median of some runs of `repeat` calls; of GPU time if the device has
 * timestamps.
 */
export async function gpuMilliseconds(
	gpu: Gpu,
	work: () => Promise<void>,
	{ runs, repeat }: { runs: number; repeat: number },
): Promise<number> {
	const all = async () => {
		for (let i = 0; i < repeat; i++) await work();
	};
	await all(); // compiles
	await gpu.idle();
	for (const start = performance.now(); !gpu.software && performance.now() < start + WARM_UP_MS;) {
		await all();
		await gpu.idle();
	}
	const times: number[] = [];
	for (let run = 0; run < runs; run++) {
		const start = await clock(gpu);
		gpu.section({ name: "bench" });
		await all();
		gpu.section(undefined);
		times.push((await clock(gpu) - start) / repeat);
	}
	return times.sort((a, b) => a - b)[times.length >> 1];
}

/** Milliseconds after all queued work, of GPU time if available. */
async function clock(gpu: Gpu): Promise<number> {
	if (gpu.isTimed) return 1000 * ((await gpu.sectionSeconds()).bench ?? 0);
	await gpu.idle();
	return performance.now();
}
