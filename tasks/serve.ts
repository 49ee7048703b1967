import { existsSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { plural } from "../base/figures.ts";
import { bytesText } from "../base/units.ts";
import type { CacheDtype } from "../gpu/kernels/attention/attention_decode.ts";
import { openGpu } from "../hosts/deno_gpu.ts";
import type { ResidentModel } from "../models/generation/generation.ts";
import { cacheBytes } from "../models/generation/kv_cache.ts";
import { Engine } from "../serve/engine.ts";
import { Metrics } from "../serve/metrics.ts";
import { TextServer } from "../serve/server.ts";
import { isSystemError, reasonOf } from "../storage/folder.ts";
import { loadModel, openModel, terminalProgress } from "./open_model.ts";
import { count, modelFolder, runCommand, usageErrors, warnOf } from "./task.ts";

const HELP = `Usage: deno task serve MODEL [options]

Serves a model with the endpoints of OpenAI's API for text: /v1/models, /v1/chat/completions and
/v1/completions; and /health and /metrics. MODEL is a packed or plain model folder, the output
folder of a run that packed one, or a name on the Hugging Face hub. Ctrl-C and SIGTERM let requests
in progress end; a second one ends at once. See docs/serve.md.

Options
  --port N           The port; 0 takes a free one (8080)
  --host ADDRESS     The address to listen on; 0.0.0.0 are all (127.0.0.1)
  --name NAME        The model's name in requests (that of the folder or on the hub)
  --context N        The most tokens of a text with its prompt (the model's length, if the KV caches
                     fit into GPU memory; else the half of it, the quarter ...)
  --parallel N       The most texts at a time; each has a KV cache (4)
  --cache DTYPE      Type of the KV caches: f32, or f16 in half the memory (f32)
  --api-key KEY      A key that requests must have, besides those in BILLM_API_KEY, separated by
                     commas; may be given several times. In the environment, other users of the
                     machine do not see it
  --cors ORIGIN      The origin of web pages that may use the server, such as http://localhost:3000,
                     or * for all; may be given several times
  --requests N       The most requests at a time, with those that wait (64)
  --help             Print this

Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 failed, 2 bad arguments, 130 ended at once.
`;

const usageError = usageErrors("serve");

const options = {
	"port": { type: "string" },
	"host": { type: "string" },
	"name": { type: "string" },
	"context": { type: "string" },
	"parallel": { type: "string" },
	"cache": { type: "string" },
	"api-key": { type: "string", multiple: true },
	"cors": { type: "string", multiple: true },
	"requests": { type: "string" },
} as const;

/** Tokens that a context is not halved below. */
const LEAST_CONTEXT = 256;

const interrupted = "Requests in progress were cut off.";
const command = { name: "serve", help: HELP, options, interrupted, drains: true };

await runCommand(command, async ({ values, positionals, signal }) => {
	if (positionals.length !== 1) throw usageError(`Give one model, found ${positionals.length}`);
	const [name] = positionals;
	const { cache = "f32", host = "127.0.0.1" } = values;
	if (cache !== "f32" && cache !== "f16") {
		throw usageError(`--cache must be f32 or f16, found "${cache}"`);
	}
	const number = (option: "port" | "context" | "parallel" | "requests", fallback: number) =>
		count(usageError, `--${option}`, values[option], fallback, option === "port" ? 0 : 1);
	const port = number("port", 8080);
	if (port > 65535) throw usageError(`--port must be at most 65535, found "${port}"`);
	const parallel = number("parallel", 4);
	const mostRequests = number("requests", 64);
	const asked = values.context === undefined ? undefined : number("context", 0);
	const apiKeys = readKeys(values["api-key"] ?? []);
	const origins = (values.cors ?? []).map(readOrigin);

	const progress = terminalProgress();
	using files = await openModel(name, signal, progress);
	warnOf(files);
	await using gpu = await openGpu();
	using model = await loadModel(gpu, files, signal, progress);
	const context = await contextOf(model, parallel, cache, asked);
	const metrics = new Metrics();
	using engine = new Engine(model, { parallel, context, cache }, metrics);
	const id = values.name ?? nameOf(name);
	let server: TextServer;
	try {
		server = new TextServer(engine, { files, id, context }, {
			hostname: host,
			port,
			apiKeys,
			origins,
			mostRequests,
			onFault: (error) => {
				console.error("Error:", error);
				if (gpu.fault !== undefined) console.error("The GPU is lost; restart the server");
			},
		});
	} catch (error) {
		if (!isSystemError(error)) throw error;
		throw new UserError(`Cannot listen on ${host}, port ${port}: ${reasonOf(error)}`);
	}
	if (apiKeys.length === 0 && !isLoopback(host)) {
		console.error("Warning: anyone who reaches this address can use the server; give an --api-key");
	}
	console.log(
		`Serving "${id}" at ${server.url}/v1: ${context} tokens of context, ` +
			`${parallel} ${plural(parallel, "text")} at a time, on ${gpu.name}`,
	);
	await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
	const { requests } = server;
	console.error(
		`\nEnding after ${requests} ${plural(requests, "request")}; Ctrl-C again ends at once`,
	);
	await server.drain();
});

function readKeys(given: readonly string[]): string[] {
	const keys = [...given, ...(Deno.env.get("BILLM_API_KEY") ?? "").split(",").filter(Boolean)];
	for (const key of keys) {
		if (!/^[\x21-\x7e]+$/.test(key)) {
			throw usageError("An API key must be of ASCII characters without spaces");
		}
	}
	return keys;
}

function readOrigin(text: string): string {
	if (text === "*" || URL.parse(text)?.origin === text) return text;
	throw usageError(
		`--cors must be an origin such as http://localhost:3000, or *; found "${text}"`,
	);
}

/** The model's name in requests: its name on the hub, or that of its folder or its run's. */
function nameOf(name: string): string {
	if (!existsSync(name)) return name;
	const folder = resolve(modelFolder(name));
	return basename(basename(folder) === "model" ? dirname(folder) : folder);
}

/**
 * The context: what was asked for, or else as much as fits into GPU memory.
 *
 * @throws {UserError} If the KV caches do not fit into GPU memory.
 */
async function contextOf(
	{ decoder: { gpu }, files }: ResidentModel,
	parallel: number,
	cache: CacheDtype,
	asked: number | undefined,
): Promise<number> {
	const { architecture } = files;
	const { maxLength } = architecture;
	if (asked !== undefined && asked > maxLength) {
		throw new UserError(
			`"${files.name}" takes at most ${maxLength} tokens, found --context ${asked}`,
		);
	}
	const inUse = gpu.memory.current;
	for (let context = asked ?? maxLength;; context = Math.ceil(context / 2)) {
		const wanted = inUse + parallel * cacheBytes(architecture, context, cache);
		const memory = await gpu.memoryFor(wanted);
		if (memory >= wanted) return context;
		if (asked === undefined && context > LEAST_CONTEXT) continue;
		throw new UserError(
			`${
				bytesText(memory)
			} of GPU memory is too little for ${parallel} texts of ${context} tokens: ` +
				`with the weights they take ${bytesText(wanted)}; give less --context or --parallel` +
				(cache === "f32" ? ", or --cache f16" : ""),
		);
	}
}

function isLoopback(host: string): boolean {
	return host === "localhost" || host === "::1" || host.startsWith("127.");
}
