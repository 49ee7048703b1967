import { AsyncLocalStorage } from "node:async_hooks";
import { join } from "node:path";
import { setImmediate, setTimeout } from "node:timers/promises";
import { UserError } from "../base/errors.ts";
import {
	ADAPTER_KINDS,
	type AdapterChoice,
	Gpu,
	type GpuOptions,
	LEAST_LIMIT,
	type Precision,
	PRECISIONS,
} from "../gpu/device.ts";
import type { GpuHost, TextStore } from "../gpu/host.ts";
import { findAdapter, listAdapters, selectionOf } from "./adapters.ts";
import { availableMemory } from "./available_memory.ts";
import { DAWN_VERSION, dawnHost, findDawn } from "./dawn_gpu.ts";

/** The WebGPU host of Deno. */
export const DENO_GPU: GpuHost = {
	name: `Deno ${Deno.version.deno}`,

	adapterAdvice: [
		"on Debian or Ubuntu `apt-get install mesa-vulkan-drivers libvulkan1` brings a software driver",
		"with an NVIDIA or AMD card install its Vulkan driver (`vulkaninfo --summary` should list it)",
	].join("; "),

	async requestAdapter(options) {
		prepareEnvironment();
		return await navigator.gpu?.requestAdapter(options) ?? null;
	},

	/** Deno grants subgroups and f64 on adapters that do not list them. */
	wantedFeatures() {
		const [subgroups, barriers, f64] = ["subgroups", "wgpu-subgroup-barrier", "wgpu-shader-f64"];
		return [[subgroups, barriers, f64], [subgroups, f64], [subgroups, barriers], [subgroups]];
	},

	/** The free system memory on software adapters, and on macOS, where the GPU shares it. */
	systemMemory(software) {
		if (!software && Deno.build.os !== "darwin") return undefined;
		return availableMemory();
	},

	/** The store of the fastest tiles; undefined if `BILLM_TUNE` is 0. */
	get tuning() {
		return Deno.env.get("BILLM_TUNE") === "0" ? undefined : tuningFile(tuningFolder());
	},

	scope: () => new AsyncLocalStorage(),
	keepsDevices: true,
	nextTask,
};

/** An adapter of this machine: a kind of adapter, its number, a part of its name, or its PCI address. */
export type MachineAdapter = AdapterChoice | number | string;

/** The options of {@link openGpu}. */
export interface DenoGpuOptions extends Omit<GpuOptions, "adapter"> {
	/** `BILLM_ADAPTER` if absent or "auto". */
	adapter?: MachineAdapter;
	/** `BILLM_PRECISION` if absent, else "f32". */
	precision?: Precision;
	/** `BILLM_BACKEND` if absent, else "deno". */
	backend?: Backend;
}

/** Implementations of WebGPU: Deno's own; Dawn's; or Dawn's where it is installed and finds tensor cores. */
export const BACKENDS = ["deno", "dawn", "auto"] as const;
/** One of {@link BACKENDS}. */
export type Backend = typeof BACKENDS[number];

/** Dawn's instances by their files, each opened once. */
const dawns = new Map<string, GpuHost>();

/** What was chosen when this process asked for its first adapter. */
let chosen: MachineAdapter | undefined;

/**
 * Opens a device with the adapter's limits; `BILLM_BINDING` sets a lower limit for bindings in bytes, so
 * that small models take the ways of large ones.
 *
 * @throws {UserError} If there is no such adapter, the process uses another one already, or
 *   `BILLM_BINDING` is no such limit.
 */
export async function openGpu(options: DenoGpuOptions = {}): Promise<Gpu> {
	const text = Deno.env.get("BILLM_BINDING");
	const binding = text ? Number(text) : undefined;
	if (binding !== undefined && !(Number.isSafeInteger(binding) && binding >= LEAST_LIMIT)) {
		throw new UserError(
			`BILLM_BINDING must be a whole number of bytes of at least ${LEAST_LIMIT}, found "${text}"`,
		);
	}
	const adapter = await select(options.adapter);
	const precision = options.precision ?? variable("BILLM_PRECISION", PRECISIONS) ?? "f32";
	const all = { limits: { binding }, ...options, adapter, precision };
	const backend = options.backend ?? variable("BILLM_BACKEND", BACKENDS) ?? "deno";
	if (backend === "deno") return await Gpu.open(DENO_GPU, all);
	const file = findDawn(dawnFolder());
	if (!file) {
		if (backend === "auto") return await Gpu.open(DENO_GPU, all);
		throw new UserError(
			`gpu.backend is "dawn", which is not installed; the command dawn installs it ` +
				`(npm webgpu ${DAWN_VERSION}), or BILLM_DAWN names the file dawn.node of that package`,
		);
	}
	prepareEnvironment();
	const host = dawns.get(file) ?? dawnHost(file, DENO_GPU);
	dawns.set(file, host);
	if (backend === "dawn") return await Gpu.open(host, all);
	const found = await Gpu.open(host, all).catch(() => undefined);
	if (found?.matrices) return found;
	await found?.[Symbol.asyncDispose]();
	return await Gpu.open(DENO_GPU, all);
}

