/** The worker of the page: it stores models, loads one into GPU memory, and generates text with it. */

/// <reference lib="webworker" />
import {
	BlobFolder,
	browserProblem,
	type Folder,
	generate,
	type Gpu,
	hasChatTemplate,
	ModelFiles,
	ModelStore,
	openGpu,
	PrefixCaches,
	ResidentModel,
	UserError,
} from "../web.ts";
import { keyOf } from "../model_store.ts";
import type { Answer, Input, Loaded, ModelPlace, Options, Question } from "./protocol.ts";

/** A model in GPU memory and what it holds on to. */
interface Running {
	gpu: Gpu;
	model: ResidentModel;
	/** The KV cache of the last text, for the next turn of a chat. */
	caches: PrefixCaches;
	held: Held;
	/** Of the stored model; undefined if it is not stored. */
	key?: string;
}

/** What is freed with a model, the last first. Not every browser has an AsyncDisposableStack. */
class Held {
	readonly #all: (Disposable | AsyncDisposable)[] = [];

	use<Item extends Disposable | AsyncDisposable>(item: Item): Item {
		this.#all.push(item);
		return item;
	}

	async free(): Promise<void> {
		for (const item of this.#all.splice(0).reverse()) {
			try {
				if (Symbol.asyncDispose in item) await item[Symbol.asyncDispose]();
				else item[Symbol.dispose]();
			} catch {
				continue; // of a lost device
			}
		}
	}
}

let running: Running | undefined;
/** Aborts loading or generating, whichever is going on. */
let controller = new AbortController();
let opened: Promise<ModelStore> | undefined;

function say(answer: Answer): void {
	postMessage(answer);
}

function openStore(): Promise<ModelStore> {
	const { storage, locks } = navigator;
	return opened ??= storage.getDirectory().then((root) =>
		new ModelStore(root, locks, () => storage.estimate())
	);
}

/** Questions are answered one after another; "cancel" and "stop" end the one that is being answered. */
let last: Promise<void> = Promise.resolve();
addEventListener("message", ({ data }: MessageEvent<Question>) => {
	if (data.type === "cancel" || data.type === "stop") return controller.abort();
	last = last.then(() => answer(data));
});

async function answer(question: Question): Promise<void> {
	controller = new AbortController();
	const { signal } = controller;
	switch (question.type) {
		case "list":
			return await attempt("list", listModels);
		case "load":
			return await attempt("load", () => load(question.from, signal));
		case "unload":
			return await unload();
		case "remove":
			return await attempt("remove", async () => {
				if (running?.key === question.key) await unload();
				await (await openStore()).remove(question.key);
				await listModels();
			});
		case "generate":
			return await attempt("generate", () => write(question.input, question.options, signal));
	}
}

async function attempt(
	what: (Answer & { type: "failed" })["what"],
	work: () => Promise<void>,
): Promise<void> {
	try {
		await work();
	} catch (error) {
		say({ type: "failed", what, text: controller.signal.aborted ? "Cancelled." : textOf(error) });
		// A device that is lost, or out of memory, is of no further use.
		if (!(error instanceof UserError) && what === "generate") await unload();
	}
}

/** An error in words; those that nothing in the program has expected say so. */
function textOf(error: unknown): string {
	if (error instanceof UserError) return error.message;
	const { name, message } = error as Error;
	if (name === "RangeError" && /allocation/i.test(message)) {
		return "The browser gives this page too little memory for the model.";
	}
	return `${message ?? error} (${
		name ?? "error"
	}). The browser or this program has failed; loading ` +
		`the model again may help.`;
}

async function listModels(): Promise<void> {
	say({ type: "models", models: await (await openStore()).list() });
}

async function load(place: ModelPlace, signal: AbortSignal): Promise<void> {
	const start = performance.now();
	const problem = await browserProblem();
	if (problem) throw new UserError(`${problem.problem} ${problem.remedy}`);
	const { key } = keyOfPlace(place);
	// The same model cannot change while it is held; another one stays until the new one is there.
	if (key !== undefined && key === running?.key) await unload();
	const held = new Held();
	try {
		const { folder, name } = await openFolder(place, signal, held);
		const files = held.use(ModelFiles.open(folder, name));
		await unload();
		const gpu = held.use(await openGpu());
		const onProgress = (done: number, total: number) =>
			say({ type: "progress", text: `Loading layer ${done} of ${total}`, done, total });
		const model = held.use(await ResidentModel.load(gpu, files, { signal, onProgress }));
		const caches = held.use(new PrefixCaches(model, 1));
		running = { gpu, model, caches, held, ...keyOfPlace(place) };
		const seconds = (performance.now() - start) / 1000;
		say({ type: "loaded", model: describe(running, folder, seconds) });
		for (const text of files.warnings) say({ type: "notice", text });
	} catch (error) {
		await held.free();
		throw error;
	}
}

function keyOfPlace(place: ModelPlace): { key?: string } {
	if ("key" in place) return { key: place.key };
	return "source" in place ? { key: keyOf(place.source) } : {};
}

function describe({ gpu, model: { files } }: Running, folder: Folder, seconds: number): Loaded {
	const { current, pooled } = gpu.memory;
	return {
		name: files.name,
		hasChat: hasChatTemplate(folder),
		maxLength: files.architecture.maxLength,
		adapter: nameOf(gpu.device.adapterInfo),
		isSoftware: gpu.software,
		hasSubgroups: gpu.device.features.has("subgroups"),
		gpuBytes: current + pooled,
		seconds,
	};
}

/** What the browser tells of the adapter: more or less of it, to keep devices from being told apart. */
function nameOf({ description, vendor, architecture, device }: GPUAdapterInfo): string {
	return description || [vendor, architecture, device].filter(Boolean).join(" ");
}

async function openFolder(
	place: ModelPlace,
	signal: AbortSignal,
	held: Held,
): Promise<{ folder: Folder; name: string }> {
	if ("files" in place) {
		return { folder: new BlobFolder(place.files, place.name), name: place.name };
	}
	const store = await openStore();
	if ("key" in place) return held.use(await store.open(place.key));
	let shown = { file: "", at: 0 };
	try {
		const model = await store.fetch(place.source, {
			signal,
			onProgress(file, done, total) {
				const at = performance.now();
				if (file === shown.file && at - shown.at < 100) return;
				shown = { file, at };
				say({ type: "progress", text: `Downloading ${file}`, done, total });
			},
			onWait() {
				const text = "Another tab uses this model; waiting until it is downloaded there, or closed";
				say({ type: "progress", text });
			},
			onOffline(reason) {
				say({ type: "notice", text: `The stored model is used, as it is. ${reason}` });
			},
		});
		return held.use(model);
	} finally {
		await listModels();
	}
}

async function unload(): Promise<void> {
	const before = running;
	running = undefined;
	if (!before) return;
	await before.held.free();
	say({ type: "unloaded" });
}

async function write(input: Input, options: Options, signal: AbortSignal): Promise<void> {
	if (!running) throw new UserError("No model is loaded");
	const { gpu, model, caches } = running;
	const tokens = generate(model, { ...input, ...options, caches, signal });
	for (let count = 1;; count++) {
		const { value, done } = await tokens.next();
		if (done) {
			const { current, pooled } = gpu.memory;
			return say({ type: "end", end: value, gpuBytes: current + pooled });
		}
		say({ type: "text", text: value.text, tokens: count });
	}
}
