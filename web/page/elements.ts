/** The element with an id; the page has all that are asked for. */
export function byId<Element extends HTMLElement = HTMLElement>(id: string): Element {
	const found = document.getElementById(id);
	if (!found) throw new Error(`The page has no element "${id}"`);
	return found as Element;
}

/** A new element with attributes and content; text stays text. */
export function make<Name extends keyof HTMLElementTagNameMap>(
	name: Name,
	properties: Partial<HTMLElementTagNameMap[Name]> = {},
	...content: (Node | string)[]
): HTMLElementTagNameMap[Name] {
	const element = Object.assign(document.createElement(name), properties);
	element.append(...content);
	return element;
}

/** Shows or hides an element. */
export function show(id: string, isShown: boolean): void {
	byId(id).hidden = !isShown;
}

/** Sets the text of an element; an empty one takes no room. */
export function setText(id: string, text: string): void {
	byId(id).textContent = text;
}
