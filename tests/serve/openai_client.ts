// The server as OpenAI's own client uses it, and under load: `deno task test:serve`.

import assert from "node:assert/strict";
import { writeMicroModel } from "../micro_model.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { addTemplate } from "./served_model.ts";

const PACKAGE = "npm:openai@7.59.0"; // fetched by this task only
const { default: OpenAI } = await import(PACKAGE);

const MODEL = "micro";
const KEYS = Array.from({ length: 8 }, (_, i) => `sk-${i}`);

const folder = new TemporaryFolder();
const model = folder.file(MODEL);
writeMicroModel(model, { layers: 1, hidden: 32, maxLength: 2048 });
addTemplate(model);

let process: Deno.ChildProcess;
const started = Promise.withResolvers<string>();
const ended = startTask("serve", [model, "--port", "0"], {
	env: { BILLM_API_KEY: KEYS.join(",") },
	onStart: (child) => process = child,
	onOutput: (text) => {
		const [, url] = /at (http:\S+)\/v1:.*\n/.exec(text) ?? [];
		if (url) started.resolve(url);
	},
});
const url = await started.promise;

function clientOf(apiKey: string) {
	return new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 });
}

const client = clientOf(KEYS[0]);

async function metric(name: string): Promise<number> {
	const headers = { Authorization: `Bearer ${KEYS[0]}` };
	const text = await (await fetch(`${url}/metrics`, { headers })).text();
	const values = text.matchAll(new RegExp(`^billm_${name}(?:\\{.*\\})? (\\S+)$`, "gm"));
	return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
}

const ask = {
	model: MODEL,
	messages: [{ role: "user" as const, content: "The city of San" }],
	temperature: 0,
	max_tokens: 24,
};
const options = { sanitizeResources: false, sanitizeOps: false };

Deno.test("models, a chat, a stream and a completion", options, async () => {
	const models = await client.models.list();
	assert.deepEqual(models.data.map(({ id }: { id: string }) => id), [MODEL]);
	assert.equal((await client.models.retrieve(MODEL)).id, MODEL);

	const whole = await client.chat.completions.create(ask);
	const { content } = whole.choices[0].message;
	assert.equal(whole.usage!.completion_tokens, 24);
	const stream = await client.chat.completions.create({
		...ask,
		stream: true,
		stream_options: { include_usage: true },
	});
	let text = "";
	let usage;
	for await (const chunk of stream) {
		text += chunk.choices[0]?.delta.content ?? "";
		usage = chunk.usage ?? usage;
	}
	assert.equal(text, content);
	assert.equal(usage!.completion_tokens, 24);
	// The helper that puts a stream together again checks the form of each chunk.
	const helper = client.chat.completions.stream({ ...ask, logprobs: true, top_logprobs: 2, n: 2 });
	const final = await helper.finalChatCompletion();
	assert.deepEqual(
		final.choices.map((choice: { message: { content: string } }) => choice.message.content),
		[content, content],
	);
	assert.equal(final.choices[0].logprobs!.content!.length, 24);
	assert.equal(final.choices[0].logprobs!.content![3].top_logprobs.length, 2);

	const completion = await client.completions.create({
		model: MODEL,
		prompt: ["The", "A"],
		max_tokens: 5,
		logprobs: 1,
	});
	assert.equal(completion.choices.length, 2);
	assert.equal(completion.choices[1].logprobs!.tokens!.length, 5);
});

Deno.test("stop texts, errors and aborts", options, async () => {
	const { choices: [{ message }] } = await client.chat.completions.create(ask);
	const stop = message.content!.slice(10, 16);
	const stopped = await client.chat.completions.create({ ...ask, stop: [stop, "never"] });
	const end = message.content!.indexOf(stop);
	assert.equal(stopped.choices[0].message.content, message.content!.slice(0, end));
	assert.equal(stopped.choices[0].finish_reason, "stop");

	await assert.rejects(clientOf("sk-x").models.list(), OpenAI.AuthenticationError);
	await assert.rejects(
		client.chat.completions.create({ ...ask, model: "other" }),
		(error: { code?: string }) =>
			error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
	);
	await assert.rejects(
		client.chat.completions.create({ ...ask, max_tokens: 1e6 }),
		(error: { code?: string }) =>
			error instanceof OpenAI.BadRequestError && error.code === "context_length_exceeded",
	);
	const before = await metric("cancelled_total");
	const stream = await client.chat.completions.create({ ...ask, max_tokens: 1500, stream: true });
	let chunks = 0;
	for await (const _ of stream) if (++chunks === 5) break; // which aborts the request
	const controller = new AbortController();
	const request = client.chat.completions.create({ ...ask, max_tokens: 1500 }, {
		signal: controller.signal,
	});
	setTimeout(() => controller.abort(), 300);
	await assert.rejects(request, OpenAI.APIUserAbortError);
	while (await metric("texts_running") > 0) await pause(20);
	assert.equal(await metric("cancelled_total"), before + 2);
});

