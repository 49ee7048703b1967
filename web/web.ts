/**
 * The entry point for web pages: text generation with a model, packed or plain, on the browser's WebGPU.
 * It uses nothing of Deno or Node; `deno bundle --platform browser web/web.ts` bundles it into one file.
 *
 * ```ts
 * const gpu = await openGpu();
 * const files = ModelFiles.open(await fetchFolder("/models/tiny-llama"));
 * const model = await ResidentModel.load(gpu, files);
 * for await (const { text } of generate(model, { prompt: "The city", maxTokens: 50 })) {
 *   document.body.append(text);
 * }
 * ```
 *
 * In a worker, weights need not be in memory: {@link remoteFolder} leaves them on the server, and
 * {@link BlobFolder} on disk.
 *
 * @module
 */

export { UserError } from "../base/errors.ts";
export { Gpu, type GpuOptions, type MemoryUse } from "../gpu/device.ts";
export type { GpuHost, TextStore } from "../gpu/host.ts";
export type { CacheDtype } from "../gpu/kernels/attention/attention_decode.ts";
export { browserGpu, openGpu } from "../hosts/browser_gpu.ts";
export {
	type ContinueOptions,
	continueTokens,
	generate,
	type GeneratedToken,
	type GenerateOptions,
	type GenerationEnd,
	ResidentModel,
	type ResidentOptions,
} from "../models/generation/generation.ts";
export { type HeldCache, PrefixCaches } from "../models/generation/prefix_caches.ts";
export type { SamplingOptions } from "../models/generation/sampling.ts";
export { ModelFiles } from "../models/model_files.ts";
export { type ChatMessage, hasChatTemplate } from "../models/tokenizers/chat_template.ts";
export { FileError, type Folder, type OpenFile, type SourceFile } from "../storage/folder.ts";
export { MemoryFolder } from "../storage/memory_folder.ts";
export { BlobFolder } from "./blob_folder.ts";
export { type BrowserProblem, browserProblem } from "./browser_problem.ts";
export { fetchFolder, type FetchOptions, remoteFolder } from "./fetch_folder.ts";
export { type ModelSource, parseSource } from "./model_source.ts";
export { ModelStore, type OpenModel, type StoredModel, type StoreOptions } from "./model_store.ts";
