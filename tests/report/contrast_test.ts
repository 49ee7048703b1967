import assert from "node:assert/strict";
import style from "../../report/report.css" with { type: "text" };

/** The colours of a scheme by name; those that the dark one does not change are the light one's. */
function coloursOf(scheme: "light" | "dark"): Record<string, string> {
	const [light, dark] = [...style.matchAll(/:root \{([^}]*)\}/g)].map(([, body]) =>
		Object.fromEntries(
			[...body.matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map(([, name, colour]) => [name, colour]),
		)
	);
	return scheme === "light" ? light : { ...light, ...dark };
}

/** @see https://www.w3.org/TR/WCAG21/#dfn-relative-luminance */
function luminance(colour: string): number {
	const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255)
		.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
	return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a: string, b: string): number {
	const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
	return (high + 0.05) / (low + 0.05);
}

/** What is written on what. */
const TEXTS = [
	["text", "page"],
	["text", "soft"],
	["quiet", "page"],
	["accent", "page"],
	["on-accent", "accent"],
	...[0, 1, 2].map((shade) => ["on-light", `shade-${shade}`]),
	...[3, 4, 5].map((shade) => ["on-dark", `shade-${shade}`]),
];

/** What lies beside what and must be told from it. */
const AREAS = [
	["accent", "page"],
	["low", "high"],
	["high", "salient"],
	["low", "salient"],
	["stored", "page"],
];

for (const scheme of ["light", "dark"] as const) {
	Deno.test(`texts of the ${scheme} scheme have a contrast of 4.5 (AA)`, () => {
		const colours = coloursOf(scheme);
		for (const [text, ground] of TEXTS) {
			const found = contrast(colours[text], colours[ground]);
			assert.ok(found >= 4.5, `${text} on ${ground}: ${found.toFixed(2)}`);
		}
	});

	Deno.test(`areas of the ${scheme} scheme can be told apart`, () => {
		const colours = coloursOf(scheme);
		for (const [area, other] of AREAS) {
			const found = contrast(colours[area], colours[other]);
			assert.ok(found >= 2, `${area} beside ${other}: ${found.toFixed(2)}`);
		}
		const shades = [0, 1, 2, 3, 4, 5].map((shade) => luminance(colours[`shade-${shade}`]));
		const sorted = shades.toSorted((a, b) => a - b);
		assert.deepEqual(
			shades,
			scheme === "light" ? sorted.reverse() : sorted,
			"from faint to strong",
		);
	});
}