/** The choice in an environment variable, if it is set. */
function variable<Choice extends string>(
	name: string,
	choices: readonly Choice[],
): Choice | undefined {
	const text = Deno.env.get(name);
	if (!text) return undefined;
	const choice = choices.find((choice) => choice === text);
	if (!choice) throw new UserError(`${name} must be one of ${choices.join(", ")}, found "${text}"`);
	return choice;
}

/** Makes the adapter that a user names the only one that WebGPU can find. */
async function select(wanted: MachineAdapter = "auto"): Promise<AdapterChoice> {
	const variable = Deno.env.get("BILLM_ADAPTER");
	const isVariable = wanted === "auto" && variable;
	const choice = isVariable ? parsedAdapter(variable) : wanted;
	const option = isVariable ? "BILLM_ADAPTER" : "gpu.adapter";
	if (isKind(choice)) {
		chosen ??= choice;
		return choice;
	}
	if (chosen === choice) return "auto";
	// The loader of Vulkan reads the variables once.
	if (chosen !== undefined) {
		throw new UserError(
			`${option} is ${JSON.stringify(choice)}, but this process has opened the adapter ` +
				`${JSON.stringify(chosen)} before; use a process for each`,
		);
	}
	prepareEnvironment(); // the name of Mesa's software adapter depends on it
	const adapters = await listAdapters();
	const selection = await selectionOf(findAdapter(choice, adapters, option), adapters);
	for (const [name, value] of Object.entries(selection)) Deno.env.set(name, value);
	chosen = choice;
	return "auto";
}

/** The adapter in a text: a number is an index. */
export function parsedAdapter(text: string): MachineAdapter {
	return /^\d+$/.test(text) ? Number(text) : text;
}

function isKind(choice: MachineAdapter): choice is AdapterChoice {
	return (ADAPTER_KINDS as readonly unknown[]).includes(choice);
}

/**
 * The folder of measurements of this machine: `BILLM_CACHE`, or `billm` in the user's cache folder.
 */
export function tuningFolder(): string | undefined {
	const { BILLM_CACHE, XDG_CACHE_HOME, LOCALAPPDATA, HOME } = Deno.env.toObject();
	if (BILLM_CACHE) return BILLM_CACHE;
	if (Deno.build.os === "windows") return LOCALAPPDATA && join(LOCALAPPDATA, "billm");
	if (XDG_CACHE_HOME) return join(XDG_CACHE_HOME, "billm");
	return HOME && join(HOME, ".cache", "billm");
}

/** Where `deno task dawn` installs Dawn's binding; undefined if there is no place for it. */
export function dawnFolder(): string | undefined {
	const folder = tuningFolder();
	return folder && join(folder, "dawn");
}

/** The store `gemm.json` in a folder; without a folder, or if it cannot be written, nothing is kept. */
export function tuningFile(folder: string | undefined): TextStore {
	const path = folder && join(folder, "gemm.json");
	return {
		read() {
			try {
				return path && Deno.readTextFileSync(path);
			} catch {
				return undefined; // none yet
			}
		},
		write(text) {
			if (!path) return;
			const temporary = `${path}.${crypto.randomUUID()}`;
			try {
				Deno.mkdirSync(folder, { recursive: true });
				Deno.writeTextFileSync(temporary, text);
				Deno.renameSync(temporary, path);
			} catch {
				// A folder that cannot be written: the next process measures again.
				try {
					Deno.removeSync(temporary);
				} catch {
					// It was never created.
				}
			}
		},
	};
}

let lastWait = 0;

/** Resolves in the next task. Ten times a second it sleeps, because Deno handles signals only then. */
async function nextTask(): Promise<void> {
	await setImmediate();
	if (performance.now() - lastWait < 100) return;
	await setTimeout(1);
	lastWait = performance.now();
}

/** Sets the environment variables that drivers read at the first `requestAdapter`. */
function prepareEnvironment(): void {
	const set = (name: string, value: string) => {
		if (Deno.env.get(name) === undefined) Deno.env.set(name, value);
	};
	set("DENO_WEBGPU_BACKEND", "vulkan,metal,dx12"); // excludes OpenGL
	if (Deno.build.os !== "linux") return;
	set("XDG_RUNTIME_DIR", "/tmp"); // Mesa warns without one
	try {
		// By default, Mesa's software driver uses only half of an AVX-512 register.
		if (/\bavx512f\b/.test(Deno.readTextFileSync("/proc/cpuinfo"))) {
			set("LP_NATIVE_VECTOR_WIDTH", "512");
		}
	} catch {
		// No /proc: keeps the driver's default.
	}
}
