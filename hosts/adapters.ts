import { UserError } from "../base/errors.ts";

/** A Vulkan adapter of this machine. */
export interface ListedAdapter {
	/** Its place in the list of Mesa's device selection layer. */
	index: number;
	name: string;
	/** "discrete GPU", "integrated GPU", "virtual GPU", "CPU" or "other". */
	kind: string;
	/** Vendor and device in hexadecimal, such as "10de:2335". */
	id: string;
	/** Its address on the PCI bus, such as "0000:07:00.0". */
	pci?: string;
}

/** How to get the layer that lists adapters and puts one of them first. */
export const SELECTION_ADVICE =
	"Mesa's device selection layer lists and chooses adapters on Linux (apt-get install " +
	"mesa-vulkan-drivers); elsewhere let the process see only that adapter";

/**
 * The Vulkan adapters of this machine. WebGPU itself shows a process only one of them.
 *
 * @returns Nothing if Mesa's device selection layer is not there.
 */
export async function listAdapters(): Promise<ListedAdapter[]> {
	if (Deno.build.os !== "linux") return [];
	// The layer prints its list when it is first asked for devices, and ends the process.
	return parseAdapters(await layerOutput({ MESA_VK_DEVICE_SELECT: "list" }));
}

/** What Mesa's layer prints while WebGPU looks for an adapter with these variables. */
async function layerOutput(env: Record<string, string>): Promise<string> {
	const { stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["eval", "await navigator.gpu.requestAdapter()"],
		env: { DENO_WEBGPU_BACKEND: "vulkan", XDG_RUNTIME_DIR: "/tmp", ...env },
		stdin: "null",
		stdout: "null",
	}).output();
	return new TextDecoder().decode(stderr);
}

/** Reads the list that Mesa's device selection layer prints. */
export function parseAdapters(text: string): ListedAdapter[] {
	const lines = text.matchAll(
		/^ +GPU (\d+): ([0-9a-f]+:[0-9a-f]+) "(.*)" (.+?)(?: ([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d))?$/gm,
	);
	return [...lines].map(([, index, id, name, kind, pci]) => (
		{ index: Number(index), id, name, kind, ...(pci && { pci }) }
	));
}

/**
 * Finds the adapter that a user names.
 *
 * @param choice An index, a part of the name, or an address on the PCI bus.
 * @param option What names it, for messages.
 * @throws {UserError} If there is none, or several.
 */
export function findAdapter(
	choice: number | string,
	adapters: readonly ListedAdapter[],
	option = "gpu.adapter",
): ListedAdapter {
	const fail = (problem: string) =>
		new UserError(
			`${option} is ${JSON.stringify(choice)}, ${problem}; the adapters are ` +
				`${adapters.map(adapterText).join(", ")}; auto, hardware and software name a kind`,
		);
	if (adapters.length === 0) {
		throw new UserError(
			`${option} is ${JSON.stringify(choice)}, but this machine's adapters cannot be listed; ` +
				SELECTION_ADVICE,
		);
	}
	const wanted = String(choice).toLowerCase();
	const found = typeof choice === "number"
		? adapters.filter(({ index }) => index === choice)
		: adapters.filter(({ name, pci }) => pci === wanted || name.toLowerCase().includes(wanted));
	if (found.length === 0) throw fail("which is none of them");
	if (found.length > 1) throw fail("which could be several; name one by its number or PCI address");
	return found[0];
}

/** An adapter in a list: number, name, kind and address. */
export function adapterText({ index, name, kind, pci }: ListedAdapter): string {
	return `${index}: ${name} (${kind}${pci ? `, ${pci}` : ""})`;
}

/**
 * The variables that make an adapter the only one that Mesa's layer shows.
 *
 * @throws {UserError} If the layer is too old to tell equal cards apart.
 */
export async function selectionOf(
	adapter: ListedAdapter,
	adapters: readonly ListedAdapter[],
	outputOf = layerOutput,
): Promise<Record<string, string>> {
	const only = { MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE: "1" };
	const { id, pci, index } = adapter;
	if (adapters.filter((other) => other.id === id).length === 1) {
		return { MESA_VK_DEVICE_SELECT: id, ...only };
	}
	const variables = { DRI_PRIME: `pci-${pci?.replace(/[:.]/g, "_")}`, ...only };
	// Mesa 22 takes another card than the named one. Later versions say which one they take.
	const output = await outputOf({ ...variables, MESA_VK_DEVICE_SELECT_DEBUG: "1" });
	if (/dri_prime_tag_default selected (\d+)/.exec(output)?.[1] !== `${index}`) {
		throw new UserError(
			`Mesa's device selection layer does not choose "${
				adapterText(adapter)
			}" among equal cards, which ` +
				`versions before 23 cannot; update mesa-vulkan-drivers, or let the process see only that card`,
		);
	}
	return variables;
}
