// Tasks that are in a loop that never ends: Ctrl-C, SIGTERM and limits of time end them all the same.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Workplace } from "../micro_model.ts";
import { startTask, type TaskOptions, type TaskResult } from "../start_task.ts";

/** Milliseconds that the end may take after a signal: a second of grace, and a machine that is busy. */
const SOON = 6000;
/** A pattern that takes exponential time, and a prompt with which it does. */
const PATTERN = { Regex: "(?:a|a|aa)+$" };
const PROMPT = `${"a".repeat(60)}b`;

/** Components of tokenizers that do not end with the prompt. */
const COMPONENTS: Record<string, unknown> = {
	pre_tokenizer: { type: "Split", pattern: PATTERN, behavior: "Isolated", invert: false },
	normalizer: { type: "Replace", pattern: PATTERN, content: "" },
};

/** Runs a task, and sends it signals when it has printed "busy" and some time has passed. */
async function interrupted(
	task: string,
	args: string[],
	signals: Deno.Signal[],
	options: TaskOptions = {},
): Promise<TaskResult & { milliseconds: number }> {
	let sent = 0;
	const result = await startTask(task, args, {
		...options,
		onOutput(text, child) {
			if (!text.includes("busy") || sent > 0) return;
			sent = Infinity; // not again
			setTimeout(async () => {
				sent = performance.now();
				for (const signal of signals) {
					child.kill(signal);
					await new Promise((resolve) => setTimeout(resolve, 50));
				}
			}, 700); // by now the watchdog listens
		},
	});
	assert.ok(Number.isFinite(sent) && sent > 0, `it was never busy: ${result.stderr}`);
	return { ...result, milliseconds: performance.now() - sent };
}

/** A module that says when the prompt is matched with a pattern. */
function matchTeller(place: Workplace): string {
	const path = place.path("tell.ts");
	const tell = (method: string) => `
    const ${method} = String.prototype.${method};
    String.prototype.${method} = function (...args) {
      if (String(this).includes("${PROMPT}")) Deno.stdout.writeSync(new TextEncoder().encode("busy\\n"));
      return ${method}.apply(this, args);
    };`;
	writeFileSync(
		path,
		`// @ts-nocheck: it replaces methods\n${tell("matchAll")}${tell("replaceAll")}`,
	);
	return path;
}

function breakTokenizer(place: Workplace, component: string): void {
	const path = join(place.model, "tokenizer.json");
	const json = JSON.parse(readFileSync(path, "utf8"));
	writeFileSync(path, JSON.stringify({ ...json, [component]: COMPONENTS[component] }));
}

const WINDOWS = Deno.build.os === "windows";

Deno.test({
	name: "signals end a task in a pattern of a tokenizer that does not end",
	ignore: WINDOWS,
	async fn() {
		const cases: [component: string, signals: Deno.Signal[], atOnce: boolean][] = [
			["pre_tokenizer", ["SIGINT"], false],
			["normalizer", ["SIGTERM"], true],
			["normalizer", ["SIGINT", "SIGINT"], true],
		];
		for (const [component, signals, atOnce] of cases) {
			using place = new Workplace({ layers: 1 });
			breakTokenizer(place, component);
			const preload = matchTeller(place);
			const args = [place.model, "--prompt", PROMPT];
			const { code, stderr, milliseconds } = await interrupted("generate", args, signals, {
				preload,
			});
			assert.equal(code, 130, stderr);
			assert.equal(
				stderr,
				`\nInterrupted while encoding 61 characters with the tokenizer of "${place.model}". ` +
					"The same command begins anew.\n",
			);
			assert.ok(milliseconds < SOON, `${signals} took ${milliseconds} ms`);
			assert.ok(atOnce || milliseconds > 900, "it has a second to end by itself");
		}
	},
});

Deno.test({
	name: "signals end a task in a module of the user that does not end",
	ignore: WINDOWS,
	async fn() {
		using place = new Workplace({ layers: 1 });
		writeFileSync(place.path("stage.ts"), 'console.log("busy");\nfor (;;);\n');
		const file = place.pipeline({ stages: ["download", { use: "./stage.ts" }] });
		const { code, stderr, milliseconds } = await interrupted("quantize", [file, "--check"], [
			"SIGINT",
		]);
		assert.equal(code, 130, stderr);
		assert.equal(stderr, "\nInterrupted. The same command resumes where this one stopped.\n");
		assert.ok(milliseconds < SOON, `took ${milliseconds} ms`);
	},
});

Deno.test("a pattern that takes longer than it may ends the task with one line", async () => {
	using place = new Workplace({ layers: 1 });
	breakTokenizer(place, "pre_tokenizer");
	const args = [place.model, "--prompt", PROMPT];
	const { code, stdout, stderr } = await startTask("generate", args, {
		env: { BILLM_TIME_LIMIT: "0.01" },
	});
	assert.equal(code, WINDOWS ? code : 1);
	assert.deepEqual([stdout, stderr], [
		"",
		`\nError: encoding 61 characters with the tokenizer of "${place.model}" took longer than 0.6 s and ` +
		"may never end; BILLM_TIME_LIMIT=10 gives it ten times as long\n",
	]);
	for (const limit of ["0", "x"]) {
		const refused = await startTask("generate", args, { env: { BILLM_TIME_LIMIT: limit } });
		assert.equal(refused.code, 1);
		assert.equal(
			refused.stderr,
			`Error: BILLM_TIME_LIMIT must be a number above 0, found "${limit}"\n`,
		);
	}
});

Deno.test("a chat template that does not end is refused", async () => {
	using place = new Workplace({ layers: 1 });
	writeFileSync(
		join(place.model, "chat_template.jinja"),
		"{% for i in range(1000000000) %}{% endfor %}",
	);
	const { code, stderr } = await startTask("generate", [place.model, "--chat", "--prompt", "hi"]);
	assert.equal(code, 1);
	assert.equal(
		stderr,
		`Error: The chat template of "${place.model}" does not take the messages: line 1: range() gives ` +
			"at most 100,000 numbers, found 1000000000\n",
	);
});
