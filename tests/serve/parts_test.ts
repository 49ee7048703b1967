import assert from "node:assert/strict";
import { EventStream } from "~/serve/event_stream.ts";
import { FairGate, Shares } from "~/serve/fair_gate.ts";
import { Metrics } from "~/serve/metrics.ts";
import { TextPieces } from "~/serve/text_pieces.ts";
import { wholeResponse } from "~/serve/whole_response.ts";
import type { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";

const FOREVER = new AbortController().signal;

Deno.test("turns go to the client that has used the least, whatever the number of its requests", async () => {
	const shares = new Shares();
	const gate = new FairGate(1, shares);
	const turns: string[] = [];
	/** A request that takes turns of so many milliseconds. */
	const request = async (client: string, count: number, milliseconds: number) => {
		using _ = shares.join(client);
		for (let i = 0; i < count; i++) {
			using _turn = await gate.enter(client, FOREVER);
			turns.push(client);
			await Promise.resolve();
			shares.add(client, milliseconds);
		}
	};
	const many = Array.from({ length: 5 }, () => request("many", 20, 1));
	await Promise.all([...many, request("one", 20, 1), request("slow", 5, 4)]);
	const first = turns.slice(0, 40);
	const count = (client: string) => first.filter((name) => name === client).length;
	assert(Math.abs(count("many") - count("one")) <= 2, first.join(" "));
	assert(Math.abs(count("one") - 4 * count("slow")) <= 5, first.join(" "));
	assert.equal(turns.length, 125);
	assert.deepEqual([gate.waiting, gate.inside, shares.used("many")], [0, 0, 0]);
});

Deno.test("a client leaves the last place to others, and one that gives up leaves the queue", async () => {
	const gate = new FairGate(3, new Shares());
	const inside: string[] = [];
	const enter = (client: string, signal = FOREVER) =>
		gate.enter(client, signal).then((place) => {
			inside.push(client);
			return place;
		});
	const first = enter("a");
	const left = new AbortController();
	void enter("a");
	const third = enter("a");
	const gone = enter("a", left.signal);
	await settle();
	assert.deepEqual([inside, gate.waiting], [["a", "a"], 2]);
	void enter("b");
	await settle();
	assert.deepEqual(inside, ["a", "a", "b"]);
	left.abort(new Error("gone"));
	await assert.rejects(gone, /gone/);
	await assert.rejects(enter("c", left.signal), /gone/);
	assert.equal(gate.waiting, 1);
	(await first)[Symbol.dispose]();
	await settle();
	assert.equal(gate.waiting, 1, "a has one still, and leaves the last place free");
	void enter("c");
	await settle();
	assert.deepEqual(inside, ["a", "a", "b", "c"]);
	void third;
});

async function settle(): Promise<void> {
	for (let i = 0; i < 10; i++) await Promise.resolve();
}

Deno.test("a reader that does not read stops what sends, and is given up after a while", async () => {
	const left: Error[] = [];
	const events = new EventStream(400, (reason) => left.push(reason));
	const big = "x".repeat(40_000);
	await events.send(big);
	const others = [events.send(big), events.send("[DONE]")];
	const reader = events.body.getReader();
	for (let read = 0; read < 3; read++) await reader.read();
	await Promise.all(others); // as soon as there is room
	assert.equal(left.length, 0);
	await events.send(big);
	await events.send(big); // returns though nobody reads
	assert.match(left.at(0)!.message, /has read nothing for 0.4 s/);
	await events.send(big);
	events.close();
	assert.equal(left.length, 1);
});

Deno.test("a whole response that takes long shows that it is alive, and hears of a client that left", async () => {
	const never = () => assert.fail("left");
	const quick = await wholeResponse(Promise.resolve({ a: 1 }), 1000, never, never);
	assert.equal(await quick.text(), '{"a":1}');
	await assert.rejects(wholeResponse(Promise.reject(new Error("no")), 1000, never, never), /no/);

	const slow = await wholeResponse(settled(200, { a: 1 }), 10, never, never);
	const text = await slow.text();
	assert.match(text, /^ +\{"a":1\}$/);
	const faults: unknown[] = [];
	const failed = settled(200).then(() => Promise.reject(new Error("no")));
	const failing = await wholeResponse(failed, 5, never, (error) => faults.push(error));
	await assert.rejects(failing.text(), /no/);
	assert.equal(faults.length, 1);
	const left: Error[] = [];
	const given = await wholeResponse(settled(200, {}), 5, (reason) => left.push(reason), never);
	await given.body!.cancel();
	assert.equal(left.length, 1);
	await settled(250);
});

function settled<Value>(milliseconds: number, value?: Value): Promise<Value | undefined> {
	return new Promise((resolve) => setTimeout(() => resolve(value), milliseconds));
}

/** A tokenizer whose ids are bytes, of which -1 is the end. */
const BYTES = {
	decode: (ids: ArrayLike<number>) => new TextDecoder().decode(Uint8Array.from(ids)),
} as unknown as TextTokenizer;

/** The pieces of a text of bytes. */
function piecesOf(text: string, stops: string[], end?: "stop-token" | "max-tokens") {
	const pieces = new TextPieces(BYTES, [], stops);
	const bytes = new TextEncoder().encode(text);
	const found = [];
	for (const [i, id] of bytes.entries()) {
		const logprobs = { logprob: -1, top: [] };
		const reason = i === bytes.length - 1 && end ? { reason: end } : {};
		found.push(pieces.push({ id, logprobs, ...reason }));
		if (pieces.isStopped) break;
	}
	return { texts: found.map(({ text }) => text), tokens: found.map(({ tokens }) => tokens) };
}

Deno.test("pieces are whole characters, and never a part of a stop text", () => {
	const text = "a漢😀b, the end";
	const { texts, tokens } = piecesOf(text, [], "max-tokens");
	assert.equal(texts.join(""), text);
	assert(texts.every((piece) => piece.isWellFormed() && !piece.includes("\ufffd")));
	assert.equal(tokens.flat().length, new TextEncoder().encode(text).length);
	for (
		const [stops, kept] of [
			[["😀"], "a漢"],
			[["漢😀b"], "a"],
			[["😁", "the"], "a漢😀b, "],
			[["b, x", ", t"], "a漢😀b"],
			[["a"], ""],
			[["end!"], text],
		] as [string[], string][]
	) {
		const { texts, tokens } = piecesOf(text, stops, "max-tokens");
		assert.equal(texts.join(""), kept);
		let [length, count] = [0, 0];
		for (const [i, piece] of texts.entries()) {
			length += piece.length;
			count += tokens[i].length;
			assert(text.startsWith(texts.slice(0, i + 1).join("")));
			assert(tokens[i].every(({ start }) => start <= length));
		}
		assert(count >= new TextEncoder().encode(kept).length || kept === "");
	}
	// A character that stays incomplete is given at the end.
	const pieces = new TextPieces(BYTES, [], ["x"]);
	assert.equal(pieces.push({ id: 0xe6 }).text, "");
	assert.equal(pieces.push({ id: 0xbc, reason: "max-tokens" }).text, "\ufffd");
});

Deno.test("metrics have Prometheus' text format", () => {
	const metrics = new Metrics();
	metrics.count("requests_total", 1, { path: "/v1/models", status: 200 });
	metrics.count("requests_total", 2, { path: "/v1/models", status: 200 });
	metrics.observe("request_seconds", 0.2);
	metrics.observe("request_seconds", 1000);
	const text = metrics.text({
		texts_running: 1,
		texts_waiting: 0,
		gpu_bytes: 5,
		resident_bytes: 6,
		heap_bytes: 7,
	});
	for (const line of text.trimEnd().split("\n")) {
		assert.match(
			line,
			/^(# (HELP|TYPE) billm_\w+ .+|billm_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [\d.]+)$/,
		);
	}
	for (
		const line of [
			'\nbillm_requests_total{path="/v1/models",status="200"} 3\n',
			"\nbillm_cancelled_total 0\n",
			'\nbillm_request_seconds_bucket{le="0.1"} 0\n',
			'\nbillm_request_seconds_bucket{le="0.25"} 1\n',
			'\nbillm_request_seconds_bucket{le="+Inf"} 2\nbillm_request_seconds_sum 1000.2\n',
			"\nbillm_request_seconds_count 2\n",
		]
	) assert(text.includes(line), line);
});
