/**
 * A standalone SVG without what it does not use: CSS rules of classes that no element has, custom properties
 * that nothing refers to, and space between elements.
 */
export function compactPicture(svg: string): string {
	const parts = /^([^]*<style>)([^]*)(<\/style>[^]*)$/.exec(svg);
	if (!parts) throw new Error("The picture has no style");
	const [, head, style, body] = parts;
	const classes = new Set(
		[...body.matchAll(/class="([^"]*)"/g)].flatMap(([, names]) => names.split(" ")),
	);
	const isUsed = (selector: string) =>
		[...selector.matchAll(/\.([\w-]+)/g)].every(([, name]) => classes.has(name));
	const rules = style.replace(/\s+/g, " ").match(/[^{}]+\{(?:[^{}]|\{[^{}]*\})*\}/g) ?? [];
	const kept = rules.map((rule) => {
		const [, selectors, content] = /^([^{]*)(\{.*)$/.exec(rule)!;
		const own = selectors.startsWith("@") ? [selectors] : selectors.split(",").filter(isUsed);
		return own.length === 0 ? "" : own.map((selector) => selector.trim()).join(",") + content;
	}).join("\n");
	const names = new Set([...(kept + body).matchAll(/var\((--[\w-]+)\)/g)].map(([, name]) => name));
	const css = kept
		.replace(/(--[\w-]+):[^;}]*;?/g, (property, name) => names.has(name) ? property : "")
		.replace(/ *([{};:,]) */g, "$1").replaceAll(";}", "}");
	return head.replace(/\s+/g, " ").replaceAll("> <", "><").trimStart() + css.trim() +
		body.replace(/\s*\n\s*/g, " ").replaceAll("> <", "><").trimEnd() + "\n";
}
