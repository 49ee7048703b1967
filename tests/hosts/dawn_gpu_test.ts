import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { findDawn, paceQuestions } from "~/hosts/dawn_gpu.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

Deno.test("Dawn's binding is found where it is installed for this platform", () => {
	using folder = new TemporaryFolder();
	assert.equal(findDawn(undefined), undefined);
	assert.equal(findDawn(folder.path), undefined);
	for (const platform of ["linux-x64", "linux-arm64", "darwin-universal", "win32-x64"]) {
		const file = folder.file("node_modules/webgpu/dist", platform, "dawn.node");
		mkdirSync(dirname(file), { recursive: true });
		writeFileSync(file, "");
	}
	assert.match(findDawn(folder.path)!, /webgpu\/dist\/[\w-]+\/dawn\.node$/);
});

Deno.test("a backend that is not installed, or does not exist, is refused with what to do", async () => {
	using folder = new TemporaryFolder();
	const generate = async (env: Record<string, string>) => {
		const args = ["examples/models/tiny-llama", "--prompt", "The", "--max-tokens", "1"];
		const { code, stderr } = await startTask("generate", args, {
			env: { BILLM_CACHE: folder.path, BILLM_DAWN: "", ...env },
		});
		return [code, stderr];
	};
	const [missing, unknown, imprecise, lost, automatic] = await Promise.all([
		generate({ BILLM_BACKEND: "dawn" }),
		generate({ BILLM_BACKEND: "vulkan" }),
		generate({ BILLM_PRECISION: "f8" }),
		generate({ BILLM_BACKEND: "dawn", BILLM_DAWN: "/no/dawn.node" }),
		generate({ BILLM_BACKEND: "auto" }),
	]);
	assert.equal(missing[0], 1);
	assert.match(`${missing[1]}`, /is "dawn", which is not installed; the command dawn installs it/);
	const known = "BILLM_BACKEND must be one of deno, dawn, auto";
	assert.deepEqual(unknown, [1, `Error: ${known}, found "vulkan"\n`]);
	assert.deepEqual(imprecise, [
		1,
		'Error: BILLM_PRECISION must be one of f32, f16, found "f8"\n',
	]);
	assert.deepEqual(lost, [
		1,
		'Error: BILLM_DAWN is "/no/dawn.node", but there is no such file\n',
	]);
	assert.equal(automatic[0], 0);
});

Deno.test("those who do not use Dawn do not fetch it", () => {
	const { npm } = JSON.parse(readFileSync("deno.lock", "utf8"));
	assert.deepEqual(Object.keys(npm).filter((name) => name.startsWith("webgpu@")), []);
});

Deno.test("native functions that ask again and again are called less often, the longer they wait", async () => {
	const usual = globalThis.setImmediate;
	try {
		paceQuestions();
		const end = performance.now() + 300;
		let asked = 0;
		const { promise, resolve } = Promise.withResolvers<void>();
		const ask = () => {
			asked++;
			if (performance.now() < end) globalThis.setImmediate(question);
			else resolve();
		};
		const question = ask.bind(undefined); // its text is that of a native function
		globalThis.setImmediate(question);
		await promise;
		assert.ok(asked > 20 && asked < 1000, `${asked} times`);

		const next = await new Promise((resolve) =>
			globalThis.setImmediate((value) => resolve(value), "argument")
		);
		assert.equal(next, "argument", "other callbacks are called as usual");
	} finally {
		globalThis.setImmediate = usual;
	}
});
