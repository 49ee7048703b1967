import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { VERSION } from "../base/version.ts";
import type { Gpu } from "../gpu/device.ts";
import { adapterText, listAdapters, type ListedAdapter } from "../hosts/adapters.ts";
import { findDawn } from "../hosts/dawn_gpu.ts";
import { dawnFolder, openGpu, tuningFolder } from "../hosts/deno_gpu.ts";
import { DEFAULT_LIMITS } from "../hub/limits.ts";
import { NoSuchRepository } from "../hub/refusal.ts";
import { HubSession } from "../hub/session.ts";
import { type HubSettings, hubSettings } from "../hub/settings.ts";
import { freeBytes } from "../storage/files.ts";
import { measureRates, productError } from "./bench/measure.ts";
import { adapterAdvice, canWrite, type Machine } from "./machine.ts";

/** A finding about the machine. */
export interface Finding {
	check: string;
	/** bad: must be fixed before anything runs. warning: some things do not work, or not well. */
	state: "good" | "warning" | "bad";
	text: string;
	/** Alternative remedies. */
	remedies?: string[];
	/** The figures in the text. */
	values?: Record<string, unknown>;
}

/** The minimum version, as in the launcher. */
const OLDEST_DENO = [2, 9];
/** Thresholds of free space: a 7B model takes 13.5 GB, packed 3 GB. */
const LITTLE_DISK = 5e9;
const MUCH_DISK = 20e9;
/** More than the rounding error of an f32 product with 96 terms. */
const MAX_PRODUCT_ERROR = 1e-5;
/** Upper limit when free GPU memory is probed. */
const MEMORY_TO_TRY = 256 * 2 ** 30;

/** Versions of Deno and the system. */
export function versions(): Finding {
	const { deno, v8 } = Deno.version;
	const { os, arch } = Deno.build;
	const processors = navigator.hardwareConcurrency;
	const system = `${os} ${Deno.osRelease()} ${arch}, ${processors} processors`;
	const [major, minor] = deno.split(".").map(Number);
	const isOld = major < OLDEST_DENO[0] || (major === OLDEST_DENO[0] && minor < OLDEST_DENO[1]);
	return {
		check: "versions",
		state: isOld ? "bad" : "good",
		text: `billm ${VERSION}, Deno ${deno}, V8 ${v8}, ${system}`,
		...(isOld && {
			remedies: [`Deno ${OLDEST_DENO.join(".")} or later is needed: deno upgrade, or use ./billm`],
		}),
		values: { billm: VERSION, deno, v8, os, release: Deno.osRelease(), arch, processors },
	};
}

/** Checks adapter, features, limits, memory and speed, and reports each finding immediately. */
export async function examineGpu(
	machine: Machine,
	tell: (...found: Finding[]) => void,
): Promise<void> {
	let gpu: Gpu;
	try {
		gpu = await openGpu();
	} catch (error) {
		const remedies = adapterAdvice(machine);
		const text = error instanceof UserError
			? "No WebGPU adapter was found"
			: `The adapter cannot be opened: ${(error as Error).message}`;
		tell({ check: "adapter", state: "bad", text, remedies });
		return;
	}
	await using _ = gpu;
	tell(adapter(gpu, machine), ...listed(await listAdapters()));
	tell(await dawn(), features(gpu), limits(gpu), await memory(gpu));
	try {
		tell(...await speed(gpu));
	} catch (error) {
		tell({
			check: "speed",
			state: "bad",
			text: `A kernel has failed: ${(error as Error).message}`,
			remedies: ["Update the GPU's driver, or try another adapter: gpu.adapter in a pipeline file"],
		});
	}
}

function adapter({ name, software }: Gpu, machine: Machine): Finding {
	const values = { name, software };
	if (!software) return { check: "adapter", state: "good", text: name, values };
	const idle = machine.devices.length > 0;
	return {
		check: "adapter",
		state: "warning",
		text: `${name}, which computes on the CPU: everything works, but slowly`,
		remedies: idle
			? [
				`A GPU is there that is not used (${machine.devices.join(", ")})`,
				...adapterAdvice(machine).filter((way) => !way.startsWith("Vulkan has drivers")),
			]
			: ["With a GPU, install its Vulkan driver"],
		values,
	};
}

