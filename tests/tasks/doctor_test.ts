import assert from "node:assert/strict";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VERSION } from "../../base/version.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { measureRates, productError } from "../../tasks/bench/measure.ts";
import { disks, examineHub } from "../../tasks/findings.ts";
import { adapterAdvice, canWrite, lookAtMachine, type Machine } from "../../tasks/machine.ts";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const doctor = (args: string[], env: Record<string, string> = {}) =>
	startTask("doctor", args, { env: { HF_HUB_OFFLINE: "1", ...env } });

interface Found {
	check: string;
	state: string;
	text: string;
	remedies?: string[];
	// deno-lint-ignore no-explicit-any -- parsed JSON
	values: any;
}

Deno.test("doctor --json tells what is true of this machine", async () => {
	const { code, stdout, stderr } = await doctor(["--json"]);
	assert.deepEqual([code, stderr], [0, ""]);
	const { ready, findings } = JSON.parse(stdout) as { ready: boolean; findings: Found[] };
	assert.equal(ready, true);
	assert.deepEqual(
		findings.map(({ check }) => check).filter((check) => check !== "disk"),
		["versions", "adapter", "dawn", "features", "limits", "memory", "speed", "hub"],
	);
	const of = (check: string) => findings.find((finding) => finding.check === check)!;
	const { billm, deno, v8 } = of("versions").values;
	assert.deepEqual([billm, deno, v8], [VERSION, Deno.version.deno, Deno.version.v8]);
	await using gpu = await openGpu();
	assert.deepEqual(of("adapter").values, { name: gpu.name, software: gpu.software });
	assert.equal(of("adapter").state, gpu.software ? "warning" : "good");
	assert.equal(of("features").values.f64, gpu.f64);
	assert.equal(of("limits").values.maxStorageBufferBindingSize, gpu.maxBinding);
	const { adapterBytes, totalBytes } = of("memory").values;
	assert.ok(adapterBytes > 1e8 && totalBytes > 1e8);
	const { gemmFlops, copyBytes } = of("speed").values;
	assert.ok(gemmFlops > 1e8 && copyBytes > 1e7, `${gemmFlops} FLOP/s, ${copyBytes} bytes/s`);
	assert.match(of("hub").text, /^offline \(HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE\): /);
	for (const { state, remedies } of findings) {
		assert.ok(["good", "warning"].includes(state));
		if (state !== "good") assert.ok(remedies!.length > 0);
	}
});

Deno.test({
	name: "doctor without an adapter says why and ends with code 1",
	ignore: Deno.build.os !== "linux",
	fn: async () => {
		const { code, stdout, stderr } = await doctor([], { VK_DRIVER_FILES: "/no/such/driver.json" });
		assert.deepEqual(
			[code, stderr],
			[1, "Error: 1 finding must be fixed before anything runs\n"],
		);
		assert.match(
			stdout,
			/^BAD {2}adapter {3}No WebGPU adapter was found\n {6}-> VK_DRIVER_FILES is "\/no\/such\/driver\.json"/m,
		);
		assert.match(stdout, /^ok {3}versions {2}billm /m);
		assert.match(stdout, /^ok {3}hub {7}offline /m);
		assert.doesNotMatch(stdout, /speed|Ready/);
		const json = await doctor(["--json"], { VK_DRIVER_FILES: "/no/such/driver.json" });
		assert.deepEqual([json.code, JSON.parse(json.stdout).ready], [1, false]);
	},
});

Deno.test("doctor --help prints the usage", async () => {
	assert.match((await doctor(["--help"])).stdout, /^Usage: deno task doctor \[--json\]\n/);
});

Deno.test("the product that doctor checks is right, and one that is wrong is found", async () => {
	await using gpu = await openGpu();
	const error = await productError(gpu);
	assert.ok(error > 0 && error < 1e-5, `${error}`);
	const read = gpu.read.bind(gpu);
	let reads = 0;
	gpu.read = (async (tensor: Parameters<typeof read>[0]) => {
		const values = await read(tensor);
		if (++reads % 3 === 0) values[values.length - 1] += 1; // of the result
		return values;
	}) as typeof gpu.read;
	assert.ok(await productError(gpu) > 1e-3);
	const before = gpu.memory.current;
	await measureRates(gpu);
	assert.equal(gpu.memory.current, before);
});

const linux: Machine = {
	os: "linux",
	env: {},
	drivers: [],
	hasLoader: true,
	devices: [],
	closedDevices: [],
	inContainer: false,
};

