import assert from "node:assert/strict";
import { isSystemError, reasonOf } from "~/storage/folder.ts";
import { gpu } from "../gpu/gpu.ts";
import { type Fields, type Json, ServedModel, type Serving } from "./served_model.ts";

const micro = await ServedModel.load(gpu);
const { tokenizer } = micro.files;

const GREEDY = { temperature: 0, max_tokens: 12 };
const chat = (content: string) => ({ messages: [{ role: "user", content }] });

/** The text of each choice in the events of a stream. */
function textsOf(events: Json[], path: string): string[] {
	const texts: string[] = [];
	for (const { choices: [choice] } of events.filter(({ choices }) => choices.length > 0)) {
		const piece = path === "completions" ? choice.text : choice.delta.content ?? "";
		texts[choice.index] = (texts[choice.index] ?? "") + piece;
	}
	return texts;
}

Deno.test("a chat and a completion, whole and as a stream, have the same texts and usage", async () => {
	await using serving = micro.serve();
	const cases: [path: string, fields: Fields][] = [
		["chat/completions", { ...chat("The city"), ...GREEDY }],
		["completions", { prompt: "The city", ...GREEDY }],
		["completions", { prompt: ["The city", "A river"], ...GREEDY, echo: true, n: 2 }],
		["completions", { prompt: [5, 6, 7], max_tokens: 9, temperature: 1.5, seed: 4, n: 3 }],
		["chat/completions", { ...chat("x"), seed: 1, top_p: 0, max_completion_tokens: 5 }],
	];
	for (const [path, fields] of cases) {
		const whole = await serving.ask(path, fields);
		assert.equal(whole.status, 200, JSON.stringify(whole));
		const texts = whole.choices.map(({ text, message }: Json) => text ?? message.content);
		const events = await serving.events(path, {
			...fields,
			stream_options: { include_usage: true },
		});
		assert.deepEqual(textsOf(events, path), texts);
		const { usage, choices } = events.at(-1);
		assert.deepEqual(choices, []);
		for (const key of ["prompt_tokens", "completion_tokens", "total_tokens"]) {
			assert.equal(usage[key], whole.usage[key]);
		}
		assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
		assert(events.slice(0, -1).every(({ usage }) => usage === null));
		const reasons = events.flatMap(({ choices }) => choices)
			.filter(({ finish_reason }) => finish_reason);
		assert.equal(reasons.length, texts.length);
		assert.equal(whole.model, "micro");
	}
	const { choices: [{ message, finish_reason }], object } = await serving.ask(
		"chat/completions",
		cases[0][1],
	);
	assert.deepEqual([message.role, message.refusal, object], ["assistant", null, "chat.completion"]);
	assert.equal(finish_reason, "length");
	// As the model's own text.
	const template = "<user>The city</user><assistant>";
	const prompt = tokenizer.encode(template, { specialTokens: false });
	const { choices: [{ text }] } = await serving.ask("completions", { prompt, ...GREEDY });
	assert.equal(text.trimStart(), message.content.trimStart());
	assert.deepEqual(serving.faults, []);
});

Deno.test("choices with a seed differ from each other and come again", async () => {
	await using serving = micro.serve();
	const fields = { prompt: "The", max_tokens: 8, seed: 11, n: 2, temperature: 2 };
	const texts = async (more: Fields = {}) =>
		(await serving.ask("completions", { ...fields, ...more }))
			.choices.map(({ text }: Json) => text);
	const first = await texts();
	assert.notEqual(first[0], first[1]);
	assert.deepEqual(await texts(), first);
	assert.deepEqual((await texts({ seed: 12, n: 1 }))[0], first[1]);
	const unseeded = await Promise.all([texts({ seed: null, n: 1 }), texts({ seed: null, n: 1 })]);
	assert.notDeepEqual(unseeded[0], unseeded[1]);
});

