/**
 * The page of `deno task web` in Chromium: `deno task test:browser`, with a Chromium on the machine (Debian:
 * apt-get install chromium). PAGE_PICTURES=FOLDER keeps pictures of the page. PAGE_MODEL=FOLDER adds a test
 * with a model of one's own.
 */
import axe from "axe-core";
import assert from "node:assert/strict";
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { generate, ResidentModel } from "../../models/generation/generation.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { pageFiles } from "../../tasks/web/page_files.ts";
import { ServedModel } from "../../tasks/web/served_model.ts";
import { pageServer } from "../../tasks/web/server.ts";
import { PROJECT } from "../checkout.ts";
import { Workplace } from "../micro_model.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { Chromium, type View } from "./chromium.ts";
import { WEBGPU_FLAGS } from "./web_page.ts";

const VIEWS: Record<string, View> = {
	light: { width: 900, height: 900, scheme: "light" },
	dark: { width: 900, height: 900, scheme: "dark" },
	phone: { width: 375, height: 800, scheme: "light" },
	"phone-dark": { width: 375, height: 800, scheme: "dark" },
};

const TEMPLATE =
	"{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";

type Serve = (request: Request) => Response | Promise<Response>;

const place = new Workplace({ layers: 2 });
await place.run({ stages: [place.method[0], { rtn: { bits: 4 } }, "pack"] });
const packed = place.path("out", "model");
writeFileSync(join(packed, "chat_template.jinja"), TEMPLATE);
const model = ServedModel.open(packed, "tiny");
const files = await pageFiles(`./${model.place}`);
const handler: Serve = pageServer(files, model);
Deno.test.afterAll(() => place[Symbol.dispose]());

/** The page in a browser, and what people do with it. */
class Visit implements AsyncDisposable {
	constructor(readonly browser: Chromium, readonly profile: TemporaryFolder) {}

	static async start(profile = new TemporaryFolder()): Promise<Visit> {
		return new Visit(await Chromium.open(WEBGPU_FLAGS, profile), profile);
	}

	async open(url: string, view = VIEWS.light): Promise<void> {
		await this.browser.show(url, view);
		await this.until("!document.getElementById('load').disabled", 20);
	}

	do(code: string): Promise<unknown> {
		return this.browser.evaluate(
			`(async () => { const $ = (id) => document.getElementById(id); ${code} })()`,
		);
	}

	text(id: string): Promise<string> {
		return this.browser.evaluate(`document.getElementById("${id}").innerText.trim()`);
	}

	/** Waits for an expression. */
	async until(expression: string, seconds = 120): Promise<void> {
		for (const end = Date.now() + 1000 * seconds; Date.now() < end; await setTimeout(50)) {
			if (await this.browser.evaluate<boolean>(`!!(${expression})`).catch(() => false)) return;
		}
		throw new Error(`${expression}, in ${await this.browser.evaluate("document.body.innerText")}`);
	}

	/** Asks for a model. @returns The problem, empty if it was loaded. */
	async load(address?: string): Promise<string> {
		const fill = address === undefined ? "" : `$("address").value = ${JSON.stringify(address)};`;
		await this.do(`${fill} $("load").click()`);
		return await this.loaded();
	}

	async loaded(): Promise<string> {
		await this.until("document.getElementById('progress-part').hidden");
		return await this.text("problem");
	}

	/** Sends a prompt. @returns The last entry of the text, and the problem. */
	async write(prompt: string, mode: "chat" | "completion", maxTokens = 12) {
		await this.send(prompt, mode, maxTokens);
		return await this.written();
	}

	async send(prompt: string, mode: string, maxTokens: number): Promise<void> {
		await this.do(`document.querySelector("[value=${mode}]").click();
      document.querySelector("[name=maxTokens]").value = ${maxTokens};
      $("prompt").value = ${JSON.stringify(prompt)}; $("send").click()`);
	}

	async written(): Promise<{ text: string; problem: string }> {
		await this.until("document.getElementById('stop').hidden");
		const text = await this.browser.evaluate<string>(
			"[...document.querySelectorAll('.entry p')].at(-1)?.textContent ?? ''",
		);
		return { text, problem: await this.text("text-problem") };
	}

