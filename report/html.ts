/** A piece of HTML or SVG. */
export class Html {
	constructor(readonly text: string) {}

	toString(): string {
		return this.text;
	}
}

/** Content of a template: text, which is escaped, and HTML, which is not. */
export type Content = string | number | Html | undefined | readonly Content[];

const ESCAPES: Record<string, string> = {
	"&": "&amp;",
	"<": "&lt;",
	">": "&gt;",
	'"': "&quot;",
	"'": "&#39;",
};

/** Text escaped for HTML content and quoted attributes. */
export function escapeHtml(text: string): string {
	// Control characters are not allowed even as references.
	return text.replace(/[&<>"']/g, (character) => ESCAPES[character])
		// deno-lint-ignore no-control-regex -- control characters are removed
		.replace(/[\0-\x08\x0b\x0c\x0e-\x1f]/g, "\ufffd");
}

/** The tag of HTML templates; inserted text is escaped, inserted HTML is not. */
export function html(strings: TemplateStringsArray, ...contents: Content[]): Html {
	const parts = strings.map((text, i) => {
		const own = text.replace(/\s*\n\s*/g, "\n"); // the indentation of our code
		return i === 0 ? own : render(contents[i - 1]) + own;
	});
	return new Html(parts.join(""));
}

function render(content: Content): string {
	if (content === undefined) return "";
	if (content instanceof Html) return content.text;
	if (Array.isArray(content)) return content.map(render).join("");
	return escapeHtml(String(content));
}
