import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";

/** Folders of Vulkan drivers. */
const DRIVER_FOLDERS = [
	"/usr/share/vulkan/icd.d",
	"/etc/vulkan/icd.d",
	"/usr/local/share/vulkan/icd.d",
];

/** Facts that determine whether an adapter can be found. */
export interface Machine {
	os: typeof Deno.build.os;
	env: Record<string, string | undefined>;
	/** Manifests of installed Vulkan drivers. */
	drivers: string[];
	/** Whether libvulkan.so.1 is installed; undefined if unknown. */
	hasLoader?: boolean;
	/** GPU devices: "/dev/nvidia0", "/dev/dri/renderD128". */
	devices: string[];
	/** GPU devices without access for this user. */
	closedDevices: string[];
	inContainer: boolean;
}

/** The facts of this machine. */
export async function lookAtMachine(): Promise<Machine> {
	const env = Deno.env.toObject();
	const { os } = Deno.build;
	const devices = os === "linux"
		? [
			...namesIn("/dev").filter((name) => /^nvidia\d+$/.test(name)),
			...namesIn("/dev/dri").filter((name) => name.startsWith("renderD")).map((name) =>
				`dri/${name}`
			),
		].map((name) => `/dev/${name}`)
		: [];
	return {
		os,
		env,
		drivers: DRIVER_FOLDERS.flatMap((folder) =>
			namesIn(folder).filter((name) => name.endsWith(".json")).map((name) => join(folder, name))
		),
		hasLoader: os === "linux" ? await hasLoader() : undefined,
		devices,
		closedDevices: devices.filter((device) => !canWrite(device)),
		inContainer: existsSync("/.dockerenv") || existsSync("/run/.containerenv") ||
			env.KUBERNETES_SERVICE_HOST !== undefined,
	};
}

/** Suggestions for getting an adapter, the most likely first. */
export function adapterAdvice(machine: Machine): string[] {
	const { os, env, drivers, devices, closedDevices, inContainer } = machine;
	const advice: string[] = [];
	const backend = env.DENO_WEBGPU_BACKEND;
	// The default value.
	if (backend && backend !== "vulkan,metal,dx12") {
		advice.push(`DENO_WEBGPU_BACKEND is "${backend}", which may leave out the right one; unset it`);
	}
	if (os === "darwin") {
		advice.push(
			"macOS offers Metal to everything but some virtual machines; run it outside of one",
		);
		return advice;
	}
	if (os !== "linux") {
		advice.push("Install the driver of your GPU's maker; Windows' own offers no compute");
		return advice;
	}
	const variable = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].find((name) => env[name]);
	if (variable) {
		advice.push(`${variable} is "${env[variable]}", and no other driver is looked for; unset it`);
	}
	if (closedDevices.length > 0) {
		const [device] = closedDevices;
		advice.push(
			`You may not open ${device}; add yourself to its group: ` +
				`usermod -aG "$(stat -c %G ${device})" "$USER", and log in again`,
		);
	}
	const hasNvidia = devices.some((device) => device.includes("nvidia"));
	if (hasNvidia && !drivers.some((path) => path.includes("nvidia"))) {
		advice.push(
			inContainer
				? "There is an NVIDIA GPU, but the container has no Vulkan driver for it; start it with " +
					"NVIDIA_DRIVER_CAPABILITIES=all (docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=all)"
				: "There is an NVIDIA GPU without a Vulkan driver; install the whole driver, not only its " +
					"compute part (libnvidia-gl on Ubuntu, nvidia-vulkan-icd on Debian)",
		);
	}
	if (machine.hasLoader === false) {
		advice.push("Vulkan's loader is not there; apt-get install libvulkan1 brings it");
	}
	if (drivers.length === 0) {
		advice.push(
			"There is no Vulkan driver; install your GPU's, or Mesa's for AMD, Intel and computing on " +
				"the CPU: apt-get install mesa-vulkan-drivers libvulkan1 (./billm does that by itself)",
		);
	} else if (!variable) {
		advice.push(
			`Vulkan has drivers (${drivers.join(", ")}), but none works; ` +
				`vulkaninfo --summary (of vulkan-tools) says why`,
		);
	}
	return advice;
}

function namesIn(folder: string): string[] {
	try {
		return readdirSync(folder).sort();
	} catch {
		return []; // there is none
	}
}

async function hasLoader(): Promise<boolean | undefined> {
	for (const command of ["ldconfig", "/sbin/ldconfig"]) {
		try {
			const { stdout, success } = await new Deno.Command(command, { args: ["-p"] }).output();
			if (success) return new TextDecoder().decode(stdout).includes("libvulkan.so.1");
		} catch {
			continue; // no such command
		}
	}
}

/** Whether this user may write a path, which need not exist yet. */
export function canWrite(path: string): boolean {
	for (let place = path;; place = dirname(place)) {
		try {
			accessSync(place, constants.W_OK);
			return true;
		} catch (error) {
			if ((error as { code?: string }).code !== "ENOENT" || dirname(place) === place) return false;
		}
	}
}
