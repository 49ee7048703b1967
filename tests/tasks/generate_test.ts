import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { Workplace } from "../micro_model.ts";
import { startTask, type TaskOptions } from "../start_task.ts";

const task = (args: string[], options: TaskOptions = {}) => startTask("generate", args, options);

/** The output of a text that was generated, its figures taken out. */
function shape(stderr: string): string {
	return stderr.replace(/ at [\d.]+\/s/g, " at R").replace(/[\d.]+ .?B of/, "M of");
}

Deno.test("generate --help prints the usage", async () => {
	for (const option of ["--help", "-h"]) {
		const { code, stdout, stderr } = await task([option]);
		assert.deepEqual([code, stderr], [0, ""]);
		assert.match(stdout, /^Usage: deno task generate MODEL --prompt TEXT \[options\]\n/);
		assert(stdout.split("\n").every((line) => line.length <= 100), "fits the screen");
		const options = ["prompt TEXT", "chat", "max-tokens N", "temperature X", "top-k N", "top-p X"];
		options.push("repetition-penalty X", "seed N", "cache DTYPE", "json", "help");
		for (const option of options) assert(stdout.includes(`\n  --${option} `), option);
	}
});

Deno.test("generate prints the text, then what it took; --json the same as an object", async () => {
	using place = new Workplace({ layers: 2 });
	const args = ["--prompt", "The city of", "--max-tokens", "9"];
	const plain = await task([place.model, ...args]);
	assert.equal(plain.code, 0);
	const json = await task(["model", ...args, "--json"], { env: { INIT_CWD: place.folder } });
	assert.deepEqual([json.code, json.stderr], [0, ""]);
	const { promptSeconds, seconds, promptTokensPerSecond, tokensPerSecond, gpuBytes, ...found } =
		JSON
			.parse(json.stdout);
	assert.deepEqual(Object.keys(found).sort(), [
		"adapter",
		"ids",
		"model",
		"prompt",
		"promptTokens",
		"reason",
		"text",
		"tokens",
	]);
	assert.deepEqual(
		[found.model, found.prompt, found.ids.length, found.tokens],
		["model", "The city of", 9, 9],
	);
	assert.equal(found.reason, "max-tokens");
	assert.equal(promptTokensPerSecond, found.promptTokens / promptSeconds);
	assert.equal(tokensPerSecond, 8 / seconds);
	assert(gpuBytes > 1e5);
	assert.equal(plain.stdout, found.text.endsWith("\n") ? found.text : `${found.text}\n`);
	assert.equal(
		shape(plain.stderr),
		`${found.promptTokens} prompt tokens at R, 9 generated at R, M of GPU memory, --max-tokens reached\n`,
	);
	const one = await task([place.model, "--prompt", "The city of", "--max-tokens", "1"]);
	assert.match(shape(one.stderr), / prompt tokens at R, 1 generated, M of GPU memory, /);

	const sampled = (seed: string) =>
		task([place.model, ...args, "--temperature", "2", "--top-k", "50", "--seed", seed]);
	const texts = [(await sampled("1")).stdout, (await sampled("2")).stdout];
	assert.notEqual(texts[0], plain.stdout);
	assert.notEqual(texts[0], texts[1]);
	assert.equal((await sampled("1")).stdout, texts[0]);
});

Deno.test("generate reads the prompt from the standard input, and gives it as a chat", async () => {
	using place = new Workplace({ layers: 1 });
	const path = join(place.model, "tokenizer_config.json");
	const config = JSON.parse(readFileSync(path, "utf8"));
	const template =
		"{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}";
	writeFileSync(path, JSON.stringify({ ...config, chat_template: template }));
	const ids = async (args: string[], input = "") => {
		const child = new Deno.Command(Deno.execPath(), {
			args: ["run", "-A", "tasks/generate.ts", place.model, "--json", "--max-tokens", "5", ...args],
			env: { INIT_CWD: "" },
			stdin: "piped",
			stdout: "piped",
		}).spawn();
		const writer = child.stdin.getWriter();
		await writer.write(new TextEncoder().encode(input));
		await writer.close();
		const { code, stdout } = await child.output();
		assert.equal(code, 0);
		const { ids, prompt, promptTokens } = JSON.parse(new TextDecoder().decode(stdout));
		return { ids, prompt, promptTokens };
	};
	const text = "Two lines\n of texts — ü";
	const given = await ids(["--prompt", text]);
	assert.deepEqual(await ids(["--prompt", "-"], text), given);
	assert.deepEqual(await ids(["--prompt", "-"], `${text}\n`), given);
	const chat = await ids(["--prompt", "Hi", "--chat"]);
	const written = await ids(["--prompt", "user: Hi"]); // begins with the same token
	assert.equal(chat.prompt, "Hi");
	assert.deepEqual(chat.ids, written.ids);
});

Deno.test({
	name: "generate ends the text at SIGINT",
	ignore: Deno.build.os === "windows",
	async fn() {
		using place = new Workplace({ layers: 4, maxLength: 4000 });
		let signals = 0;
		const { code, stdout, stderr } = await task(
			[place.model, "--prompt", "The", "--max-tokens", "3900"],
			{
				onOutput: (text, child) => {
					if (text.length > 20 && signals++ === 0) child.kill("SIGINT");
				},
			},
		);
		assert.equal(code, 130);
		assert(stdout.endsWith("\n"));
		assert.match(
			shape(stderr),
			/^\d prompt tokens? at R, \d+ generated at R, M of GPU memory, interrupted\n$/,
		);
	},
});

Deno.test("generate takes what a run packed, and a model from the hub", async () => {
	await using hub = new LoopbackHub();
	using place = new Workplace({ layers: 1 });
	await place.run();
	const json = ["--json", "--prompt", "The", "--max-tokens", "6"];
	const packed = await task([place.path("out"), ...json]);
	assert.deepEqual([packed.code, packed.stderr], [0, ""]);
	const inside = await task([place.path("out", "model"), ...json]);
	const ids = (result: { stdout: string }) => JSON.parse(result.stdout).ids;
	assert.deepEqual(ids(packed), ids(inside));

	const plain = await task([place.model, ...json]);
	assert.notDeepEqual(ids(packed), ids(plain));
	const files = readdirSync(place.model)
		.map((name) => [name, new Uint8Array(readFileSync(join(place.model, name)))]);
	hub.add("model", "someone/micro", Object.fromEntries(files));
	const env = {
		HF_ENDPOINT: hub.url,
		HF_HOME: place.path("hf"),
		HF_HUB_OFFLINE: "",
		HF_TOKEN: "",
	};
	const fetched = await task(["someone/micro", ...json], { env });
	assert.deepEqual([fetched.code, fetched.stderr], [0, ""]);
	assert.deepEqual(ids(fetched), ids(plain));
	assert.equal(JSON.parse(fetched.stdout).model, "someone/micro");
	const unknown = await task(["someone/other", ...json], { env });
	assert.equal(unknown.code, 1);
	assert.match(
		unknown.stderr,
		/someone\/other.*; a folder "someone\/other" is not there either\n$/,
	);
});