	async violations(): Promise<string[]> {
		await this.browser.evaluate(axe.source);
		const { violations } = await this.browser.evaluate<
			{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }
		>("axe.run()");
		return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
	}

	async keepPicture(name: string): Promise<void> {
		const folder = Deno.env.get("PAGE_PICTURES");
		if (!folder) return;
		mkdirSync(folder, { recursive: true });
		writeFileSync(join(folder, `${name}.png`), await this.browser.picture());
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.browser.close();
	}
}

function start(
	serve: Serve = handler,
	port = 0,
): { url: string; server: Deno.HttpServer<Deno.NetAddr> } {
	const server = Deno.serve({ port, hostname: "127.0.0.1", onListen() {} }, serve);
	return { url: `http://localhost:${server.addr.port}/`, server };
}

/** What follows a prompt in Deno. */
async function generateHere(path: string, prompt: string, maxTokens: number): Promise<string> {
	await using gpu = await openGpu();
	using files = ModelFiles.open(denoFolder(path));
	using model = await ResidentModel.load(gpu, files);
	let text = "";
	for await (const token of generate(model, { prompt, maxTokens })) text += token.text;
	return text;
}

Deno.test("a model is loaded, writes what it writes in Deno, and again without a network", async () => {
	const prompt = "The detective 🕵️ looked";
	const expected = prompt + await generateHere(packed, prompt, 24);
	await using visit = await Visit.start();
	const { url, server } = start();
	const { port } = server.addr;
	await visit.open(url);
	await visit.until("document.getElementById('address').value");
	assert.equal(await visit.load(), "");
	assert.match(
		await visit.text("facts"),
		/^Model\s+tiny\s+GPU\s+google swiftshader; computes on the CPU/,
	);
	assert.deepEqual(await visit.write(prompt, "completion", 24), { text: expected, problem: "" });
	assert.match(
		await visit.text("speed"),
		/^\d+ prompt tokens at .*24 generated at .* of GPU memory; stopped/,
	);
	assert.match(await visit.text("stored"), /^tiny, \d+\.\d kB/);
	assert.deepEqual(await visit.violations(), []);
	await visit.until("navigator.serviceWorker.controller");
	const bytes = [...files.values()].reduce((sum, file) => sum + Buffer.byteLength(file), 0);
	assert(bytes < 300_000, `the page has ${bytes} bytes`);
	await server.shutdown();
	await visit.open(url);
	await visit.until("document.querySelector('#stored button')");
	await visit.do(`document.querySelector("#stored button").click()`);
	assert.equal(await visit.loaded(), "");
	assert.match(
		await visit.text("notice"),
		/^The stored model is used, as it is. .* does not answer/,
	);
	assert.equal((await visit.write(prompt, "completion", 24)).text, expected);
	await visit.do(`document.querySelector("#stored button").click()`); // the one that is loaded
	assert.equal(await visit.loaded(), "");
	const again = start(handler, port);
	await visit.do(`[...document.querySelectorAll("#stored button")].at(-1).click()`);
	await visit.until("document.getElementById('stored-part').hidden");
	await again.server.shutdown();
});

for (const [name, view] of Object.entries(VIEWS)) {
	Deno.test(`the page, ${name}: no complaint, nothing beyond the edge, accessible`, async () => {
		await using visit = await Visit.start();
		const { url, server } = start();
		await visit.open(url, view);
		const check = async (state: string) => {
			await visit.keepPicture(`${name}-${state}`);
			const width = await visit.browser.evaluate("document.documentElement.scrollWidth");
			assert.equal(width, view.width, "it does not scroll sideways");
			assert.deepEqual(await visit.violations(), [], state);
		};
		await check("start");
		assert.match(await visit.load("/nowhere"), /There is no model at/);
		await check("problem");
		assert.equal(await visit.load(`${url}${model.place}`), "");
		await visit.write("Who are you? <b>&amp;", "chat");
		await visit.do(`document.querySelector("details").open = true`);
		await check("text");
		const complaints = visit.browser.complaints().filter((text) =>
			!/"url":"http:..localhost/.test(text)
		);
		assert.deepEqual(complaints, []);
		await server.shutdown();
	});
}

