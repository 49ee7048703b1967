import type { Gpu } from "../../device.ts";
import { gemm } from "./gemm.ts";

const RUNS = 3;
/** Milliseconds that a GPU needs to reach its clock rate. */
const WARM_UP_MS = 150;

/**
 * The FLOP/s of a product of square f32 matrices, the best of a few runs. The matrices are zeros, and the
 * memory is returned.
 *
 * @param n Rows and columns; by default as many as take a few milliseconds.
 */
export async function productRate(gpu: Gpu, n = gpu.software ? 256 : 4096): Promise<number> {
	const repeats = gpu.software ? 1 : 5;
	let best = Infinity;
	{
		using a = gpu.zeros([n, n]);
		using b = gpu.zeros([n, n]);
		using c = gpu.empty([n, n]);
		const run = async () => {
			const start = performance.now();
			for (let i = 0; i < repeats; i++) {
				await gemm(gpu, { layout: "NT", m: n, n, k: n, a, b, c });
			}
			await gpu.idle();
			return performance.now() - start;
		};
		await run(); // compiles
		for (let spent = 0; !gpu.software && spent < WARM_UP_MS;) spent += await run();
		for (let i = 0; i < RUNS; i++) best = Math.min(best, await run() / repeats / 1000);
	}
	gpu.trim();
	return 2 * n ** 3 / best;
}