/** The second backend, which is never needed. */
async function dawn(): Promise<Finding> {
	const check = "dawn";
	try {
		if (!findDawn(dawnFolder())) {
			const text = "not installed; it reaches NVIDIA's tensor cores (the command dawn installs it)";
			return { check, state: "good", text, values: { installed: false } };
		}
		await using gpu = await openGpu({ backend: "dawn" });
		const cores = gpu.matrices ? "with tensor cores (gpu.precision: f16)" : "without tensor cores";
		const values = { installed: true, name: gpu.name, matrices: gpu.matrices };
		return { check, state: "good", text: `${gpu.name}, ${cores}; gpu.backend: dawn`, values };
	} catch (error) {
		const text = `installed, but it cannot be opened: ${(error as Error).message}`;
		return { check, state: "warning", text, remedies: ["Use gpu.backend: deno, the default"] };
	}
}

/** The adapters that can be chosen, if there are several. */
export function listed(adapters: readonly ListedAdapter[]): Finding[] {
	if (adapters.length < 2) return [];
	return [{
		check: "adapters",
		state: "good",
		text: `gpu.adapter, or BILLM_ADAPTER, chooses: ${adapters.map(adapterText).join(", ")}`,
		values: { adapters },
	}];
}

/** Optional features of kernels, with the effect of their absence. */
const FEATURES: Record<string, string> = {
	"subgroups": "reductions and generation are slower",
	"f64": "Hessians that f32 cannot factor get more damping instead of f64",
	"timestamp-query": "stages are timed with the clock, which waits for the GPU",
};

function features({ device, subgroupSize, f64 }: Gpu): Finding {
	const has: Record<string, boolean> = {
		"subgroups": subgroupSize > 0,
		f64,
		"timestamp-query": device.features.has("timestamp-query"),
	};
	const present = Object.keys(has).filter((name) => has[name])
		.map((name) => name === "subgroups" ? `subgroups of ${subgroupSize}` : name);
	const missing = Object.keys(has).filter((name) => !has[name])
		.map((name) => `without ${name}: ${FEATURES[name]}`);
	return {
		check: "features",
		state: "good",
		text: [present.join(", "), ...missing].filter((text) => text !== "").join("; "),
		values: { ...has, subgroupSize, all: [...device.features].sort() },
	};
}

/** The largest matrix of LLaMA-7B in f32, and the arrays of its size that a kernel takes at most. */
const LARGE_BYTES = 4 * 11008 ** 2;
const LARGE_ARRAYS = 2;

function limits({ device, maxBinding, maxBuffer }: Gpu): Finding {
	const {
		maxComputeWorkgroupStorageSize,
		maxComputeInvocationsPerWorkgroup,
		maxStorageBuffersPerShaderStage,
	} = device.limits;
	const values = {
		maxBufferSize: maxBuffer,
		maxStorageBufferBindingSize: maxBinding,
		maxStorageBuffersPerShaderStage,
		maxComputeWorkgroupStorageSize,
		maxComputeInvocationsPerWorkgroup,
	};
	const text = `buffers of ${bytesText(maxBuffer)}, of which kernels bind ` +
		`${maxStorageBuffersPerShaderStage} parts of ${bytesText(maxBinding)}; workgroups of ` +
		`${maxComputeInvocationsPerWorkgroup} threads with ${
			bytesText(maxComputeWorkgroupStorageSize)
		}`;
	const parts = LARGE_ARRAYS * Math.ceil(LARGE_BYTES / maxBinding);
	if (parts < maxStorageBuffersPerShaderStage) {
		return { check: "limits", state: "good", text, values };
	}
	return {
		check: "limits",
		state: "warning",
		text: `${text}: too little for the matrices of models of seven billion weights`,
		remedies: ["Use smaller models, or another adapter or driver"],
		values,
	};
}

async function memory(gpu: Gpu): Promise<Finding> {
	const { total, available } = Deno.systemMemoryInfo();
	const found = await gpu.memoryFor(MEMORY_TO_TRY);
	const shared = gpu.software || Deno.build.os === "darwin";
	const text =
		(shared
			? `${bytesText(found)} for the adapter, of the machine's own`
			: `${bytesText(found)}${found >= MEMORY_TO_TRY ? " or more" : ""} free on the GPU`) +
		`; the machine has ${bytesText(total)}, ${bytesText(available)} of it free`;
	const values = { adapterBytes: found, totalBytes: total, availableBytes: available };
	if (found >= 4e9) return { check: "memory", state: "good", text, values };
	return {
		check: "memory",
		state: "warning",
		text,
		remedies: [
			"Close what else uses it, or set gpu.memory in the pipeline file to less than that, " +
			"such as gpu: { memory: 2GB }",
		],
		values,
	};
}

