import assert from "node:assert/strict";
import { findAdapter, listAdapters, parseAdapters, selectionOf } from "~/hosts/adapters.ts";
import { listed } from "~/tasks/findings.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { startTask } from "../start_task.ts";

const LIST = `selectable devices:
  GPU 0: 10de:2335 "NVIDIA H200" discrete GPU 0000:00:06.0
  GPU 1: 10de:2335 "NVIDIA H200" discrete GPU 0000:00:0a.1
  GPU 2: 10005:0 "llvmpipe (LLVM 15.0.6, 256 bits)" CPU
`;
const adapters = parseAdapters(LIST);

Deno.test("the list of Mesa's device selection layer is read", () => {
	assert.deepEqual(adapters, [
		{ index: 0, id: "10de:2335", name: "NVIDIA H200", kind: "discrete GPU", pci: "0000:00:06.0" },
		{ index: 1, id: "10de:2335", name: "NVIDIA H200", kind: "discrete GPU", pci: "0000:00:0a.1" },
		{ index: 2, id: "10005:0", name: "llvmpipe (LLVM 15.0.6, 256 bits)", kind: "CPU" },
	]);
	assert.deepEqual(parseAdapters("no devices\n"), []);
});

Deno.test("an adapter is named by number, part of its name, or PCI address", () => {
	const index = (choice: number | string) => findAdapter(choice, adapters).index;
	assert.deepEqual([index(1), index("LLVMpipe"), index("0000:00:0a.1")], [1, 2, 1]);
	for (
		const [choice, message] of [
			[3, /^gpu\.adapter is 3, which is none of them; the adapters are 0: NVIDIA H200 \(discrete/],
			["cpu", /is "cpu", which is none of them; .*; auto, hardware and software name a kind$/],
			["H200", /is "H200", which could be several; name one by its number or PCI address; /],
		] as const
	) {
		assert.throws(() => index(choice), { name: "UserError", message: message });
	}
	assert.throws(() => findAdapter(0, []), /cannot be listed; Mesa's device selection layer/);
});

Deno.test("the variables leave one adapter", async () => {
	const only = { MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE: "1" };
	const wanted = { DRI_PRIME: "pci-0000_00_0a_1", ...only };
	const selects = (index: number) => (env: Record<string, string>) => {
		assert.deepEqual(env, { ...wanted, MESA_VK_DEVICE_SELECT_DEBUG: "1" });
		return Promise.resolve(
			`device-select: device_select_find_dri_prime_tag_default selected ${index}\n`,
		);
	};
	assert.deepEqual(await selectionOf(adapters[1], adapters, selects(1)), wanted);
	for (const output of [selects(0), () => Promise.resolve("")]) {
		await assert.rejects(
			() => selectionOf(adapters[1], adapters, output),
			/does not choose "1: NVIDIA H200 .*" among equal cards, .* before 23/,
		);
	}
	const software = { MESA_VK_DEVICE_SELECT: "10005:0", ...only };
	assert.deepEqual(await selectionOf(adapters[2], adapters), software);
});

Deno.test("doctor lists several adapters", () => {
	assert.deepEqual(listed(adapters.slice(0, 1)), []);
	assert.match(listed(adapters)[0].text, /chooses: 0: NVIDIA H200 .*, 2: llvmpipe .* \(CPU\)$/);
});

Deno.test({
	name: "a process opens the adapter of its number, and refuses a number that there is not",
	ignore: Deno.build.os !== "linux",
	fn: async () => {
		await using _ = await openGpu(); // prepares the environment
		const last = (await listAdapters()).at(-1)!;
		const generate = (adapter: number) =>
			startTask("generate", [
				...["examples/models/tiny-llama", "--prompt", "The", "--max-tokens", "1", "--json"],
			], { env: { BILLM_ADAPTER: `${adapter}` } });
		const { stdout } = await generate(last.index);
		assert.equal(JSON.parse(stdout).adapter, last.name);
		const { code, stderr } = await generate(last.index + 1);
		assert.equal(code, 1);
		assert.match(
			stderr,
			/^Error: BILLM_ADAPTER is \d+, which is none of them; the adapters are 0: /,
		);
	},
});
