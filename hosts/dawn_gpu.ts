import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import type { GpuHost } from "../gpu/host.ts";
import { browserPrelude } from "./browser_gpu.ts";

/** The version of the npm package `webgpu` that `deno task dawn` installs. */
export const DAWN_VERSION = "0.6.2";

const FEATURES = ["subgroups", "shader-f16", "chromium-experimental-subgroup-matrix"] as const;
const TOGGLES = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"];

/** What Dawn's binding for Node exports. */
interface Dawn {
	create(options: string[]): GPU;
}

/** Instances end when they are collected, with all of their devices. */
const kept: GPU[] = [];

/** Milliseconds between two questions in a long wait. */
const LONGEST_PAUSE = 1;

/**
 * Makes Dawn ask less often, the longer it waits, whether work is done. It asks by `setImmediate`, with a new
 * native function each time. Deno keeps these in a list, and removes each by a search: seconds of a wait would
 * cost seconds of collecting garbage.
 */
export function paceQuestions(): void {
	const immediate = globalThis.setImmediate;
	let [since, isAsking] = [0, false];
	const paced = (callback: (...args: unknown[]) => void, ...args: unknown[]) => {
		if (!/\[native code\]\s*}$/.test(Function.prototype.toString.call(callback))) {
			return immediate(callback, ...args);
		}
		const now = performance.now();
		if (!isAsking) since = now; // not again, but for the first time
		const pause = Math.min((now - since) / 20, LONGEST_PAUSE);
		const ask = () => {
			isAsking = true;
			try {
				callback(...args);
			} finally {
				isAsking = false;
			}
		};
		const wait = () => performance.now() - now < pause ? immediate(wait) : ask();
		return pause < LONGEST_PAUSE ? immediate(wait) : setTimeout(ask, LONGEST_PAUSE);
	};
	globalThis.setImmediate = Object.assign(paced, immediate) as unknown as typeof immediate;
}

/**
 * The WebGPU host of Dawn's binding for Node. Compared with Deno's own WebGPU it has matrix products on
 * tensor cores and short waits, but neither f64 nor subgroup barriers. Shaders check bounds, as Deno's do:
 * not all kernels of this project stay in them by themselves.
 *
 * @param file The file `dawn.node`.
 * @param base Deno's host, for what does not depend on WebGPU's implementation.
 */
export function dawnHost(file: string, base: GpuHost): GpuHost {
	let gpu: GPU | undefined;
	return {
		name: `${base.name}, Dawn ${DAWN_VERSION}`,
		adapterAdvice: base.adapterAdvice,
		async requestAdapter(options) {
			if (!gpu) {
				const dawn: Dawn = createRequire(import.meta.url)(file);
				if (kept.length === 0) paceQuestions();
				gpu = dawn.create([
					...(Deno.build.os === "linux" ? ["backend=vulkan"] : []),
					`enable-dawn-features=${TOGGLES.join()}`,
					"disable-dawn-features=timestamp_quantization",
				]);
				kept.push(gpu);
			}
			return await gpu.requestAdapter(options);
		},
		wantedFeatures: (
			{ features },
		) => [FEATURES.filter((name) => features.has(name as GPUFeatureName))],
		systemMemory: base.systemMemory,
		get tuning() {
			return base.tuning; // as the environment is now
		},
		prelude: browserPrelude,
		scope: base.scope,
		nextTask: base.nextTask,
	};
}

/**
 * The file of Dawn's binding: `BILLM_DAWN`, or what `deno task dawn` has installed.
 *
 * @param folder Where `deno task dawn` installs it.
 * @throws {UserError} If `BILLM_DAWN` names no file.
 */
export function findDawn(folder: string | undefined): string | undefined {
	const named = Deno.env.get("BILLM_DAWN");
	if (named) {
		if (existsSync(named)) return named;
		throw new UserError(`BILLM_DAWN is "${named}", but there is no such file`);
	}
	if (!folder) return undefined;
	const { os, arch } = Deno.build;
	const platform = {
		darwin: "darwin-universal",
		linux: `linux-${arch === "aarch64" ? "arm64" : "x64"}`,
		windows: `win32-${arch === "aarch64" ? "arm64" : "x64"}`,
	}[os as string];
	const file = join(folder, "node_modules", "webgpu", "dist", `${platform}`, "dawn.node");
	return existsSync(file) ? file : undefined;
}
