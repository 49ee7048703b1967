import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { PROJECT } from "../checkout.ts";
import { writeMicroModel } from "../micro_model.ts";
import { addTemplate } from "../serve/served_model.ts";
import { startTask, type TaskOptions, type TaskResult } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const WINDOWS = Deno.build.os === "windows";

Deno.test("serve --help prints the usage", async () => {
	const { code, stdout, stderr } = await startTask("serve", ["--help"]);
	assert.deepEqual([code, stderr], [0, ""]);
	assert.match(stdout, /^Usage: deno task serve MODEL \[options\]\n/);
	assert(stdout.split("\n").every((line) => line.length <= 100), "fits the screen");
});

interface Task {
	url: string;
	process: Deno.ChildProcess;
	ended: Promise<TaskResult>;
}

/** Starts a server on a free port. */
async function start(args: string[], options: TaskOptions = {}): Promise<Task> {
	let process: Deno.ChildProcess | undefined;
	const { promise, resolve } = Promise.withResolvers<string>();
	const ended = startTask("serve", [...args, "--port", "0"], {
		...options,
		onStart: (child) => process = child,
		onOutput: (text) => {
			const [, url] = /at (http:\S+)\/v1:.*\n/.exec(text) ?? [];
			if (url) resolve(url);
		},
	});
	const failed = ended.then(({ stderr }) => Promise.reject(new Error(stderr)));
	return { url: await Promise.race([promise, failed]), process: process!, ended };
}

function post(url: string, body: unknown, key = ""): Promise<Response> {
	const headers = { "Content-Type": "application/json", Authorization: `Bearer ${key}` };
	return fetch(`${url}/v1/completions`, { method: "POST", headers, body: JSON.stringify(body) });
}

Deno.test({
	name: "the example of docs/serve.md prints what it says; Ctrl-C lets a request end",
	ignore: WINDOWS,
	async fn() {
		const page = readFileSync(join(PROJECT, "docs/serve.md"), "utf8");
		const block = (type: string) => new RegExp(`\`\`\`${type}\n([^]*?)\`\`\``).exec(page)![1];
		const [, , model] = block("sh").trim().split(" ");
		const { url, process, ended } = await start([join(PROJECT, model)]);
		const code = block("ts").replace("http://127.0.0.1:8080", url);
		const example = await new Deno.Command(Deno.execPath(), { args: ["eval", code] }).output();
		assert.equal(new TextDecoder().decode(example.stdout), block("text"));

		const fields = { model: "tiny-llama", prompt: "A", max_tokens: 60, temperature: 0 };
		const response = await post(url, { ...fields, stream: true });
		process.kill("SIGINT");
		const text = await response.text();
		assert(text.endsWith("data: [DONE]\n\n"), "the stream is whole");
		const { code: status, stderr } = await ended;
		assert.equal(status, 0);
		assert.match(stderr, /^\nEnding after 1 request; Ctrl-C again ends at once\n$/);
	},
});

Deno.test({
	name: "serve takes keys from the environment; a second signal ends it at once",
	ignore: WINDOWS,
	async fn() {
		using folder = new TemporaryFolder();
		const model = writeMicroModel(join(folder.path, "micro"), { layers: 1, maxLength: 8000 });
		addTemplate(model);
		const { url, process, ended } = await start([model, "--name", "m", "--cache", "f16"], {
			env: { BILLM_API_KEY: "sk-1,sk-2" },
		});
		const models = await fetch(`${url}/v1/models`, { headers: { Authorization: "Bearer sk-2" } });
		assert.equal((await models.json()).data[0].id, "m");
		const fields = { model: "m", prompt: "A", max_tokens: 7900, temperature: 1, stream: true };
		assert.equal((await post(url, fields, "sk-3")).status, 401);
		const response = await post(url, fields, "sk-1");
		process.kill("SIGTERM");
		const isUp = () => fetch(`${url}/health`).then(({ ok, body }) => body!.cancel().then(() => ok));
		while (await isUp().catch(() => false)) await new Promise((resolve) => setTimeout(resolve, 50));
		await new Promise((resolve) => setTimeout(resolve, 1200)); // more than the grace of other tasks
		await assert.rejects(post(url, fields, "sk-1"));
		process.kill("SIGINT");
		await assert.rejects(response.text());
		const { code, stderr } = await ended;
		assert.equal(code, 130);
		assert.equal(
			stderr,
			"\nEnding after 1 request; Ctrl-C again ends at once\n" +
				"\nInterrupted. Requests in progress were cut off.\n",
		);
	},
});