Deno.test("a text ends before the first stop text, no part of which is sent", async () => {
	await using serving = micro.serve();
	const base = { prompt: "The city", temperature: 0, max_tokens: 40 };
	const { choices: [{ text }] } = await serving.ask("completions", base);
	for (const [from, to] of [[1, 2], [6, 14], [3, 30], [0, 4]]) {
		const stop = text.slice(from, to);
		const end = text.indexOf(stop);
		for (const stops of [stop, ["not there", stop]]) {
			const fields = { ...base, stop: stops };
			const events = await serving.events("completions", fields);
			assert.equal(textsOf(events, "completions")[0] ?? "", text.slice(0, end));
			assert.equal(events.at(-1).choices[0].finish_reason, "stop");
			const whole = await serving.ask("completions", { ...fields, logprobs: 0 });
			const { text: short, logprobs } = whole.choices[0];
			assert.equal(short, text.slice(0, end));
			assert(logprobs.text_offset.every((offset: number) => offset < Math.max(1, end)));
		}
	}
});

Deno.test("log-probabilities are those of the model, with the bytes of each token", async () => {
	await using serving = micro.serve();
	const fields = { ...chat("The city"), ...GREEDY, logprobs: true, top_logprobs: 3 };
	const { choices: [{ message, logprobs }] } = await serving.ask("chat/completions", fields);
	assert.equal(logprobs.content.length, GREEDY.max_tokens);
	const bytes = logprobs.content.flatMap(({ bytes }: Json) => bytes);
	const text = new TextDecoder().decode(new Uint8Array(bytes));
	assert.equal(text.trimStart(), message.content.trimStart());
	for (const { token, logprob, top_logprobs } of logprobs.content) {
		assert.equal(top_logprobs.length, 3);
		assert.deepEqual([top_logprobs[0].token, top_logprobs[0].logprob], [token, logprob]); // greedy
		assert(top_logprobs.every(({ logprob: other }: Json) => other <= logprob && other < 0));
	}
	const events = await serving.events("chat/completions", fields);
	const streamed = events.flatMap(({ choices: [{ logprobs }] }) => logprobs?.content ?? []);
	assert.deepEqual(
		streamed.map(({ token }: Json) => token),
		logprobs.content.map(({ token }: Json) => token),
	);
	const plain = await serving.ask("chat/completions", { ...chat("The city"), ...GREEDY });
	assert.equal(plain.choices[0].logprobs, null);
	assert.equal(plain.choices[0].message.content, message.content);
});

Deno.test("the turns of a chat, and choices of a prompt, take over the KV cache of what they share", async () => {
	await using serving = micro.serve();
	const messages: Json[] = [{ role: "system", content: "You answer in a few words, always." }];
	let before = 0;
	for (let turn = 0; turn < 4; turn++) {
		messages.push({ role: "user", content: `Question ${turn}` });
		const { usage, choices: [{ message }] } = await serving.ask("chat/completions", {
			messages,
			temperature: 0,
			max_tokens: 6,
		});
		messages.push(message); // as clients do, with all its fields
		const { cached_tokens } = usage.prompt_tokens_details;
		assert(turn === 0 ? cached_tokens === 0 : cached_tokens >= before - 1, `turn ${turn}`);
		before = usage.prompt_tokens;
	}
	const reused = await serving.metric("prompt_tokens_reused_total");
	assert(reused > 0.5 * await serving.metric("prompt_tokens_total"));

	const prompt = tokenizer.encode("Some other text about a river and a city and a sea");
	await serving.ask("completions", { prompt, n: 3, max_tokens: 2 });
	const more = await serving.metric("prompt_tokens_reused_total") - reused;
	assert.equal(more, 2 * (prompt.length - 1));
});

