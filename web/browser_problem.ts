/** What keeps a browser from running models. */
export interface BrowserProblem {
	/** What is missing. */
	problem: string;
	/** What would do. */
	remedy: string;
}

/**
 * The reason why this browser cannot run models, in words; undefined if nothing speaks against it. Works in
 * pages and in workers, and opens no device.
 *
 * Subgroups are not required: without them, other kernels are used, which are slower.
 */
export async function browserProblem(
	{ isSecureContext = true, navigator, Float16Array }: {
		isSecureContext?: boolean;
		Float16Array?: unknown;
		navigator: { readonly gpu?: Pick<GPU, "requestAdapter"> };
	} = globalThis,
): Promise<BrowserProblem | undefined> {
	if (!isSecureContext) {
		return {
			problem:
				"This address is not a secure one, so the browser offers neither WebGPU nor storage.",
			remedy: "Open the page from https, or from localhost.",
		};
	}
	if (!navigator.gpu) {
		return {
			problem: "This browser has no WebGPU.",
			remedy: "Use a current Chrome, Edge or Safari, or Firefox where it offers WebGPU.",
		};
	}
	if (!Float16Array) {
		return {
			problem: "This browser is too old: it has no Float16Array.",
			remedy: "Update it; Chrome and Edge need version 135 or later.",
		};
	}
	const adapter = await navigator.gpu.requestAdapter().catch(() => null);
	if (adapter) return limitProblem(adapter.limits);
	return {
		problem: "This browser has WebGPU, but found no GPU that it may use.",
		remedy: "Look for disabled hardware acceleration in its settings, and update the GPU's driver.",
	};
}

/** What the largest kernels need; the limits that WebGPU guarantees everywhere. */
const LEAST = {
	maxStorageBuffersPerShaderStage: 8,
	maxComputeInvocationsPerWorkgroup: 256,
	maxComputeWorkgroupStorageSize: 16384,
	maxStorageBufferBindingSize: 128 << 20,
} as const;

function limitProblem(limits: GPUSupportedLimits): BrowserProblem | undefined {
	const low = (Object.keys(LEAST) as (keyof typeof LEAST)[]).find((key) =>
		limits[key] < LEAST[key]
	);
	return low && {
		problem: `This GPU has ${low} ${limits[low]}; models need ${LEAST[low]}.`,
		remedy: "Use another GPU, or another browser: some offer less than the GPU has.",
	};
}