Deno.test("a browser that is killed in the middle of a download goes on with it", async () => {
	const [last] = [...model.paths.keys()].slice(-1);
	const whole = readFileSync(model.paths.get(last)!).length;
	let slow = true;
	const ranges: (string | null)[] = [];
	const { url, server } = start(async (request) => {
		const response = await handler(request);
		if (!request.url.endsWith(last)) return response;
		ranges.push(request.headers.get("range"));
		if (!slow) return response;
		const bytes = await response.bytes();
		const body = new ReadableStream({
			async pull(controller) {
				controller.enqueue(bytes.subarray(0, whole >> 1));
				await new Promise(() => {});
			},
		});
		return new Response(body, { headers: response.headers });
	});
	const profile = new TemporaryFolder();
	{
		const visit = await Visit.start(profile);
		await visit.open(url);
		await visit.do(`$("address").value = "./${model.place}"; $("load").click()`);
		await visit.until(`document.getElementById("progress-text").textContent.includes("${last}")`);
		await setTimeout(1000);
		await visit.keepPicture("download");
		await visit.browser.kill();
	}
	slow = false;
	await using visit = await Visit.start(profile);
	await visit.open(url);
	await visit.until("document.querySelector('#stored button')");
	assert.match(await visit.text("stored"), /^tiny, \d+\.\d kB of \d+\.\d kB, incomplete\s+Resume/);
	await visit.until("document.querySelector('#stored button')");
	await visit.do(`document.querySelector("#stored button").click()`);
	assert.equal(await visit.loaded(), "");
	assert.deepEqual(ranges, [null, `bytes=${whole >> 1}-`]);
	await server.shutdown();
});

Deno.test("what cannot be loaded is said in words", async () => {
	await using visit = await Visit.start();
	const { url, server } = start();
	const others = start(async (request) => { // another site
		const { pathname } = new URL(request.url);
		const isOpen = pathname.startsWith("/open/");
		const { url, method, headers: asked } = request;
		const inner = new Request(url.replace("/open/", "/"), { method, headers: asked });
		const response = await handler(inner);
		const headers = new Headers(response.headers);
		if (isOpen) headers.set("access-control-allow-origin", "*");
		return new Response(response.body, { status: response.status, headers });
	});
	await visit.open(url);
	const cases: [address: string, problem: RegExp][] = [
		["nonsense", /^Cannot load "nonsense": it is neither a URL nor a name on the hub/],
		[
			`${others.url}${model.place}`,
			/answers, but does not let pages of other sites read its files \(CORS\)/,
		],
		[
			"http://localhost:1/m",
			/"http:\/\/localhost:1" does not answer; check the address and the network$/,
		],
		[`${others.url}open/none`, /^There is no model at ".*": it has no config.json/],
	];
	for (const [address, problem] of cases) assert.match(await visit.load(address), problem);
	assert.equal(await visit.load(`${others.url}open/${model.place}`), "");
	await visit.browser.send("Storage.overrideQuotaForOrigin", {
		origin: url.slice(0, -1),
		quotaSize: 1e5,
	});
	assert.match(
		await visit.load(`${url}${model.place}`),
		/^Cannot store "tiny": .*; delete another model, or free disk space/,
	);
	await Promise.all([server.shutdown(), others.server.shutdown()]);
});

