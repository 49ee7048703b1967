import { dirname, join } from "node:path";

/** Where Linux shows its control groups. */
const GROUPS = "/sys/fs/cgroup";

/**
 * The bytes of memory that this process may still take: what the system has available, within the limits
 * of the control groups (version 2) of containers and batch systems.
 *
 * @param read The content of a file; undefined if there is none.
 */
export function availableMemory(
	system = Deno.systemMemoryInfo().available,
	read = readText,
): number {
	const own = /^0::(\/.*)$/m.exec(read("/proc/self/cgroup") ?? "")?.[1];
	let available = system;
	for (let group = own; group !== undefined; group = group === "/" ? undefined : dirname(group)) {
		const number = (file: string) => Number(read(join(GROUPS, group!, file)) ?? NaN);
		// "max" without a limit; the root of the machine has no file.
		const left = number("memory.max") - number("memory.current");
		if (!Number.isFinite(left)) continue;
		const stat = read(join(GROUPS, group, "memory.stat")) ?? "";
		// Pages of files that nobody has used lately are given up when memory is short.
		const pages = Number(/^inactive_file (\d+)$/m.exec(stat)?.[1] ?? 0);
		available = Math.min(available, Math.max(0, left + pages));
	}
	return available;
}

function readText(path: string): string | undefined {
	try {
		return Deno.readTextFileSync(path);
	} catch {
		return undefined; // another system, or another version
	}
}
