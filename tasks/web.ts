import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { count, modelFolder, runCommand, usageErrors } from "./task.ts";
import { pageFiles } from "./web/page_files.ts";
import { ServedModel } from "./web/served_model.ts";
import { pageServer } from "./web/server.ts";
import { writeSite } from "./web/write_site.ts";

const HELP = `Usage: deno task web [MODEL] [options]

Serves a page that runs models on the browser's WebGPU. MODEL, a packed or plain model folder or the
output folder of a run, is offered by the page, which also loads models from other servers, from the
Hugging Face hub and from folders of the device. Ctrl-C stops.

Options
  --port N      Port (8000)
  --host NAME   Address to listen on (127.0.0.1); browsers offer WebGPU on https and localhost only
  --build OUT   Write page and model into a folder for a static host, instead of serving them
  --help        Print this

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
`;

const usageError = usageErrors("web");

const options = {
	port: { type: "string" },
	host: { type: "string" },
	build: { type: "string" },
} as const;

await runCommand({ name: "web", help: HELP, options }, async ({ values, positionals, signal }) => {
	const { port: portText, host: hostname = "127.0.0.1", build } = values;
	if (positionals.length > 1) {
		throw usageError(`Give one model at most, found ${positionals.length}`);
	}
	const port = count(usageError, "--port", portText, 8000, 0);
	if (port > 65535) throw usageError(`--port must be at most 65535, found ${port}`);
	const [given] = positionals;
	const model = given === undefined ? undefined : open(given);
	const page = await pageFiles(model && `./${model.place}`);
	if (build !== undefined) {
		writeSite(build, page, model);
		return console.log(`Written: ${build}`);
	}
	const handler = pageServer(page, model);
	const onListen = ({ hostname, port }: Deno.NetAddr) =>
		console.log(`Open http://${hostname === "127.0.0.1" ? "localhost" : hostname}:${port}/`);
	try {
		await Deno.serve({ port, hostname, signal, onListen }, handler).finished;
	} catch (error) {
		if (!(error instanceof Deno.errors.AddrInUse)) throw error;
		throw new UserError(`Cannot listen on port ${port}: another program does; give another --port`);
	}
	signal.throwIfAborted();
});

function open(folder: string): ServedModel {
	if (existsSync(folder)) return ServedModel.open(modelFolder(folder), basename(resolve(folder)));
	throw new UserError(
		`Cannot serve "${folder}": there is no such folder` +
			(HUB_ID.test(folder) ? `; the page loads models from the hub itself: give it the name` : ""),
	);
}