async function speed(gpu: Gpu): Promise<Finding[]> {
	const error = await productError(gpu);
	if (!(error <= MAX_PRODUCT_ERROR)) {
		return [{
			check: "speed",
			state: "bad",
			text: `The adapter multiplies wrongly: the error is ${
				error.toPrecision(2)
			} of the largest entry`,
			remedies: ["Update the GPU's driver; until then gpu.adapter: software"],
			values: { productError: error },
		}];
	}
	const { gemmFlops, copyBytes } = await measureRates(gpu);
	const product = gemmFlops >= 1e12
		? `${(gemmFlops / 1e12).toFixed(1)} TFLOP/s`
		: `${(gemmFlops / 1e9).toFixed(1)} GFLOP/s`;
	return [{
		check: "speed",
		state: "good",
		text: `product of f32 matrices ${product}, copy by a kernel ${
			bytesText(copyBytes)
		}/s read and written`,
		values: { gemmFlops, copyBytes, productError: error },
	}];
}

/** Free space where runs write. */
export function disks(): Finding[] {
	const folders: Record<string, [path: string, advice: string]> = {
		output: [Deno.cwd(), "choose another output in the pipeline file"],
		hub: [hubFolder(), "set HF_HUB_CACHE to a folder on another disk"],
	};
	const tuning = tuningFolder();
	if (tuning) folders.cache = [tuning, "set BILLM_CACHE to a folder that can be written to"];
	return Object.entries(folders).map(([use, [path, advice]]): Finding => {
		const free = freeBytes(path);
		const values = { use, path, freeBytes: free, writable: canWrite(path) };
		const text = `${use}: ${bytesText(free)} free for ${path}`;
		if (!values.writable) {
			return {
				check: "disk",
				state: "warning",
				text: `${use}: ${path} cannot be written to`,
				remedies: [`${advice[0].toUpperCase()}${advice.slice(1)}`],
				values,
			};
		}
		// The folder for measurements holds next to nothing.
		if (use === "cache" || free >= MUCH_DISK) return { check: "disk", state: "good", text, values };
		const size = free < LITTLE_DISK
			? "small models only"
			: "a model of seven billion weights at most";
		return {
			check: "disk",
			state: "warning",
			text: `${text}, enough for ${size}`,
			remedies: [`Make room, or ${advice}`],
			values,
		};
	});
}

function hubFolder(): string {
	try {
		return hubSettings().cache;
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		return hubSettings({ ...Deno.env.toObject(), HF_ENDPOINT: "", HF_TOKEN: "x" }).cache;
	}
}

/** Access to the hub, and the account of the token. */
export async function examineHub(
	signal: AbortSignal,
	env: Record<string, string | undefined> = Deno.env.toObject(),
): Promise<Finding> {
	const check = "hub";
	let settings: HubSettings;
	try {
		settings = hubSettings(env);
	} catch (error) {
		if (!(error instanceof UserError)) throw error;
		return { check, state: "warning", text: error.message };
	}
	const { endpoint, token, tokenSource, cache, offline } = settings;
	const values = { endpoint, offline, hasToken: token !== undefined, tokenSource, cache };
	if (offline) {
		return {
			check,
			state: "good",
			text: "offline (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE): nothing is downloaded, " +
				`what lies in ${cache} can be used`,
			values,
		};
	}
	// Whose the token is; without one, something that anybody may ask.
	const repository = { type: "model" as const, id: "openai-community/gpt2", revision: "main" };
	const question = token === undefined ? `models/${repository.id}` : "whoami-v2";
	const session = new HubSession(settings, repository, DEFAULT_LIMITS, signal, () => {}, true);
	const start = performance.now();
	let account: string | undefined;
	try {
		const answer = await (await session.fetch(`${endpoint}/api/${question}`)).json();
		if (token !== undefined) account = answer.name;
	} catch (error) {
		signal.throwIfAborted();
		if (!(error instanceof UserError)) throw error;
		// A mirror need not know the question; it is there.
		if (!(error instanceof NoSuchRepository)) {
			return {
				check,
				state: "warning",
				text: error.message.replace(/^Cannot download ".*?": /, ""),
				remedies: ["Models in folders, and what the hub's cache holds, can be used all the same"],
				values,
			};
		}
	}
	const ms = Math.round(performance.now() - start);
	const who = token === undefined
		? "no token: public models only; HF_TOKEN opens gated ones such as LLaMA's"
		: `token of ${tokenSource}` + (account === undefined ? "" : `, which is that of "${account}"`);
	return {
		check,
		state: "good",
		text: `${endpoint} answers in ${ms} ms; ${who}`,
		values: { ...values, ms, account },
	};
}