for (
	const [what, machine, ...expected] of [
		[
			"nothing",
			{ hasLoader: false },
			/loader is not there; apt-get install libvulkan1/,
			/no Vulkan driver.*mesa-vulkan-drivers/,
		],
		[
			"another backend",
			{ env: { DENO_WEBGPU_BACKEND: "gl" } },
			/DENO_WEBGPU_BACKEND is "gl".*unset/,
			/no Vulkan driver/,
		],
		[
			"our own setting of the backend",
			{ env: { DENO_WEBGPU_BACKEND: "vulkan,metal,dx12" } },
			/no Vulkan driver/,
		],
		[
			"a variable",
			{ env: { VK_ICD_FILENAMES: "/x" }, drivers: ["/a.json"] },
			/VK_ICD_FILENAMES is "\/x"/,
		],
		[
			"drivers that do not work",
			{ drivers: ["/a.json"] },
			/has drivers \(\/a\.json\), but none works; vulkaninfo/,
		],
		[
			"a device that may not be opened",
			{
				devices: ["/dev/dri/renderD128"],
				closedDevices: ["/dev/dri/renderD128"],
				drivers: ["/a.json"],
			},
			/may not open \/dev\/dri\/renderD128.*usermod/,
			/has drivers/,
		],
		[
			"a container with an NVIDIA card",
			{ devices: ["/dev/nvidia0"], drivers: ["/u/lvp_icd.json"], inContainer: true },
			/container has no Vulkan driver.*NVIDIA_DRIVER_CAPABILITIES=all/,
			/has drivers/,
		],
		[
			"an NVIDIA card",
			{ devices: ["/dev/nvidia0"] },
			/NVIDIA GPU without a Vulkan driver/,
			/no Vulkan driver;/,
		],
		["an NVIDIA card with its driver", {
			devices: ["/dev/nvidia0"],
			drivers: ["/u/nvidia_icd.json"],
		}, /has drivers/],
		["macOS", { os: "darwin" }, /Metal/],
		["Windows", { os: "windows" }, /driver of your GPU's maker/],
	] as [string, Partial<Machine>, ...RegExp[]][]
) {
	Deno.test(`doctor knows what to do about ${what}`, () => {
		const advice = adapterAdvice({ ...linux, ...machine });
		assert.equal(advice.length, expected.length, advice.join("\n"));
		expected.forEach((pattern, i) => assert.match(advice[i], pattern));
	});
}

Deno.test("lookAtMachine() sees the driver that this test runs on", async () => {
	const { os, drivers, hasLoader } = await lookAtMachine();
	assert.equal(os, Deno.build.os);
	if (os !== "linux") return;
	assert.ok(drivers.length > 0 || Deno.env.get("VK_DRIVER_FILES"), "no driver");
	assert.notEqual(hasLoader, false);
});

const signal = new AbortController().signal;

Deno.test("doctor asks the hub whose the token is, or something that anybody may ask", async () => {
	await using hub = new LoopbackHub();
	hub.add("model", "openai-community/gpt2", { "config.json": "{}" });
	hub.tokens.good = [];
	hub.intercept = ({ target, authorization }) => {
		if (target !== "/api/whoami-v2" || authorization !== "Bearer good") return;
		const headers = { "Content-Type": "application/json" };
		return { status: 200, headers, body: new TextEncoder().encode('{"name":"somebody"}') };
	};
	const env = { HF_ENDPOINT: hub.url, HF_HOME: "/no/such/home" };
	const open = await examineHub(signal, env);
	assert.equal(open.state, "good");
	assert.match(
		open.text,
		/answers in \d+ ms; no token: public models only; HF_TOKEN opens gated ones/,
	);
	const good = await examineHub(signal, { ...env, HF_TOKEN: "good" });
	assert.equal(good.state, "good");
	assert.match(good.text, /; token of HF_TOKEN, which is that of "somebody"$/);
	assert.ok(!JSON.stringify(good).includes("Bearer") && !JSON.stringify(good).includes('"good"}'));
	const bad = await examineHub(signal, { ...env, HF_TOKEN: "stale" });
	assert.equal(bad.state, "warning");
	assert.match(bad.text, /^the hub refuses the token of HF_TOKEN .*make a new one at/);
	assert.ok(!bad.text.includes("stale"));
	assert.ok(bad.remedies!.length > 0);

	const asked = hub.requests.length;
	const offline = await examineHub(signal, { ...env, HF_HUB_OFFLINE: "1" });
	assert.deepEqual([offline.state, hub.requests.length], ["good", asked]);
});

Deno.test("doctor says of a mirror that knows no accounts that it answers", async () => {
	await using hub = new LoopbackHub();
	hub.tokens.good = [];
	const env = { HF_ENDPOINT: hub.url, HF_TOKEN: "good", HF_HOME: "/no/such/home" };
	const { state, text } = await examineHub(signal, env);
	assert.equal(state, "good");
	assert.match(text, /answers in \d+ ms; token of HF_TOKEN$/);
});

Deno.test("a hub that cannot be reached, and a wrong address, are warnings with a way out", async () => {
	const away = await examineHub(signal, { HF_ENDPOINT: "http://127.0.0.1:9" });
	assert.equal(away.state, "warning");
	assert.match(away.text, /^Cannot reach the hub at "http:\/\/127\.0\.0\.1:9": .*HF_ENDPOINT/);
	const wrong = await examineHub(signal, { HF_ENDPOINT: "nonsense" });
	assert.equal(wrong.state, "warning");
	assert.match(wrong.text, /^Cannot use HF_ENDPOINT "nonsense"/);
});

Deno.test("doctor looks at the disks that runs write to", () => {
	using folder = new TemporaryFolder();
	const was = Deno.env.get("HF_HUB_CACHE");
	const cache = join(folder.path, "deep/hub");
	Deno.env.set("HF_HUB_CACHE", cache);
	try {
		const [output, hub] = disks();
		assert.equal(output.values!.path, Deno.cwd());
		assert.equal(hub.values!.path, cache);
		assert.equal(hub.values!.writable, true);
		assert.ok((hub.values!.freeBytes as number) > 0);
		assert.ok(hub.text.includes(cache));
	} finally {
		if (was === undefined) Deno.env.delete("HF_HUB_CACHE");
		else Deno.env.set("HF_HUB_CACHE", was);
	}
});

Deno.test("canWrite() knows of folders that are not there yet, and of files in the way", () => {
	using folder = new TemporaryFolder();
	const path = (name: string) => join(folder.path, name);
	assert.equal(canWrite(path("a/b/c")), true);
	writeFileSync(path("file"), "");
	assert.equal(canWrite(path("file/b")), false);
	mkdirSync(path("closed"));
	chmodSync(path("closed"), 0o500);
	if (Deno.uid() !== 0) assert.equal(canWrite(path("closed/b")), false);
});