Deno.test("only the key, the origin, the path and the method that may", async () => {
	await using serving = micro.serve({
		apiKeys: ["sk-one", "sk-two"],
		origins: ["http://localhost:3000"],
	});
	const get = async (path: string, init?: RequestInit) => {
		const response = await fetch(serving.url + path, init);
		const { error } = await response.json().catch(() => ({}));
		return [response.status, error?.code];
	};
	const { port } = new URL(serving.url);
	assert.throws(() => micro.serve({ port: Number(port) }), (error) => {
		return isSystemError(error) && reasonOf(error).includes("in use");
	});
	const headers = { Authorization: "Bearer sk-two" };
	assert.deepEqual(await get("/health"), [200, undefined]);
	assert.deepEqual(await get("/v1/models"), [401, "invalid_api_key"]);
	assert.deepEqual(await get("/metrics"), [401, "invalid_api_key"]);
	for (const wrong of ["Bearer sk-", "Bearer sk-twos", "Basic sk-two", "sk-two", "Bearer "]) {
		assert.deepEqual(await get("/v1/models", { headers: { Authorization: wrong } }), [
			401,
			"invalid_api_key",
		]);
	}
	for (const path of ["/v1/models", "/v1/models/micro", "/metrics"]) {
		assert.deepEqual(await get(path, { headers }), [200, undefined]);
	}
	for (
		const path of ["/", "/v1", "/v1/models/", "//v1/models", "/v1/models/other", "/V1/models", "/%"]
	) assert.deepEqual(await get(path, { headers }), [404, "unknown_url"], path);
	assert.deepEqual(await get("/v1/completions", { headers }), [405, null]);
	assert.deepEqual(await get("/v1/models", { headers, method: "DELETE" }), [405, null]);
	const page = await fetch(`${serving.url}/v1/models`, {
		headers: { ...headers, Origin: "http://localhost:3000" },
	});
	assert.equal(page.headers.get("Access-Control-Allow-Origin"), "http://localhost:3000");
	assert.equal((await page.json()).data[0].id, "micro");
	const preflight = await fetch(`${serving.url}/v1/chat/completions`, {
		method: "OPTIONS",
		headers: {
			Origin: "http://localhost:3000",
			"Access-Control-Request-Headers": "x-stainless-os",
		},
	});
	assert.deepEqual(
		[preflight.status, preflight.headers.get("Access-Control-Allow-Headers")],
		[204, "x-stainless-os"],
	);
	for (const method of ["OPTIONS", "GET"]) {
		const other = await fetch(`${serving.url}/v1/models`, {
			method,
			headers: { ...headers, Origin: "http://evil.example" },
		});
		assert.equal(other.status, 403);
		assert.equal(other.headers.get("Access-Control-Allow-Origin"), null);
		await other.body?.cancel();
	}
});

Deno.test("a client that leaves ends its text, and leaves its place to others", async () => {
	await using serving = micro.serve({}, { parallel: 1 });
	const long = { prompt: "The", max_tokens: 250, temperature: 1 };
	for (const stream of [true, false]) {
		const before = await serving.metric("generated_tokens_total");
		const left = new AbortController();
		const request = serving.post("completions", { ...long, stream }, { signal: left.signal });
		while (await serving.metric("generated_tokens_total") < before + 3) await pause(5);
		const waiting = new AbortController();
		const queued = serving.post("completions", long, { signal: waiting.signal });
		while (await serving.metric("texts_waiting") === 0) await pause(5);
		waiting.abort();
		await assert.rejects(queued);
		left.abort();
		await request.then((response) => response.text()).catch(() => {});
		const short = await serving.ask("completions", { prompt: "A", max_tokens: 1 });
		assert.equal(short.status, 200);
		assert(await serving.metric("generated_tokens_total") < before + 200);
		assert.deepEqual([await running(serving), serving.server.requests], [0, 0]);
	}
	assert.equal(await serving.metric("cancelled_total"), 4);
	assert.deepEqual(serving.faults, []);
});

Deno.test("requests beyond the limit are refused; those in progress end when the server drains", async () => {
	await using serving = micro.serve({ mostRequests: 2 }, { parallel: 1 });
	const fields = { prompt: "The", max_tokens: 60, temperature: 0 };
	const two = [serving.ask("completions", fields), serving.events("completions", fields)];
	while (serving.server.requests < 2) await pause(2);
	const third = await serving.post("completions", fields);
	assert.deepEqual([third.status, third.headers.get("Retry-After")], [429, "2"]);
	assert.equal((await third.json()).error.code, "server_busy");
	const drained = serving.server.drain();
	const [whole, events] = await Promise.all(two);
	assert.equal(whole.usage.completion_tokens, 60);
	assert(events.length > 1);
	await drained;
	await assert.rejects(serving.post("completions", fields));
});

function running(serving: Serving): Promise<number> {
	return serving.metric("texts_running");
}

function pause(milliseconds: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
