import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { UserError } from "~/base/errors.ts";
import { type ChatMessage, renderChat } from "~/models/tokenizers/chat_template.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";

const TOKENS = { bos_token: { content: "<s>" }, eos_token: "</s>" };

const MESSAGES: ChatMessage[] = [
	{ role: "system", content: "Be brief." },
	{ role: "user", content: "Hi" },
	{ role: "assistant", content: "Hello" },
	{ role: "user", content: " Why?\n" },
];

/** The template of Llama 2's chat models, shortened. */
const LLAMA2 = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}" +
	"{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}" +
	"{% set system_message = false %}{% endif %}{% for message in loop_messages %}" +
	"{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
	"{{ raise_exception('Conversation roles must alternate') }}{% endif %}" +
	"{% if loop.index0 == 0 and system_message %}" +
	"{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}" +
	"{% else %}{% set content = message['content'] %}{% endif %}" +
	"{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}" +
	"{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

/** As Qwen has it, with the line breaks that Jinja's trim_blocks takes away. */
const CHATML = `{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}`;

function render(files: Record<string, unknown>, messages = MESSAGES): string {
	using folder = new TemporaryFolder();
	for (const [name, content] of Object.entries(files)) {
		const text = typeof content === "string" ? content : JSON.stringify(content);
		writeFileSync(folder.file(name), text);
	}
	return renderChat(denoFolder(folder.path), messages, "some/model");
}

Deno.test("renderChat() renders the template of tokenizer_config.json", () => {
	const config = { ...TOKENS, chat_template: LLAMA2 };
	assert.equal(
		render({ "tokenizer_config.json": config }),
		"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Why? [/INST]",
	);
	assert.equal(render({ "tokenizer_config.json": config }, [MESSAGES[1]]), "<s>[INST] Hi [/INST]");
});

Deno.test("renderChat() takes the default one of several templates", () => {
	const chat_template = [{ name: "tool_use", template: "tools" }, {
		name: "default",
		template: LLAMA2,
	}];
	const files = { "tokenizer_config.json": { ...TOKENS, chat_template } };
	assert.equal(render(files, [MESSAGES[1]]), "<s>[INST] Hi [/INST]");
});

Deno.test("renderChat() prefers chat_template.jinja, and ends where the answer begins", () => {
	const files = {
		"chat_template.jinja": CHATML,
		"tokenizer_config.json": { ...TOKENS, chat_template: LLAMA2 },
	};
	assert.equal(
		render(files, MESSAGES.slice(0, 2)),
		"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n" +
			"<|im_start|>assistant\n",
	);
});

Deno.test("renderChat() says what is wrong with a template", () => {
	const none = `"some/model" has no chat template, neither "chat_template.jinja" nor a ` +
		`"chat_template" in "tokenizer_config.json", so it was probably not trained for chats; ` +
		`give it a plain prompt`;
	assert.throws(() => render({}), new UserError(none));
	assert.throws(() => render({ "tokenizer_config.json": TOKENS }), new UserError(none));
	for (const chat_template of [5, [], [{ name: "rag", template: "x" }]]) {
		assert.throws(
			() => render({ "tokenizer_config.json": { chat_template } }),
			/tokenizer_config.json": chat_template must be a text, or a list in which one has the name "default"$/,
		);
	}
	assert.throws(
		() => render({ "chat_template.jinja": "{% if x %" }),
		/^UserError: Cannot read the chat template of "some\/model": /,
	);
	assert.throws(
		() =>
			render({ "tokenizer_config.json": { ...TOKENS, chat_template: LLAMA2 } }, MESSAGES.slice(2)),
		new UserError(
			`The chat template of "some/model" does not take the messages: Conversation roles must alternate`,
		),
	);
});

Deno.test("a template has the variables that transformers gives it", () => {
	const template = "{% if tools is none and documents is none %}none {% endif %}{{ bos_token }}" +
		"{{ pad_token }}{{ unk_token }}{{ mask_token }}{{ additional_special_tokens | join(',') }}";
	const config = {
		bos_token: "<s>",
		unk_token: { content: "<u>" },
		additional_special_tokens: ["<a>", "<b>"],
		chat_template: template,
	};
	const map = { pad_token: "<p>", mask_token: { content: "<m>" } };
	assert.equal(
		render({ "tokenizer_config.json": config, "special_tokens_map.json": map }),
		"none <s><p><u><m><a>,<b>",
	);
});

Deno.test("line ends of a template are LF, those of messages stay", () => {
	const template = "{% for m in messages %}\r\n<{{ m.role }}>\r{{ m.content }}\r\n{% endfor %}\r\n";
	const messages: ChatMessage[] = [{ role: "user", content: "a\r\nb" }];
	for (
		const files of [
			{ "chat_template.jinja": template },
			{ "tokenizer_config.json": { chat_template: template } },
		]
	) assert.equal(render(files, messages), "<user>\na\r\nb\n");
});
