import { byId } from "./elements.ts";
import type { Options } from "./protocol.ts";

const NUMBERS = ["maxTokens", "temperature", "topK", "topP", "repetitionPenalty", "seed"] as const;

/** What the user has set: an empty field is the default. */
export function readSettings(): { options: Options; system: string } {
	const data = new FormData(byId<HTMLFormElement>("settings"));
	const options: Options = {};
	for (const name of NUMBERS) {
		const text = String(data.get(name) ?? "").trim();
		if (text !== "") options[name] = Number(text);
	}
	return { options, system: String(data.get("system") ?? "").trim() };
}

/** The label and the problem of a field that holds no valid value; undefined if all do. */
export function settingsProblem(): string | undefined {
	const form = byId<HTMLFormElement>("settings");
	for (const field of form.elements) {
		if (!(field instanceof HTMLInputElement) || field.checkValidity()) continue;
		return `${field.labels![0].textContent.trim()}: ${field.validationMessage}`;
	}
	return undefined;
}