Deno.test("chosen folders: a run, one without a model, one without weights", async () => {
	await using visit = await Visit.start();
	const { url, server } = start();
	await visit.open(url);
	const { root } = await visit.browser.send("DOM.getDocument") as { root: { nodeId: number } };
	const { nodeId } = await visit.browser.send("DOM.querySelector", {
		nodeId: root.nodeId,
		selector: "#folder",
	});
	const choose = async (folder: string) => {
		await visit.do(`$("problem").textContent = ""`);
		await visit.browser.send("DOM.setFileInputFiles", { nodeId, files: [folder] });
		await visit.until(
			"document.getElementById('problem').textContent || !document.getElementById('facts').hidden",
		);
		return await visit.loaded();
	};
	using other = new TemporaryFolder();
	writeFileSync(join(other.path, "text.txt"), "");
	assert.match(await choose(other.path), /^There is no config.json among the 1 files/);
	copyFileSync(join(packed, "config.json"), join(other.path, "config.json"));
	assert.match(await choose(other.path), /it has no weights as "model.safetensors"/);
	assert.equal(await choose(place.path("out")), ""); // of the run
	await visit.open(url);
	const data = { items: [], files: [place.path("out")], dragOperationsMask: 1 };
	for (const type of ["dragEnter", "dragOver", "drop"]) {
		await visit.browser.send("Input.dispatchDragEvent", { type, x: 300, y: 300, data });
	}
	await visit.until(
		"document.getElementById('problem').textContent || !document.getElementById('facts').hidden",
	);
	assert.equal(await visit.loaded(), "");
	assert.equal((await visit.write("The", "completion", 3)).problem, "");
	await server.shutdown();
});

Deno.test("prompts: stopped, too long, wrong settings, further turns of a chat", async () => {
	await using visit = await Visit.start();
	const { url, server } = start();
	await visit.open(url);
	assert.equal(await visit.load(`${url}${model.place}`), "");
	await visit.send("The", "completion", 100_000);
	await visit.until("document.getElementById('speed').textContent.includes('generated at')");
	await visit.do(`$("stop").click()`);
	assert.equal((await visit.written()).problem, "");
	assert.match(await visit.text("speed"), /; stopped|longest text/);
	const long = "very long ".repeat(200);
	const { problem } = await visit.write(long, "chat");
	assert.match(problem, /^The prompt has \d+ tokens, but the model "tiny" takes at most 128$/);
	assert.equal(await visit.browser.evaluate("document.getElementById('prompt').value"), long);
	await visit.do(`document.querySelector("[name=topP]").value = "7"`);
	await visit.do(`$("send").click()`);
	assert.match(await visit.text("text-problem"), /^Top p: Value must be less than or equal to 1/);
	await visit.do(`document.querySelector("[name=topP]").value = ""; $("clear").click()`);
	assert.match(await visit.load("/nowhere"), /^There is no model at/); // the loaded one stays
	await visit.write("One", "chat", 3);
	await visit.write("Two", "chat", 3);
	const titles = await visit.browser.evaluate(
		"[...document.querySelectorAll('.entry h3')].map((h) => h.textContent)",
	);
	assert.deepEqual(titles, ["You", "Model", "You", "Model"]);
	await server.shutdown();
});

Deno.test("the next turn of a chat runs its new tokens only", async () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "tiny-llama");
	cpSync(join(PROJECT, "examples/models/tiny-llama"), path, { recursive: true });
	const template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}";
	writeFileSync(join(path, "chat_template.jinja"), template);
	const tiny = ServedModel.open(path, "tiny-llama");
	const { url, server } = start(pageServer(files, tiny));
	await using visit = await Visit.start();
	await visit.open(url);
	assert.equal(await visit.load(`${url}${tiny.place}`), "");
	const { text: answer } = await visit.write("The old man", "chat", 8);
	assert.match(await visit.text("speed"), /^4 prompt tokens at/);
	const { text } = await visit.write("And then", "chat", 8);
	// The last token of the answer has not been run yet.
	assert.match(await visit.text("speed"), /^5 prompt tokens after 11 of the last text at/);
	const prompt = `The old man</s>${answer}</s>And then</s>`;
	assert.equal(text, (await generateHere(path, prompt, 8)).trimStart());
	await server.shutdown();
});

