// Requests that no good client sends.

import assert from "node:assert/strict";
import type { z } from "zod";
import { ApiError } from "~/serve/api_error.ts";
import { chatForm, completionForm } from "~/serve/forms.ts";
import { chatJob, completionJob } from "~/serve/requests.ts";
import { gpu } from "../gpu/gpu.ts";
import { type Fields, type Json, ServedModel, type Serving } from "./served_model.ts";

const micro = await ServedModel.load(gpu);

const encoder = new TextEncoder();
const HEAD = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";

/** Sends bytes over a connection of its own. */
async function connect(serving: Serving, text: string): Promise<Deno.TcpConn> {
	const { port } = new URL(serving.url);
	const connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
	await writeAll(connection, text);
	return connection;
}

async function writeAll(connection: Deno.TcpConn, text: string): Promise<void> {
	const bytes = encoder.encode(text);
	for (let done = 0; done < bytes.length;) {
		done += await connection.write(bytes.subarray(done)).catch(() => Infinity); // it was closed
	}
}

/** The status of the response on a connection; undefined if it was closed without one. */
async function statusOf(connection: Deno.TcpConn): Promise<number | undefined> {
	const buffer = new Uint8Array(4096);
	const count = await connection.read(buffer).catch(() => null);
	const text = new TextDecoder().decode(buffer.subarray(0, count ?? 0));
	const [, status] = /^HTTP\/1\.1 (\d+)/.exec(text) ?? [];
	return status === undefined ? undefined : Number(status);
}

async function assertWorks(serving: Serving): Promise<void> {
	const { status } = await serving.ask("completions", { prompt: "A", max_tokens: 1 });
	assert.equal(status, 200);
	assert.equal(serving.server.requests, 0);
	assert.equal(await serving.metric("texts_running"), 0);
	assert.deepEqual(serving.faults, []);
}

/** Values of which each field refuses all but some. */
const WRONG = [
	true,
	-1,
	0,
	0.5,
	1e300,
	"x",
	"",
	[],
	{},
	[null],
	[[]],
	[{}],
	{ a: 1 },
	["\ud800"],
	"\ud800",
	new Array(1000).fill("y"),
	Number.MAX_SAFE_INTEGER,
];

Deno.test("each field of a body refuses what it does not know, by its name", async () => {
	const model = { files: micro.files, id: "micro", context: 256 };
	const forms: [job: typeof chatJob | typeof completionJob, form: z.ZodObject, base: Fields][] = [
		[chatJob, chatForm, { messages: [{ role: "user", content: "a" }] }],
		[completionJob, completionForm, { prompt: "a" }],
	];
	/** Fields that others name, which they do not go together with. */
	const others = ["max_tokens", "top_logprobs", "stream_options", "n", "prompt", "messages"];
	for (const [job, form, base] of forms) {
		for (const [field, shape] of Object.entries(form.shape)) {
			let refused = 0;
			for (const value of WRONG) {
				try {
					await job({ model: "micro", max_tokens: 1, ...base, [field]: value }, model);
				} catch (error) {
					if (!(error instanceof ApiError)) throw error;
					refused++;
					const { status, message, options: { param } } = error;
					assert([400, 404].includes(status), `${field}: ${JSON.stringify(value)}: ${status}`);
					assert(param!.startsWith(field) || others.includes(param!), `${field}: ${param}`);
					assert(message.length < 500);
				}
			}
			const isIgnored = (shape as z.ZodType).safeParse({ any: 1 }).success;
			assert(isIgnored || refused >= 3, `${field} takes almost anything`);
		}
	}
});

Deno.test("a field that is unknown or cannot be done is named", async () => {
	await using serving = micro.serve();
	const cases: [Fields, param: string, code: string, message: RegExp][] = [
		[{ temprature: 1 }, "temprature", "unknown_parameter", /: temprature; did you mean "temper/],
		[{ __proto__x: 1 }, "__proto__x", "unknown_parameter", /supplied: __proto__x/],
		[{ tools: [{}] }, "tools", "unsupported_parameter", /"tools": is not supported/],
		[{ model: "gpt-4" }, "model", "model_not_found", /"gpt-4" is not here; .* "micro"/],
		[{ max_tokens: 300 }, "messages", "context_length_exceeded", /256 tokens; .* 300 more/],
		[{ top_logprobs: 2 }, "top_logprobs", "invalid_value", /needs "logprobs": true/],
		[{ stop: ["a", ""] }, "stop[1]", "invalid_value", /"stop\[1\]"/],
		[
			{ messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] },
			"messages[0].content[0].type",
			"invalid_value",
			/text/,
		],
		[{ messages: [{ role: "tool", content: "" }] }, "messages[0].role", "invalid_value", /role/],
		[{ messages: [] }, "messages", "invalid_value", /messages/],
		[
			{ messages: [{ role: "user", content: "a ".repeat(600) }] },
			"messages",
			"context_length_exceeded",
			/have \d+/,
		],
		[
			{ messages: [{ role: "user", content: "a ".repeat(3000) }] },
			"messages",
			"context_length_exceeded",
			/256 tokens, for which 6000 characters are too many/,
		],
		[
			{ messages: new Array(300).fill({ role: "user", content: "" }) },
			"messages",
			"context_length_exceeded",
			/for which 300 messages are too many/,
		],
	];
	for (const [fields, param, code, message] of cases) {
		const messages = [{ role: "user", content: "hi" }];
		const { error } = await serving.ask("chat/completions", { messages, ...fields });
		assert.deepEqual([error.param, error.code], [param, code]);
		assert.match(error.message, message);
	}
	const ids = await serving.ask("completions", { prompt: [1, 4096] });
	assert.match(ids.error.message, /a token id that is not below 4096/);
	const many = await serving.ask("completions", { prompt: new Array(65).fill("a"), n: 2 });
	assert.match(many.error.message, /130 choices of 128/);
});

