import { fetchModel, type FetchOptions, type Snapshot } from "~/hub/fetch_files.ts";
import type { HubLimits } from "~/hub/limits.ts";
import { uniforms } from "../reference/random.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { LoopbackHub, type RepositoryOptions } from "./loopback_hub.ts";

/** Pauses too short to be noticed. */
export const QUICK: Partial<HubLimits> = {
	attempts: 4,
	firstPauseMs: 1,
	longestPauseMs: 4,
	stallMs: 5000,
	impatientStallMs: 5000,
};

/** A hub, an empty cache and what was said of the downloads into it. */
export class HubPlace implements AsyncDisposable {
	readonly hub = new LoopbackHub();
	readonly #folder = new TemporaryFolder();
	readonly cache = this.#folder.path;
	readonly warnings: string[] = [];

	options(others: FetchOptions = {}): FetchOptions {
		return {
			settings: this.hub.settings(this.cache),
			onWarning: (text) => this.warnings.push(text),
			...others,
			limits: { ...QUICK, ...others.limits },
		};
	}

	/** Adds the model "org/model" of a few small files and weights of so many bytes. */
	addModel(weights: Uint8Array = noise(40_000), options: RepositoryOptions = {}): string {
		return this.hub.add("model", "org/model", {
			"config.json": `{"model_type": "llama"}`,
			"tokenizer.json": `{"version": "1.0"}`,
			"model.safetensors": weights,
		}, options);
	}

	fetchModel(others: FetchOptions = {}, revision = "main"): Promise<Snapshot> {
		return fetchModel({ type: "model", id: "org/model", revision }, this.options(others));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.hub[Symbol.asyncDispose]();
		this.#folder[Symbol.dispose]();
	}
}

/** Bytes without pattern. */
export function noise(bytes: number, seed = 1): Uint8Array {
	return new Uint8Array(uniforms(Math.ceil(bytes / 4), seed).buffer, 0, bytes);
}

/** The paths of all files and links below a folder, sorted, links with their targets. */
export function tree(folder: string, prefix = ""): string[] {
	return [...Deno.readDirSync(folder)].flatMap((entry) => {
		const path = prefix + entry.name;
		if (entry.isDirectory) return tree(`${folder}/${entry.name}`, `${path}/`);
		return entry.isSymlink ? `${path} -> ${Deno.readLinkSync(`${folder}/${entry.name}`)}` : path;
	}).sort();
}
