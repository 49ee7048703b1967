// A GGUF file in a browser, with llama.cpp as WebAssembly: `deno task test:export`.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gguf } from "../../export/gguf/gguf.ts";
import { exportModel } from "../../export/mod.ts";
import { PROJECT } from "../checkout.ts";
import { Chromium } from "../browser/chromium.ts";
import { Workplace } from "../micro_model.ts";
import { LlamaCpp, packageFile } from "./llama_cpp.ts";

/** Not in the text of an import, so that no other task fetches it. */
const PACKAGE = "npm:@wllama/wllama@3.13.0";

const PAGE = `<!doctype html><title>wllama</title><script type="module">
import { Wllama } from "/esm/index.js";
globalThis.complete = async (prompt) => {
  const wllama = new Wllama({ default: "/esm/wasm/wllama.wasm" });
  const blob = await (await fetch("/model.gguf")).blob();
  await wllama.loadModel([blob], { n_ctx: 256, n_threads: 1, n_gpu_layers: 0 });
  const { choices } = await wllama.createCompletion({ prompt, max_tokens: 12, temperature: 0 });
  return choices[0].text;
};
</script>`;

const TYPES: Record<string, string> = { js: "text/javascript", wasm: "application/wasm" };

Deno.test("wllama opens a Q2_0 file in Chromium and begins as llama.cpp does", async () => {
	await import(PACKAGE); // fetches it
	const esm = dirname(packageFile("@wllama/wllama", "3.13.0", "esm", "index.js"));
	using place = new Workplace();
	const output = place.path("run");
	const stages = [
		"download",
		{ rtn: { bits: 2, zeros: "middle", "group-size": 64 } },
		{ pack: { embeddings: 8 } },
	];
	await place.run({ model: join(PROJECT, "examples/models/tiny-llama"), output, stages });
	const file = place.path("model.gguf");
	const options = { lossy: false, pause: async () => {} };
	const { types } = await exportModel(gguf, join(output, "model"), file, options);
	assert.deepEqual([types.Q2_0, types.Q8_0], [42, 1]);
	await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, (request) => {
		const { pathname } = new URL(request.url);
		if (pathname === "/") return new Response(PAGE, { headers: { "content-type": "text/html" } });
		const path = pathname === "/model.gguf" ? file : join(esm, pathname.replace(/^\/esm/, ""));
		try {
			const type = TYPES[path.split(".").at(-1)!] ?? "application/octet-stream";
			return new Response(readFileSync(path), { headers: { "content-type": type } });
		} catch {
			return new Response("", { status: 404 });
		}
	});
	const chromium = await Chromium.open();
	try {
		const url = `http://127.0.0.1:${server.addr.port}/`;
		await chromium.show(url, { width: 600, height: 400, scheme: "light" });
		const prompt = "The old man looked at";
		const text = await chromium.evaluate<string>(`complete(${JSON.stringify(prompt)})`);
		await using llama = await LlamaCpp.open(file);
		// Products round differently there, so that near ties of a model of 2 bits fall differently.
		const expected = await llama.complete(prompt, 4, 4096);
		assert.ok(text.startsWith(expected), `"${text}" begins with "${expected}"`);
	} finally {
		await chromium.close();
	}
});
