// Control characters of others never reach a terminal raw.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { visibleText } from "../../base/visible_text.ts";
import { writeSafetensors } from "../../storage/write_safetensors.ts";
import { Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

/** Whether a text has nothing that a terminal obeys but line ends and tabs. */
function isHarmless(text: string): boolean {
	return !/[^\P{Cc}\n\t]|[\u202a-\u202e\u2066-\u2069]/u.test(text);
}

Deno.test("visibleText() writes out control characters, and nothing else", () => {
	for (let code = 0; code < 0x3000; code++) {
		const character = String.fromCharCode(code);
		const shown = visibleText(`a${character}b`);
		assert.ok(isHarmless(shown), code.toString(16));
		if (isHarmless(character)) assert.equal(shown, `a${character}b`);
		else assert.equal(JSON.parse(`"${shown}"`), `a${character}b`);
	}
	assert.equal(
		visibleText("a\x1b[2Jb\x9b\x7f\r\n\t😀é"),
		"a\\u001b[2Jb\\u009b\\u007f\\u000d\n\t😀é",
	);
});

const HOSTILE = ["\x1b[2J", "\x1b]0;x\x07", "\x9b2J", "\x7f\b\r", "\u202e"];

Deno.test("names of tensors are shown harmlessly", async () => {
	for (const text of HOSTILE) {
		using folder = new TemporaryFolder();
		const tensors = [{
			name: `a${text}b`,
			dtype: "U8" as const,
			shape: [1],
			data: new Uint8Array(1),
		}];
		writeSafetensors(join(folder.path, "model.safetensors"), tensors);
		for (const args of [[folder.path], [folder.path, "--json"]]) {
			const { code, stdout, stderr } = await startTask("inspect", args);
			assert.equal(code, 0, stderr);
			assert.ok(isHarmless(stdout), JSON.stringify(stdout));
			assert.ok(stdout.includes(visibleText(`a${text}b`)) || args.length > 1);
			if (args.length > 1) assert.equal(JSON.parse(stdout).tensors[0].name, `a${text}b`);
		}
	}
});

Deno.test("messages of templates and names of folders are shown harmlessly", async () => {
	using place = new Workplace({ layers: 1 });
	const template = join(place.model, "chat_template.jinja");
	writeFileSync(template, `{{ raise_exception("a\x1b[2J\x9b") }}`);
	const chat = await startTask("generate", [place.model, "--chat", "--prompt", "x"]);
	assert.equal(chat.code, 1);
	assert.ok(isHarmless(chat.stderr), JSON.stringify(chat.stderr));
	assert.match(chat.stderr, /a\\u001b\[2J\\u009b/);
	const folder = place.path("a\x1b[2J");
	mkdirSync(folder);
	for (const args of [["inspect", folder], ["generate", folder, "--prompt", "x"]]) {
		const [task, ...rest] = args;
		const { code, stderr } = await startTask(task, rest);
		assert.equal(code, 1);
		assert.ok(isHarmless(stderr), JSON.stringify(stderr));
	}
});
