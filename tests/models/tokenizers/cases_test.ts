// Tokenizers and chat templates on which others have gone wrong, against the ids and texts of `transformers`
// 4. They lie beside the project; the tests say so where they are missing.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { renderChat } from "~/models/tokenizers/chat_template.ts";
import { TextStream } from "~/models/tokenizers/text_stream.ts";
import { TextTokenizer } from "~/models/tokenizers/tokenizer.ts";
import { denoFolder } from "~/storage/deno_folder.ts";

const CASES = "../shared/cases/tokenizers";
const TEMPLATES = "../shared/cases/templates";
const isThere = existsSync(CASES);

Deno.test({
	name: `tokenizers give the ids and texts of transformers${isThere ? "" : " (needs ../shared)"}`,
	ignore: !isThere,
	fn() {
		const expected: {
			texts: string[];
			cases: Record<string, { ids: number[][]; decoded: string[] }>;
		} = JSON.parse(readFileSync(join(CASES, "expected.json"), "utf8"));
		assert.ok(Object.keys(expected.cases).length >= 9);
		for (const [name, { ids, decoded }] of Object.entries(expected.cases)) {
			const tokenizer = TextTokenizer.load(denoFolder(join(CASES, name)));
			expected.texts.forEach((text, i) => {
				assert.deepEqual(tokenizer.encode(text), ids[i], `${name}: ${JSON.stringify(text)}`);
				assert.equal(tokenizer.decode(ids[i]), decoded[i], `${name}: ${JSON.stringify(text)}`);
				const stream = new TextStream(tokenizer);
				const streamed = ids[i].map((id) => stream.push(id)).join("") + stream.end();
				assert.equal(streamed, decoded[i], `${name}, streamed: ${JSON.stringify(text)}`);
			});
		}
	},
});

Deno.test({
	name: `chat templates give the texts of transformers${isThere ? "" : " (needs ../shared)"}`,
	ignore: !isThere,
	fn() {
		const expected: Record<string, string> = JSON.parse(
			readFileSync(join(TEMPLATES, "expected.json"), "utf8"),
		);
		assert.ok(Object.keys(expected).length >= 7);
		for (const [name, text] of Object.entries(expected)) {
			const path = join(TEMPLATES, name);
			const messages = JSON.parse(readFileSync(join(path, "messages.json"), "utf8"));
			assert.equal(renderChat(denoFolder(path), messages), text, name);
		}
	},
});
