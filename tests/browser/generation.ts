/**
 * What `web/web.ts` generates in Chromium, beside what Deno generates: `deno task test:browser`, with a
 * Chromium on the machine (Debian: apt-get install chromium).
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { generate, ResidentModel } from "../../models/generation/generation.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import type * as Web from "../../web/web.ts";
import { type MicroModelOptions, type StageItem, Workplace } from "../micro_model.ts";
import { bundleWeb } from "../web/bundle.ts";
import { WebPage } from "./web_page.ts";

const PROMPT = [5, 6, 7, 300, 12];
const TOKENS = 24;

/** What follows the prompt in Deno. */
async function generateHere(path: string): Promise<{ ids: number[]; text: string }> {
	await using gpu = await openGpu();
	using files = ModelFiles.open(denoFolder(path));
	using model = await ResidentModel.load(gpu, files);
	const ids: number[] = [];
	let text = "";
	for await (const token of generate(model, { prompt: PROMPT, maxTokens: TOKENS, stopIds: [] })) {
		ids.push(token.id);
		text += token.text;
	}
	return { ids, text };
}

/** The files in a folder, by their paths on a server. */
function filesOf(folder: string, place: string): Record<string, Uint8Array<ArrayBuffer>> {
	return Object.fromEntries(
		readdirSync(folder).map((name) => [
			`${place}/${name}`,
			new Uint8Array(readFileSync(join(folder, name))),
		]),
	);
}

/** Runs in the page: what follows a prompt, alone and beside another text. */
async function generateInPage({ names, prompt, maxTokens, isHardware }: {
	names?: string[];
	prompt: number[];
	maxTokens: number;
	isHardware: boolean;
}) {
	const path = "/web.js"; // of the server, unknown to the compiler
	const web: typeof Web = await import(path);
	const gpu = await web.openGpu({ poison: true });
	if (isHardware) (gpu as { software: boolean }).software = false;
	const folder = names
		? new web.MemoryFolder(
			new Map(
				await Promise.all(names.map(async (name) => {
					const response = await fetch(`/model/${name}`);
					return [name, new Uint8Array(await response.arrayBuffer())] as const;
				})),
			),
		)
		: await web.fetchFolder("/model");
	const files = web.ModelFiles.open(folder);
	const model = await web.ResidentModel.load(gpu, files);
	let recordings = 0;
	const record = gpu.record.bind(gpu);
	gpu.record = (work) => {
		recordings++;
		return record(work);
	};
	const run = async () => {
		const ids: number[] = [];
		let text = "";
		for await (const token of web.generate(model, { prompt, maxTokens, stopIds: [] })) {
			ids.push(token.id);
			text += token.text;
		}
		return { ids, text };
	};
	const alone = await run();
	const together = await Promise.all([run(), run()]);
	const { subgroupSize, software } = gpu;
	model[Symbol.dispose]();
	await gpu[Symbol.asyncDispose]();
	return { alone, together, recordings, subgroupSize, software };
}

/** The browser's own file system. */
type Origin = Parameters<typeof Web.BlobFolder.openOrigin>[0] & {
	getFileHandle(name: string, options: { create: true }): Promise<{
		createWritable(): Promise<{ write(content: Blob): Promise<void>; close(): Promise<void> }>;
	}>;
};

/** Runs in a worker: what follows a prompt, with weights that are read when they are asked for. */
async function generateInWorker(web: typeof Web, prompt: number[], maxTokens: number) {
	const remote = await web.remoteFolder("/model");
	const { storage } = navigator as unknown as { storage: { getDirectory(): Promise<Origin> } };
	const origin = await storage.getDirectory();
	for (const name of remote.names()) { // which are those of the model
		const file = await (await origin.getFileHandle(name, { create: true })).createWritable();
		await file.write(await (await fetch(`/model/${name}`)).blob());
		await file.close();
	}
	const folders = { remote, origin: await web.BlobFolder.openOrigin(origin) };
	const found: Record<string, number[] | string> = {};
	for (const [kind, folder] of Object.entries(folders)) {
		const gpu = await web.openGpu();
		const files = web.ModelFiles.open(folder);
		const model = await web.ResidentModel.load(gpu, files);
		const ids: number[] = [];
		for await (const { id } of web.generate(model, { prompt, maxTokens, stopIds: [] })) {
			ids.push(id);
		}
		found[kind] = ids;
		await gpu[Symbol.asyncDispose]();
	}
	try {
		web.ModelFiles.open(await web.remoteFolder("/whole"));
	} catch (error) {
		found.refused = (error as Error).message;
	}
	return found;
}

/** Runs in the page: what the worker says. */
function askWorker(): Promise<unknown> {
	const worker = new Worker("/worker.js", { type: "module" });
	return new Promise((resolve, reject) => {
		worker.onmessage = ({ data }) => resolve(data);
		worker.onerror = ({ message }) => reject(new Error(message));
	});
}

Deno.test("a worker generates from a server's and the browser's own files, read part by part", async () => {
	using place = new Workplace({ layers: 2 });
	await place.run();
	const path = place.path("out", "model");
	const expected = (await generateHere(path)).ids;
	await using page = await WebPage.open({
		"/web.js": await bundleWeb(),
		"/worker.js": `import * as web from "/web.js";
      postMessage(await (${generateInWorker})(web, ${JSON.stringify(PROMPT)}, ${TOKENS}));`,
		...filesOf(path, "/model"),
		...filesOf(path, "/whole"),
	});
	const found = await page.call(askWorker, undefined) as Record<string, unknown>;
	assert.deepEqual(found.origin, expected);
	assert.deepEqual(found.remote, expected);
	assert.match(
		found.refused as string,
		/^Cannot read "\/whole\/.*\.safetensors": the server gives no parts of files \(status 200\)$/,
	);
});

const MODELS: [name: string, MicroModelOptions, last?: StageItem[]][] = [
	["llama", { layers: 2 }],
	["opt", { family: "opt", layers: 2, hidden: 80, intermediate: 150 }],
	["llama on grids", { layers: 2 }, [{ rtn: { bits: 4 } }, "pack"]],
];

for (const [name, options, stages] of MODELS) {
	Deno.test(`a packed ${name} gives in Chromium the tokens that it gives in Deno`, async () => {
		using place = new Workplace(options);
		await place.run(stages && { stages: [place.method[0], ...stages] });
		const path = place.path("out", "model");
		const expected = await generateHere(path);
		assert.equal(expected.ids.length, TOKENS);
		const names = readdirSync(path);
		await using page = await WebPage.open({
			"/web.js": await bundleWeb(),
			...filesOf(path, "/model"),
		});
		for (const isHardware of [false, true]) {
			const found = await page.call(generateInPage, {
				...(isHardware ? {} : { names }),
				...{ prompt: PROMPT, maxTokens: TOKENS, isHardware },
			});
			assert.deepEqual(found.alone, expected);
			assert.deepEqual(found.together, [expected, expected]);
			assert.equal(found.subgroupSize, 4);
			assert(found.recordings >= 3 && found.recordings <= 7, `${found.recordings} recordings`);
		}
		// What the page fetches counts as well; some files of a model are not there.
		const complaints = page.browser.complaints()
			.filter((text) => !/127\.0\.0\.1:\d+\/(web\.js|model\/)/.test(text));
		assert.deepEqual(complaints, []);
	});
}
