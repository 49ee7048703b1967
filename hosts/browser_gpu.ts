import { Gpu, type GpuOptions } from "../gpu/device.ts";
import type { GpuHost, TextStore } from "../gpu/host.ts";

/**
 * What differs in browsers from other hosts of WebGPU, in a page as in a worker.
 *
 * @param tuning Keeps which tiles are fastest, in `localStorage` for instance; else they are measured
 *   anew for each host.
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
    prelude(needs) {
      if (!needs.includes("subgroups")) return "";
      // Lanes that shuffle in a branch are known to take it together.
      return "enable subgroups; diagnostic(off, subgroup_uniformity); ";
    },
    nextTask,
  };
}

/**
 * Opens an adapter of the browser with the limits it offers.
 *
 * @throws {UserError} If there is no adapter of the kind asked for.
 */
export function openGpu(options?: GpuOptions, host: GpuHost = browserGpu()): Promise<Gpu> {
  return Gpu.open(host, options);
}

function inMemory(): TextStore {
  let kept: string | undefined;
  return { read: () => kept, write: (text) => kept = text };
}

/** A message to itself; timers of browsers wait for 4 ms. */
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
