/** An element of a page, or a text in it. */
export type HtmlNode = HtmlElement | string;

export interface HtmlElement {
	tag: string;
	attributes: Record<string, string>;
	children: HtmlNode[];
}

const VOID = ["meta", "br", "hr", "img", "link", "input"];
const TAG = /^<(\/?)([a-zA-Z][\w-]*)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/;
const REFERENCES: Record<string, string> = {
	"&amp;": "&",
	"&lt;": "<",
	"&gt;": ">",
	"&quot;": '"',
	"&#39;": "'",
};

/**
 * Reads a page strictly: each element is closed where it must be, attributes are quoted and given
 * once, `<`, `>` and `&` stand only where they mean something, and nothing is left over.
 *
 * @throws {Error} If something is not so, with the text from there on.
 */
export function parseHtml(text: string): HtmlElement {
	const root: HtmlElement = { tag: "", attributes: {}, children: [] };
	const open = [root];
	let rest = text.replace(/^<!DOCTYPE html>\s*/, "");
	const refuse = (problem: string): never => {
		throw new Error(`${problem}: ${rest.slice(0, 80)}`);
	};
	while (rest.length > 0) {
		const parent = open[open.length - 1];
		if (!rest.startsWith("<")) {
			const end = rest.indexOf("<");
			const content = end < 0 ? rest : rest.slice(0, end);
			parent.children.push(unescape(content, refuse));
			rest = rest.slice(content.length);
			continue;
		}
		const [whole, closing, tag, attributeText, selfClosing] = TAG.exec(rest) ?? refuse("No tag");
		if (closing) {
			if (parent.tag !== tag) refuse(`<${parent.tag}> is open`);
			open.pop();
		} else {
			const attributes: Record<string, string> = {};
			for (const [, name, value] of attributeText.matchAll(/([\w:-]+)="([^"]*)"/g)) {
				if (Object.hasOwn(attributes, name)) refuse(`"${name}" is there twice`);
				attributes[name] = unescape(value, refuse);
			}
			const element: HtmlElement = { tag, attributes, children: [] };
			parent.children.push(element);
			if (tag === "style") {
				const end = rest.indexOf("</style>");
				element.children.push(rest.slice(whole.length, end));
				rest = rest.slice(end + "</style>".length);
				continue;
			}
			if (VOID.includes(tag) && !selfClosing) refuse("Not closed");
			if (!selfClosing) open.push(element);
		}
		rest = rest.slice(whole.length);
	}
	if (open.length > 1) refuse(`<${open[open.length - 1].tag}> is not closed`);
	const elements = root.children.filter((child) => typeof child !== "string");
	if (elements.length !== 1) throw new Error(`${elements.length} elements, not one around all`);
	return elements[0];
}

function unescape(text: string, refuse: (problem: string) => never): string {
	if (text.includes(">")) refuse('A ">" that closes nothing');
	return text.replace(
		/&(?:#?\w+;)?/g,
		(reference) => REFERENCES[reference] ?? refuse(`No reference "${reference}"`),
	);
}

/** All elements with a tag, in the order of the page. */
export function elements(node: HtmlNode, tag: string): HtmlElement[] {
	if (typeof node === "string") return [];
	const below = node.children.flatMap((child) => elements(child, tag));
	return node.tag === tag ? [node, ...below] : below;
}

/** The text of an element, its white space as a page shows it. */
export function textOf(node: HtmlNode): string {
	return rawText(node).replace(/\s+/g, " ").trim();
}

function rawText(node: HtmlNode): string {
	if (typeof node === "string") return node;
	const text = node.children.map(rawText).join("");
	return node.attributes.class === "note" ? ` ${text}` : text; // on a line of its own
}

/** The cells of the table with a caption, with its head. */
export function tableOf(page: HtmlElement, caption: string): string[][] {
	const table = elements(page, "table").find((table) =>
		elements(table, "caption").some((found) => textOf(found) === caption)
	);
	if (!table) {
		const known = elements(page, "caption").map(textOf).join(", ");
		throw new Error(`No table "${caption}"; there are: ${known}`);
	}
	return elements(table, "tr").map((row) =>
		row.children.filter((cell) => typeof cell !== "string").map(textOf)
	);
}
