import { UserError } from "../../base/errors.ts";
import { withTimeLimit } from "../../base/time_limit.ts";
import { type Folder, readText } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";
import { TemplateError } from "./jinja/limits.ts";
import { Template } from "./jinja/template.ts";
import { readTokenizerSettings } from "./tokenizer_settings.ts";

/** A message of a conversation. */
export interface ChatMessage {
	/** Who speaks. */
	role: "system" | "user" | "assistant";
	/** What is said. */
	content: string;
}

/** The template for chats in folders with several templates. */
const USUAL = "default";

/**
 * The prompt for a conversation by the model's chat template, up to where the answer begins. Special
 * tokens are written out. The template has the variables that transformers gives it: `messages`, `tools` and
 * `documents` (none), `add_generation_prompt`, and the special tokens by their names.
 *
 * @param folder The model's folder, with `chat_template.jinja` or a `chat_template` in
 *   `tokenizer_config.json`.
 * @param name The model's name in messages.
 * @throws {UserError} If there is no template, it is invalid, or it rejects the messages.
 */
export function renderChat(
	folder: Folder,
	messages: readonly ChatMessage[],
	name = folder.path,
): string {
	const { specialTokens, furtherTokens } = readTokenizerSettings(folder);
	const text = readTemplate(folder, name);
	const variables = {
		messages: messages.map((message) => ({ ...message })),
		tools: null,
		documents: null,
		bos_token: "",
		eos_token: "",
		...specialTokens,
		...(furtherTokens.length > 0 && { additional_special_tokens: [...furtherTokens] }),
		add_generation_prompt: true,
	};
	const what = `the chat template of "${name}"`;
	const template = refusing(
		`Cannot read ${what}`,
		() => withTimeLimit(`reading ${what}`, 0, () => new Template(text)),
	);
	return refusing(
		`The chat template of "${name}" does not take the messages`,
		() => withTimeLimit(`rendering ${what}`, 0, () => template.render(variables)),
	);
}

/** Whether a model has a chat template. @throws {UserError} If its settings cannot be read. */
export function hasChatTemplate(folder: Folder): boolean {
	if (folder.has("chat_template.jinja")) return true;
	const config = "tokenizer_config.json";
	return folder.has(config) && readJson(folder.file(config)).chat_template != null;
}

/** Runs a part of the work on a template; an error of it follows what failed. */
function refusing<Result>(failed: string, run: () => Result): Result {
	try {
		return run();
	} catch (error) {
		if (error instanceof TemplateError) throw new UserError(`${failed}: ${error.text}`);
		throw error;
	}
}

/** The template of a folder. @throws {UserError} If there is none, or it is invalid. */
function readTemplate(folder: Folder, name: string): string {
	const found = findTemplate(folder);
	if (found !== undefined) return found;
	throw new UserError(
		`"${name}" has no chat template, neither "chat_template.jinja" nor a "chat_template" in ` +
			`"tokenizer_config.json", so it was probably not trained for chats; give it a plain prompt`,
	);
}

/**
 * The text of the chat template of a folder; `chat_template.jinja` takes precedence, as in transformers.
 *
 * @returns Undefined if there is none.
 * @throws {UserError} If it is not a text.
 */
export function findTemplate(folder: Folder): string | undefined {
	const own = "chat_template.jinja";
	if (folder.has(own)) return readText(folder.file(own));
	const config = "tokenizer_config.json";
	const found = folder.has(config) ? readJson(folder.file(config)).chat_template : undefined;
	if (found == null) return undefined;
	if (typeof found === "string") return found;
	const named = Array.isArray(found) ? found : [];
	const usual = named.find((entry) => entry?.name === USUAL)?.template;
	if (typeof usual === "string") return usual;
	throw new UserError(
		`"${
			folder.file(config).path
		}": chat_template must be a text, or a list in which one has the name "${USUAL}"`,
	);
}
