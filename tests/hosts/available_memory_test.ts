import assert from "node:assert/strict";
import { availableMemory } from "~/hosts/available_memory.ts";

const GB = 1e9;

/** Files of a system whose process is in the group. */
function files(group: string, others: Record<string, string>) {
	const all: Record<string, string> = {
		"/proc/self/cgroup": `1:name=x:/y\n0::${group}\n`,
		...others,
	};
	return (path: string) => all[path.replaceAll("\\", "/")];
}

Deno.test("available memory is that of the system, within the limits of control groups", () => {
	const limits = (path: string, max: string, current: number, inactive = 0) => ({
		[`/sys/fs/cgroup${path}memory.max`]: `${max}\n`,
		[`/sys/fs/cgroup${path}memory.current`]: `${current}\n`,
		[`/sys/fs/cgroup${path}memory.stat`]: `anon 5\ninactive_file ${inactive}\nactive_file 7\n`,
	});
	const cases: [string, Record<string, string>, number][] = [
		["/", {}, 64 * GB],
		["/", limits("/", "max", 3 * GB), 64 * GB],
		["/", limits("/", `${16 * GB}`, 3 * GB), 13 * GB],
		["/", limits("/", `${16 * GB}`, 10 * GB, 6 * GB), 12 * GB],
		["/", limits("/", `${100 * GB}`, 3 * GB), 64 * GB],
		["/", limits("/", `${2 * GB}`, 3 * GB), 0],
		["/a/b", limits("/a/b/", "max", 1 * GB), 64 * GB],
		["/a/b", { ...limits("/a/b/", "max", 1), ...limits("/a/", `${8 * GB}`, 1 * GB) }, 7 * GB],
		["/a/b", { ...limits("/a/b/", `${4 * GB}`, 0), ...limits("/a/", `${8 * GB}`, 6 * GB) }, 2 * GB],
	];
	for (const [group, others, expected] of cases) {
		assert.equal(availableMemory(64 * GB, files(group, others)), expected, group);
	}
	assert.equal(availableMemory(5, () => undefined), 5);
});

Deno.test("this machine has some memory available", () => {
	assert.ok(availableMemory() > 1e7);
});
