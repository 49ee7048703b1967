import { Template } from "@huggingface/jinja";
import { UserError } from "../../base/errors.ts";
import { type Folder, readText } from "../../storage/folder.ts";
import { readJson } from "../../storage/json.ts";
import { readTokenizerSettings } from "./tokenizer_settings.ts";

/** A message of a conversation. */
export interface ChatMessage {
  role: "system" | "user" | "assistant";
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
  // Jinja knows one kind of line end, in templates; those of messages stay.
  const text = readTemplate(folder, name).replaceAll(/\r\n?/g, "\n");
  let template: Template;
  try {
    template = new Template(text);
  } catch (error) {
    throw new UserError(`Cannot read the chat template of "${name}": ${(error as Error).message}`);
  }
  try {
    return template.render({
      messages: messages.map((message) => ({ ...message })),
      tools: null,
      documents: null,
      bos_token: "",
      eos_token: "",
      ...specialTokens,
      ...(furtherTokens.length > 0 && { additional_special_tokens: [...furtherTokens] }),
      add_generation_prompt: true,
    });
  } catch (error) {
    throw new UserError(
      `The chat template of "${name}" does not take the messages: ${(error as Error).message}`,
    );
  }
}

/** The template of a folder; `chat_template.jinja` takes precedence, as in transformers. */
function readTemplate(folder: Folder, name: string): string {
  const own = "chat_template.jinja";
  if (folder.has(own)) return readText(folder.file(own));
  const config = "tokenizer_config.json";
  const found = folder.has(config) ? readJson(folder.file(config)).chat_template : undefined;
  if (found == null) {
    throw new UserError(
      `"${name}" has no chat template, neither "chat_template.jinja" nor a "chat_template" in ` +
        `"tokenizer_config.json", so it was probably not trained for chats; give it a plain prompt`,
    );
  }
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
