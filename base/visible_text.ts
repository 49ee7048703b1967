/**
 * A text with its control characters, except line ends and tabs, written out: an escape character is
 * "\u001b". Names in files, tokens and messages of others could otherwise command a terminal. The form is
 * also valid within JSON.
 */
export function visibleText(text: string): string {
	return text.replaceAll(
		// deno-lint-ignore no-control-regex -- these are what is looked for
		/[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g,
		(character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
	);
}
