import { type Content, Html, html } from "./html.ts";
import style from "./report.css" with { type: "text" };

/** A self-contained HTML page. */
export function page(title: string, content: Content): string {
	const body = html`
		<!DOCTYPE html>
		<html lang="en">
			<head>
				<meta charset="utf-8" />
				<meta name="viewport" content="width=device-width, initial-scale=1" />
				<meta name="color-scheme" content="light dark" />
				<title>${title}</title>
				<style>
		${new Html(style)}</style>
			</head>
			<body>
				<main>
		${content}</main>
			</body>
		</html>
	`;
	return `${body.text.trim()}\n`;
}

/** A section of a page. */
export function section(heading: string, ...content: Content[]): Html {
	return html`
		<section id="${heading.toLowerCase().replace(/\W+/g, "-")}">
		<h2>${heading}</h2>
		${content}</section>
	`;
}

/** Links to the sections of a page. */
export function contents(sections: Content): Html {
	const found = html`${sections}`.text.matchAll(/<section id="([^"]*)">\s*<h2>(.*?)<\/h2>/g);
	const links = [...found].map(([, id, heading]) =>
		html`<li><a href="#${id}">${new Html(heading)}</a></li>`
	);
	return html`
		<nav aria-label="Sections">
			<ul class="legend">${links}</ul>
		</nav>
	`;
}

/** A tile with a large number, its name and a note. */
export interface Tile {
	name: string;
	value: string;
	note?: string;
}

export function tiles(all: readonly Tile[]): Html {
	return html`
		<dl class="tiles">
		${all.map(({ name, value, note }) =>
			html`
				<div>
					<dt>${name}</dt>
					<dd>${value}${note === undefined
						? undefined
						: html`<span class="note">${note}</span>`}</dd>
				</div>
			`
		)}</dl>
	`;
}

/** A legend of colours. */
export function legend(entries: readonly { swatch: Html; text: string }[]): Html {
	return html`
		<ul class="legend">${entries.map(({ swatch, text }) => html`<li>${swatch} ${text}</li>`)}</ul>
	`;
}
