import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Gpu } from "~/gpu/device.ts";
import { ResidentModel } from "~/models/generation/generation.ts";
import { ModelFiles } from "~/models/model_files.ts";
import { Engine, type EngineOptions } from "~/serve/engine.ts";
import { Metrics } from "~/serve/metrics.ts";
import { type ServerOptions, TextServer } from "~/serve/server.ts";
import { type MicroModelOptions, writeMicroModel } from "../micro_model.ts";
import { openModel } from "../open.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}" +
	"{% if add_generation_prompt %}<assistant>{% endif %}";

/** Gives a model's folder a chat template. */
export function addTemplate(folder: string, template = TEMPLATE): void {
	const path = join(folder, "tokenizer_config.json");
	const config = JSON.parse(readFileSync(path, "utf8"));
	writeFileSync(path, JSON.stringify({ ...config, chat_template: template }));
}

/** A micro model with a chat template, on the GPU. */
export class ServedModel implements Disposable {
	readonly #folder = new TemporaryFolder();

	private constructor(
		readonly files: ModelFiles,
		readonly model: ResidentModel,
		folder: TemporaryFolder,
	) {
		this.#folder = folder;
	}

	static async load(gpu: Gpu, options: MicroModelOptions = {}): Promise<ServedModel> {
		const folder = new TemporaryFolder();
		const path = writeMicroModel(folder.file("micro"), { layers: 1, maxLength: 512, ...options });
		addTemplate(path);
		const files = openModel(path);
		return new ServedModel(files, await ResidentModel.load(gpu, files), folder);
	}

	/** Serves the model as "micro". */
	serve(server: Partial<ServerOptions> = {}, engine: Partial<EngineOptions> = {}): Serving {
		return new Serving(this, server, { parallel: 4, context: 256, cache: "f32", ...engine });
	}

	[Symbol.dispose](): void {
		this.model[Symbol.dispose]();
		this.files[Symbol.dispose]();
		this.#folder[Symbol.dispose]();
	}
}

// deno-lint-ignore no-explicit-any -- answers have many forms
export type Json = any;

export type Fields = Record<string, unknown>;

export class Serving implements AsyncDisposable {
	readonly server: TextServer;
	readonly engine: Engine;
	readonly faults: unknown[] = [];

	constructor(
		{ files, model }: ServedModel,
		server: Partial<ServerOptions>,
		options: EngineOptions,
	) {
		this.engine = new Engine(model, options, new Metrics());
		this.server = new TextServer(this.engine, { files, id: "micro", context: options.context }, {
			hostname: "127.0.0.1",
			port: 0,
			onFault: (error) => this.faults.push(error),
			...server,
		});
	}

	get url(): string {
		return this.server.url;
	}

	post(path: string, fields: Fields, init: RequestInit = {}): Promise<Response> {
		return fetch(`${this.url}/v1/${path}`, {
			method: "POST",
			body: JSON.stringify({ model: "micro", ...fields }),
			...init,
			headers: { "Content-Type": "application/json", ...init.headers },
		});
	}

	async ask(path: string, fields: Fields, init: RequestInit = {}): Promise<Json> {
		const response = await this.post(path, fields, init);
		return { status: response.status, ...await response.json() };
	}

	/** The events of a stream, without the last one. */
	async events(path: string, fields: Fields): Promise<Json[]> {
		const response = await this.post(path, { ...fields, stream: true });
		const lines = (await response.text()).split("\n\n").filter(Boolean);
		if (lines.pop() !== "data: [DONE]") throw new Error(`the stream ends with ${lines.at(-1)}`);
		return lines.map((line) => JSON.parse(line.replace(/^data: /, "")));
	}

	/** The value of a metric; with labels, the sum. */
	async metric(name: string): Promise<number> {
		const text = await (await fetch(`${this.url}/metrics`)).text();
		const values = text.matchAll(new RegExp(`^billm_${name}(?:\\{.*\\})? (\\S+)$`, "gm"));
		return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.server[Symbol.asyncDispose]();
		this.engine[Symbol.dispose]();
	}
}