Deno.test("bodies that are no JSON, too long, too slow or cut short", async () => {
	await using serving = micro.serve({ body: { most: 5000, milliseconds: 300 } });
	const send = async (body: BodyInit, headers: Record<string, string> = {}) => {
		const init = { body, headers: { "Content-Type": "application/json", ...headers } };
		const { status, error } = await serving.ask("completions", {}, init);
		return [status, error?.message];
	};
	const deep = "[".repeat(2400) + "]".repeat(2400);
	const cases: [BodyInit, status: number, RegExp][] = [
		["", 400, /not JSON/],
		["{", 400, /not JSON/],
		["[]", 400, /must be a JSON object/],
		["null", 400, /must be a JSON object/],
		[deep, 400, /must be a JSON object/],
		[`{"model":"micro","prompt":${deep}}`, 400, /prompt/],
		[Uint8Array.of(0x22, 0xff, 0x22), 400, /not UTF-8/],
		[" ".repeat(5001), 413, /at most 5000 bytes/],
		[new Blob([new Uint8Array(9000)]).stream(), 413, /at most 5000 bytes/],
	];
	for (const [body, status, message] of cases) {
		const found = await send(body);
		assert.equal(found[0], status);
		assert.match(found[1], message);
	}
	assert.equal((await send("{}", { "Content-Type": "text/plain" }))[0], 415);

	const slow = await connect(serving, `${HEAD}Content-Length: 100\r\n\r\n{`);
	assert.equal(await statusOf(slow), 408);
	slow.close();
	const huge = await connect(serving, `${HEAD}Content-Length: 99999999999\r\n\r\n{`);
	assert.equal(await statusOf(huge), 413);
	huge.close();
	const cut = await connect(serving, `${HEAD}Content-Length: 100\r\n\r\n{`);
	cut.close();
	await assertWorks(serving);
});

Deno.test("floods of headers, paths, methods and half-closed connections do no harm", async () => {
	await using serving = micro.serve();
	const requests: [text: string, status: (number | undefined)[]][] = [
		[`${HEAD}${"X: y\r\n".repeat(3000)}\r\n`, [400, 431]],
		[`${HEAD}X: ${"y".repeat(1_000_000)}\r\n\r\n`, [400, 431, undefined]],
		[`${HEAD}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}`, [400]],
		[`${HEAD}Content-Length: -1\r\n\r\n{}`, [400]],
		["GET /v1/../metrics HTTP/1.1\r\nHost: a\r\n\r\n", [200]],
		["GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", [404]],
		["GET /%2e%2e%2f%2e%2e%2fetc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", [404]],
		["GET /__proto__ HTTP/1.1\r\nHost: a\r\n\r\n", [404]],
		["GET /%E0%80 HTTP/1.1\r\nHost: a\r\n\r\n", [404]],
		[`GET /${"a".repeat(8000)} HTTP/1.1\r\nHost: a\r\n\r\n`, [404]],
		["BREW /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", [405]],
		["\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", [400, undefined]],
	];
	for (const [text, statuses] of requests) {
		const connection = await connect(serving, text);
		const status = await statusOf(connection);
		assert(statuses.includes(status), `${status} for ${text.slice(0, 60)}`);
		connection.close();
	}
	const body = JSON.stringify({ model: "micro", prompt: "A", max_tokens: 200, stream: true });
	const half = await connect(serving, `${HEAD}Content-Length: ${body.length}\r\n\r\n${body}`);
	assert.equal(await statusOf(half), 200);
	await half.closeWrite(); // as a client that has left
	while (serving.server.requests > 0) await new Promise((resolve) => setTimeout(resolve, 5));
	assert.equal(await serving.metric("cancelled_total"), 1);
	half.close();
	await assertWorks(serving);
});

Deno.test("an error during a stream is its last event", async () => {
	await using serving = micro.serve();
	const original = serving.engine.text.bind(serving.engine);
	serving.engine.text = async function* (request, client, signal) {
		const pieces = original(request, client, signal);
		yield (await pieces.next()).value as Json;
		await pieces.return(undefined!);
		throw new Error("a secret of the machine");
	};
	const response = await serving.post("completions", { prompt: "A", stream: true });
	const events = (await response.text()).split("\n\n").filter(Boolean);
	assert.match(events.at(-1)!, /^data: \{"error":\{"message":"The server has failed/);
	assert.equal(serving.faults.length, 1);
	const whole = await serving.ask("completions", { prompt: "A" });
	assert.deepEqual([whole.status, whole.error.type], [500, "server_error"]);
	assert(!JSON.stringify(whole).includes("secret"));
	serving.faults.length = 0;
	serving.engine.text = original;
	await assertWorks(serving);
});
