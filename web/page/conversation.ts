import type { ChatMessage } from "../web.ts";
import { byId, make } from "./elements.ts";
import type { Input } from "./protocol.ts";

export type Mode = "chat" | "completion";

/** The texts so far, on the page and as the model gets them. */
export class Conversation {
	readonly #log = byId("log");
	#messages: ChatMessage[] = [];
	/** The text that is being generated, and where it is shown. */
	#current?: { mode: Mode; prompt: string; text: Text; entries: HTMLElement[] };

	/** Shows a prompt and the place of its answer. @returns What the model is to get. */
	begin(mode: Mode, prompt: string, system: string): Input {
		const text = document.createTextNode("");
		const entries = mode === "chat"
			? [entry("You", "own", prompt), entry("Model", "", text)]
			: [entry("Completion", "", make("span", { className: "given" }, prompt), text)];
		this.#log.append(...entries);
		this.#log.ariaBusy = "true"; // read out when it is complete
		this.#log.scrollTop = this.#log.scrollHeight;
		this.#current = { mode, prompt, text, entries };
		if (mode === "completion") return { prompt };
		const own: ChatMessage = { role: "user", content: prompt };
		const first: ChatMessage[] = system ? [{ role: "system", content: system }] : [];
		return { messages: [...first, ...this.#messages, own] };
	}

	add(text: string): void {
		const { scrollTop, clientHeight, scrollHeight } = this.#log;
		const isAtEnd = scrollTop + clientHeight > scrollHeight - 40;
		this.#current?.text.appendData(text);
		if (isAtEnd) this.#log.scrollTop = this.#log.scrollHeight;
	}

	/** Ends the current text, which becomes part of the conversation. */
	end(): void {
		const { mode, prompt, text } = this.#current!;
		if (mode === "chat") {
			const answer = { role: "assistant", content: text.data } as const;
			this.#messages.push({ role: "user", content: prompt }, answer);
		}
		this.#close();
	}

	/** Takes the current text back. @returns Its prompt. */
	takeBack(): string {
		const { prompt, entries } = this.#current!;
		for (const entry of entries) entry.remove();
		this.#close();
		return prompt;
	}

	clear(): void {
		this.#messages = [];
		this.#log.replaceChildren();
	}

	#close(): void {
		this.#current = undefined;
		this.#log.ariaBusy = "false";
	}
}

function entry(title: string, kind: string, ...content: (Node | string)[]): HTMLElement {
	const className = `entry ${kind}`.trim();
	return make("article", { className }, make("h3", {}, title), make("p", {}, ...content));
}
