import { Gpu, type GpuOptions } from "../gpu/device.ts";
import type { GpuHost, TextStore } from "../gpu/host.ts";
import type { KernelNeed } from "../gpu/kernel.ts";

/**
 * The WebGPU host of browsers, in pages and workers.
 *
 * @param tuning The store of the fastest matrix tiles, for instance in `localStorage`; by default they
 *   are kept in memory only.
 */
export function browserGpu(tuning: TextStore = inMemory()): GpuHost {
	return {
		name: navigator.userAgent,
		adapterAdvice: "use a browser with WebGPU, and a page from https or from this machine",
		requestAdapter: async (options) => await navigator.gpu?.requestAdapter(options) ?? null,
		wantedFeatures: (
			{ features },
		) => [(["subgroups"] as const).filter((name) => features.has(name))],
		tuning,
		prelude: browserPrelude,
		nextTask,
	};
}

/** What Chromium's compiler wants before the text of a kernel. */
export function browserPrelude(needs: readonly KernelNeed[]): string {
	return (needs.includes("f16") ? "enable f16; " : "") +
		// All lanes of a subgroup take the branches that contain shuffles.
		(needs.includes("subgroups")
			? "enable subgroups; diagnostic(off, subgroup_uniformity); "
			: "") +
		(needs.includes("subgroup matrices")
			? "enable chromium_experimental_subgroup_matrix; " +
				"diagnostic(off, chromium.subgroup_matrix_uniformity); "
			: "");
}

/**
 * Opens a device of the browser with the adapter's limits.
 *
 * @throws {UserError} If there is no adapter of the requested kind.
 */
export function openGpu(options?: GpuOptions, host: GpuHost = browserGpu()): Promise<Gpu> {
	return Gpu.open(host, options);
}

function inMemory(): TextStore {
	let kept: string | undefined;
	return { read: () => kept, write: (text) => kept = text };
}

/** Resolves in the next task, by a message to itself: timers in browsers are clamped to 4 ms. */
function nextTask(): Promise<void> {
	return new Promise((resolve) => {
		const { port1, port2 } = new MessageChannel();
		port1.onmessage = () => {
			port1.close();
			resolve();
		};
		port2.postMessage(undefined);
	});
}
