// llama.cpp itself, for `deno task test:export`. Its package is imported by a name that is not in the
// text of an import, so that no other task fetches it.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** The package, and its version in the folder of packages. */
const PACKAGE = "npm:node-llama-cpp@3.21.1";
const BINARIES = ["@node-llama-cpp/linux-x64", "3.21.1", "bins/linux-x64"];

/** What is used of the package. */
interface LlamaModule {
	getLlama(options: Record<string, unknown>): Promise<Llama>;
}
interface Llama {
	loadModel(options: Record<string, unknown>): Promise<LlamaModel>;
	dispose(): Promise<void>;
}
interface LlamaModel {
	tokenize(text: string): number[];
	detokenize(ids: number[]): string;
	readonly tokens: { bos: number | null; shouldPrependBosToken: boolean };
	createContext(options: Record<string, unknown>): Promise<LlamaContext>;
	dispose(): Promise<void>;
}
interface LlamaContext {
	getSequence(): {
		controlledEvaluate(
			input: [token: number, options: Record<string, unknown>][],
		): Promise<({ next: { probabilities: Map<number, number> } } | undefined)[]>;
	};
	dispose(): Promise<void>;
}

/** Fetches the package, unless it is there. */
export async function fetchLlamaCpp(): Promise<LlamaModule> {
	return await import(PACKAGE);
}

/** A GGUF file that llama.cpp has opened, on the CPU. */
export class LlamaCpp implements AsyncDisposable {
	private constructor(readonly llama: Llama, readonly model: LlamaModel) {}

	static async open(modelPath: string): Promise<LlamaCpp> {
		const { getLlama } = await fetchLlamaCpp();
		const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
		const model = await llama.loadModel({ modelPath, defaultContextFlashAttention: false });
		return new LlamaCpp(llama, model);
	}

	/** The ids of a text, without those of special tokens around it. */
	encode(text: string): number[] {
		return [...this.model.tokenize(text)];
	}

	/** The logarithms of the probabilities of the next token behind each one, f32 `[tokens, vocabulary]`. */
	async logProbabilities(ids: ArrayLike<number>, vocabulary: number): Promise<Float32Array> {
		const context = await this.model.createContext({ contextSize: ids.length + 8 });
		const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
		const generateNext = { probabilities: true, options };
		const input = Array.from(
			ids,
			(id): [number, Record<string, unknown>] => [id, { generateNext }],
		);
		const found = await context.getSequence().controlledEvaluate(input);
		const all = new Float32Array(ids.length * vocabulary).fill(-Infinity);
		found.forEach((item, at) => {
			for (const [id, probability] of item!.next.probabilities) {
				all[at * vocabulary + id] = Math.log(probability);
			}
		});
		await context.dispose();
		return all;
	}

	/** The text of the next tokens of greatest probability. */
	async complete(prompt: string, count: number, vocabulary: number): Promise<string> {
		const { bos, shouldPrependBosToken } = this.model.tokens;
		const ids = [...(shouldPrependBosToken ? [bos!] : []), ...this.encode(prompt)];
		for (let i = 0; i < count; i++) {
			const last = (await this.logProbabilities(ids, vocabulary)).subarray(-vocabulary);
			ids.push(last.indexOf(Math.max(...last)));
		}
		return this.model.detokenize(ids.slice(-count));
	}

	async [Symbol.asyncDispose](): Promise<void> {
		await this.model.dispose();
		await this.llama.dispose();
	}
}

/** A file of a package that Deno has fetched. */
export function packageFile(...parts: string[]): string {
	const { stdout } = new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).outputSync();
	const { npmCache } = JSON.parse(new TextDecoder().decode(stdout));
	const found = readdirSync(npmCache).map((registry) => join(npmCache, registry, ...parts))
		.find((path) => existsSync(path));
	if (!found) throw new Error(`There is no ${parts.join("/")} below "${npmCache}"`);
	return found;
}

/** ggml's own decoders of block types: bytes to f32. */
export function ggmlDecoder(type: string): (bytes: Uint8Array, count: number) => Float32Array {
	const symbol = `dequantize_row_${type.toLowerCase().replace("_k", "_K")}`;
	const declared = { parameters: ["buffer", "buffer", "i64"], result: "void" } as const;
	const library = packageFile(...BINARIES, "libggml-base.so");
	const decode = Deno.dlopen(library, { [symbol]: declared }).symbols[symbol];
	return (bytes, count) => {
		const values = new Float32Array(count);
		decode(bytes.slice(), values, BigInt(count));
		return values;
	};
}