Deno.test("a second tab waits for the download of the first, and uses it", async () => {
	await using visit = await Visit.start();
	let isHeld = true;
	let downloads = 0;
	const held: (() => void)[] = [];
	const { url, server } = start(async (request) => {
		if (request.url.endsWith("tokenizer.json")) {
			downloads++;
			if (isHeld) await new Promise<void>((resolve) => held.push(resolve));
		}
		return await handler(request);
	});
	await visit.open(url);
	await visit.do(`$("address").value = "./${model.place}"; $("load").click()`);
	await visit.until("document.getElementById('progress-text').textContent.includes('Downloading')");
	const second = new Visit(await visit.browser.openTab(), visit.profile);
	await second.open(url);
	await second.do(`$("address").value = "./${model.place}"; $("load").click()`);
	await second.until(
		`document.getElementById("progress-text").textContent.startsWith("Another tab uses")`,
	);
	isHeld = false;
	for (const go of held) go();
	assert.deepEqual([await visit.loaded(), await second.loaded()], ["", ""]);
	assert.equal(downloads, 1);
	await second.do(`document.querySelectorAll("#stored button")[1].click()`);
	await second.until("document.getElementById('problem').textContent");
	assert.match(await second.text("problem"), /^The model is in use, here or in another tab/);
	await server.shutdown();
});

Deno.test("a browser without WebGPU, and one without subgroups", async () => {
	await using visit = await Visit.start();
	const { url, server } = start();
	await visit.browser.send("Page.addScriptToEvaluateOnNewDocument", {
		source: "if (location.search === '?none') delete Navigator.prototype.gpu",
	});
	await visit.browser.show(`${url}?none`, VIEWS.light);
	await visit.until("document.getElementById('problem').textContent");
	assert.match(await visit.text("problem"), /^This browser has no WebGPU. Use a current/);
	assert.equal(await visit.browser.evaluate("document.getElementById('load').disabled"), true);
	await server.shutdown();

	const lacking = `const get = GPUAdapter.prototype.__lookupGetter__("features");
    Object.defineProperty(GPUAdapter.prototype, "features", { get() {
      return new Set([...get.call(this)].filter((name) => name !== "subgroups")); } });\n`;
	const other = start(
		pageServer(
			new Map(files).set("worker.js", lacking + files.get("worker.js")),
			model,
		),
	);
	await visit.open(other.url);
	assert.equal(await visit.load(`${other.url}${model.place}`), "");
	assert.match(await visit.text("facts"), /without subgroups, so slower/);
	const expected = "The" + await generateHere(packed, "The", 8);
	assert.equal((await visit.write("The", "completion", 8)).text, expected);
	await other.server.shutdown();
});

Deno.test("a GPU with the fewest bindings runs grids, and says so of what needs more", async () => {
	using billm = new Workplace({ layers: 1 });
	await billm.run();
	const least = `const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = function (wanted) {
      delete wanted.requiredLimits.maxStorageBuffersPerShaderStage;
      return request.call(this, wanted);
    };\n`;
	const bare = new Map(files).set("worker.js", least + files.get("worker.js"));
	const servers = await Promise.all(
		[model, ServedModel.open(billm.path("out", "model"), "billm")].map(async (model) => {
			const { url, server } = start(pageServer(bare, model));
			return { url, server, model: `${url}${model.place}` };
		}),
	);
	await using visit = await Visit.start();
	await visit.open(servers[0].url);
	assert.equal(await visit.load(servers[0].model), "");
	const expected = "The" + await generateHere(packed, "The", 8);
	assert.equal((await visit.write("The", "completion", 8)).text, expected);
	await visit.open(servers[1].url);
	assert.match(
		await visit.load(servers[1].model),
		/^".*" lets a kernel bind 8 buffers, but ".*" binds (9|10); use another adapter, or a model/,
	);
	for (const { server } of servers) await server.shutdown();
});

const own = Deno.env.get("PAGE_MODEL");
Deno.test({
	name: "a model of one's own writes what it writes in Deno",
	ignore: own === undefined,
	async fn() {
		const prompt = "The capital of France is";
		const expected = await generateHere(own!, prompt, 16);
		const model = ServedModel.open(own!, "own");
		const { url, server } = start(pageServer(files, model));
		await using visit = await Visit.start();
		await visit.open(url);
		await visit.do(`$("address").value = "./${model.place}"; $("load").click()`);
		await visit.until("document.getElementById('progress-part').hidden", 600);
		assert.equal(await visit.text("problem"), "");
		await visit.send(prompt, "completion", 16);
		await visit.until("document.getElementById('stop').hidden", 600);
		assert.equal((await visit.written()).text, prompt + expected);
		await visit.keepPicture("own");
		await server.shutdown();
	},
});