Deno.test("a chat of ten turns reuses its prefix", options, async () => {
	const messages: { role: string; content: string }[] = [
		{ role: "system", content: "You know many cities, and speak of them in short sentences." },
	];
	const before = [await metric("prompt_tokens_total"), await metric("prompt_tokens_reused_total")];
	const fresh: number[] = [];
	for (let turn = 0; turn < 10; turn++) {
		messages.push({ role: "user", content: `What of city number ${turn}?` });
		const { choices, usage } = await client.chat.completions.create({
			...ask,
			messages,
			max_tokens: 16,
		});
		messages.push(choices[0].message);
		fresh.push(usage!.prompt_tokens - usage!.prompt_tokens_details!.cached_tokens!);
	}
	const prompts = await metric("prompt_tokens_total") - before[0];
	const reused = await metric("prompt_tokens_reused_total") - before[1];
	console.log(`ten turns: ${reused} of ${prompts} prompt tokens reused; run in each: ${fresh}`);
	assert(reused > 0.75 * prompts);
});

Deno.test("rounds of 50 requests from 8 clients leave no memory behind", options, async () => {
	/** Requests one after the other, of which each client has its part; some leave early. */
	const round = async (most: number) => {
		let next = 0;
		await Promise.all(KEYS.map(async (key) => {
			const own = clientOf(key);
			while (next < 50) {
				const i = next++;
				const messages = [{ role: "user" as const, content: `City ${i} `.repeat(1 + i % 9) }];
				const fields = { ...ask, messages, max_tokens: 1 + (i * 7) % most, temperature: i % 2 };
				if (i % 3 === 0) {
					const stream = await own.chat.completions.create({ ...fields, stream: true });
					for await (const _ of stream) if (i % 6 === 0) break;
				} else await own.chat.completions.create(fields);
			}
		}));
		while (await metric("texts_running") > 0) await pause(20);
		const sizes = [];
		for (const name of ["resident_bytes", "heap_bytes", "gpu_bytes"]) {
			sizes.push(Math.round(await metric(name) / 1e5) / 10);
		}
		return sizes;
	};
	const rounds = async (most: number) => {
		const sizes = [];
		for (let i = 0; i < 6; i++) sizes.push(await round(most));
		const text = sizes.map((size) => size.join(" ")).join(", ");
		console.log(`MB resident, heap, GPU after rounds of 50 texts of up to ${most} tokens: ${text}`);
		return sizes;
	};
	const long = await rounds(30);
	assert(long[5][2] <= 1.05 * long[2][2], "GPU memory");
	// Mesa's software driver itself loses memory with each product with one vector; texts of one token
	// have none.
	const short = await rounds(1);
	assert(short[5][0] < 1.02 * short[1][0], "resident memory");
	assert(short[5][1] < 2 * long[0][1], "objects");
	assert.equal(await metric("texts_waiting"), 0);
});

Deno.test("a client with many requests does not hold up another one", options, async () => {
	const many = clientOf(KEYS[1]);
	const long = { ...ask, max_tokens: 120, temperature: 1 };
	const busy = Array.from({ length: 12 }, () => many.chat.completions.create(long));
	await pause(200);
	const start = performance.now();
	let done = 0;
	for (const request of busy) void request.then(() => done++);
	await clientOf(KEYS[2]).chat.completions.create(long);
	const seconds = (performance.now() - start) / 1000;
	const before = done;
	await Promise.all(busy);
	console.log(`the only request of a client took ${seconds.toFixed(1)} s, after ${before} of 12`);
	assert(before <= 5);
});

Deno.test("a reader that does not read stops its own text only", options, async () => {
	const { hostname, port } = new URL(url);
	const connection = await Deno.connect({ hostname, port: Number(port) });
	const body = JSON.stringify({
		...ask,
		n: 8,
		max_tokens: 1900,
		temperature: 1,
		logprobs: true,
		top_logprobs: 20,
		stream: true,
	});
	const head = `POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-3\r\n` +
		`Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
	await connection.write(new TextEncoder().encode(head + body));
	let [tokens, last] = [0, -1];
	while (tokens !== last) { // until nothing more is generated for it
		last = tokens;
		await pause(1500);
		tokens = await metric("generated_tokens_total");
	}
	const memory = await metric("resident_bytes");
	const start = performance.now();
	await client.chat.completions.create(ask);
	console.log(
		`a reader that does not read: ${(memory / 1e6).toFixed(0)} MB resident; another request took ` +
			`${((performance.now() - start) / 1000).toFixed(1)} s`,
	);
	connection.close();
	while (await metric("texts_running") > 0) await pause(20);
});

Deno.test("the server ends when it is told to", options, async () => {
	process.kill("SIGINT");
	const { code, stderr } = await ended;
	assert.deepEqual([code, stderr.includes("Error")], [0, false]);
	folder[Symbol.dispose]();
});

function pause(milliseconds: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
