// Chat templates against Jinja itself, jinja2 3.1.6 with the functions of transformers. And what is not implemented, and what does not end, is refused.

import assert from "node:assert/strict";
import { fixture } from "../../../fixture.ts";
import { assertHashes } from "../../../golden.ts";
import { TemplateError } from "~/models/tokenizers/jinja/limits.ts";
import { Template } from "~/models/tokenizers/jinja/template.ts";

/** The text of a template; null if it fails. */
type Result = string | null;

interface Goldens {
	now: [number, number, number, number, number, number];
	context: Record<string, unknown>;
	families: {
		parts: string[][];
		/** Templates that print the address of an object, whose result counts as false. */
		open: number[];
		hashes: string;
	}[];
	models: { templates: string[]; variants: Record<string, unknown>[]; results: Result[][] };
}

const goldens: Goldens = fixture("jinja/goldens");
const [year, month, ...time] = goldens.now;
const NOW = new Date(year, month - 1, ...time);

function render(template: string, context: Record<string, unknown> = goldens.context): string {
	return new Template(template).render(context, NOW);
}

/** The text of a template, or null with its error. */
function tried(template: string, context?: Record<string, unknown>): [Result, string?] {
	try {
		return [render(template, context)];
	} catch (error) {
		if (!(error instanceof TemplateError)) throw error;
		return [null, error.text];
	}
}

/** All ways to take one of each list. */
function product(parts: string[][]): string[] {
	return parts.reduce((starts, part) => starts.flatMap((start) => part.map((p) => start + p)), [
		"",
	]);
}

Deno.test("families of templates give the texts of Jinja, and fail where it does", () => {
	let checked = 0;
	for (const { parts, open, hashes } of goldens.families) {
		const templates = product(parts);
		const results = templates.map((template, i) => open.includes(i) ? [false] : tried(template));
		checked += templates.length - open.length;
		const texts = results.map(([result]) => JSON.stringify(result));
		assertHashes(texts, hashes, 8, (first, end) => {
			const given = templates.slice(first, end).map((text, i) => [text, ...results[first + i]]);
			return `not what Jinja gives: ${JSON.stringify(given)}`;
		});
	}
	assert.ok(checked > 5000);
});

Deno.test("templates in the style of known models give the texts of Jinja", () => {
	const { templates, variants, results } = goldens.models;
	assert.ok(templates.length >= 8);
	templates.forEach((template, i) => {
		variants.forEach((variant, j) => {
			const [found, error] = tried(template, { ...goldens.context, ...variant });
			assert.equal(found, results[i][j], `template ${i}, variant ${j}: ${error}`);
		});
	});
});

/** Milliseconds: many times what a rendering takes, but little of what it would take without limits. */
const SOON = 30_000;

/** Checks that a template fails with a message of this pattern, and soon. */
function refuses(template: string, pattern: RegExp): void {
	const start = performance.now();
	const [text, error = "no error"] = tried(template);
	assert.equal(text, null, template.slice(0, 200));
	assert.match(error, pattern, template.slice(0, 200));
	assert.ok(performance.now() - start < SOON, `${template.slice(0, 200)} took too long`);
}

Deno.test("a template that asks for too much is refused", () => {
	const again = (body: string, start = "ns.x = ns.x") =>
		`{% set ns = namespace(x=${start}) %}{% for i in range(100000) %}{% set ns.x = ${body} %}{% endfor %}`;
	const loops = (body: string) =>
		"{% for a in range(100000) %}".repeat(2) + body + "{% endfor %}".repeat(2);
	const cases: [template: string, pattern: RegExp][] = [
		[loops(""), /line 1: the template takes more than 10,000,000 steps$/],
		[loops("{{ 'x' * 1000 }}"), /more than (100,000,000 characters|10,000,000 steps)$/],
		["{{ range(1000000000) }}", /range\(\) gives at most 100,000 numbers, found 1000000000$/],
		["{{ range(0 - 10 ** 30, 10 ** 30) }}", /range\(\) gives at most/],
		["{{ range(10 ** 30, 10 ** 30) }}", /range\(\) takes integers below 2\^53$/],
		["{{ 'ab' * 10 ** 12 }}", /makes more than 100,000,000 characters$/],
		["{{ [1] * 10 ** 12 }}", /makes a list of more than 1,000,000 items$/],
		["{{ 10 ** (10 ** 10) }}", /makes an integer of more than 4,300 digits$/],
		[again("ns.x * ns.x", "3"), /an integer of more than/],
		[again("ns.x ~ ns.x", "'a'"), /more than 100,000,000 characters$/],
		[again("ns.x + ns.x", "[1]"), /a list of more than 1,000,000 items$/],
		[again("ns.x|replace('', 'aa')", "'a'"), /more than/],
		[again("[ns.x, ns.x]", "1") + "{{ ns.x }}", /more than|nested too deeply/],
		[again("[ns.x]", "1") + "{{ ns.x|tojson }}", /nested too deeply/],
		[again("[ns.x]", "1") + "{{ ns.x == [ns.x] }}", /nested too deeply/],
		[again("(ns.x, ns.x)", "1") + "{{ {ns.x: 1} }}", /more than|nested too deeply/],
		["{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", /calls itself more than 200 times deep$/],
		["{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", /more than 200 times deep$/],
		["{{ '%1000000000d' % 1 }}", /more than/],
		["{{ '%.1000000000f' % 1 }}", /a format has at most/],
		["{{ '{:1000000000}'.format(1) }}", /more than/],
		["{{ ''.center(10 ** 9) }}", /more than/],
		["{{ 'a'|indent(10 ** 9) }}", /more than/],
		["{{ [1]|batch(10 ** 9, 0)|list }}", /more than/],
		["{{ [1]|slice(10 ** 9)|list }}", /more than/],
		["{{ [1]|tojson(indent=10 ** 9) }}", /more than/],
		["{{ ('a' * 2000000).split('a') }}", /more than/],
		["{{ ('a' * 2000000)|list }}", /more than/],
		[`{{ ${"(".repeat(100_000)} }}`, /unexpected "}", expected "\)"$/],
		[`{{ ${"(".repeat(100_000)}1${")".repeat(100_000)} }}`, /nested too deeply/],
		[`{{ ${"1+".repeat(100_000)}1 }}`, /nested too deeply/],
		["{% if 1 %}".repeat(100_000), /nested too deeply|ends before/],
	];
	for (const [template, pattern] of cases) refuses(template, pattern);
});

Deno.test("what a message holds does not take time beyond its length", () => {
	const content = "{% x ".repeat(400_000) + "é" + " ".repeat(2_000_000);
	const text =
		"{% for m in messages %}{{ m.content|trim }}{{ m.content.strip()|length }}{% endfor %}";
	const start = performance.now();
	assert.equal(render(text, { messages: [{ content }] }), `${content.trim()}${2_000_001}`);
	assert.ok(performance.now() - start < SOON);
});

Deno.test("blanks and braces of a template take linear time", () => {
	const start = performance.now();
	for (
		const text of [" ", "\n", "{ ", "{#x#} ", "{{'a'}} ", "{{ ' ' }}", "{%- if 1 -%} {%- endif %} "]
	) {
		const size = Math.floor(200_000 / text.length);
		tried(text.repeat(size) + "{%- if 1 %}{% endif %}");
		tried(`{{ "${" \\ ".repeat(size)}`);
		tried(`{# ${text.repeat(size)}`);
	}
	assert.ok(performance.now() - start < SOON);
});

Deno.test("what is not known is refused by name, with its line", () => {
	const cases: [template: string, text: string][] = [
		["\n{% include 'x' %}", 'line 2: the tag "include" is not supported here'],
		["\n\n{{ 1|urlize }}", "line 3: no filter is named 'urlize'"],
		["{{ [1]|map('nope')|list }}", "line 1: no filter is named 'nope'"],
		["{{ 1 is nope }}", "line 1: no test is named 'nope'"],
		["{{ [1]|select('nope')|list }}", "line 1: no test is named 'nope'"],
		["{{ 'a'.nope() }}", "line 1: 'str object' has no attribute 'nope'"],
		["{{ 'a'.encode() }}", "line 1: the method 'encode' of 'str' is not supported"],
		["{{ [].append(1) }}", "line 1: access to attribute 'append' of 'list' object is unsafe"],
		["{{ x.__class__.y }}", "line 1: 'x' is undefined"],
		["{{\n x.y }}", "line 2: 'x' is undefined"],
		[
			"{% macro f() %}\n\n{{ 1 + 'a' }}{% endmacro %}\n{{ f() }}",
			"line 3: unsupported operand type(s) for +: 'int' and 'str'",
		],
		["{{ strftime_now('%Q') }}", 'line 1: strftime_now() does not know "%Q"'],
		["{{ raise_exception('No.') }}", "No."],
		["{{ range() }}", 'line 1: range() lacks the argument "start"'],
		["{{ 'a'|replace('a') }}", 'line 1: replace() lacks the argument "new"'],
		["{{ 'a'|trim(char='a') }}", 'line 1: trim() has no argument "char"'],
		["{{ 1 }}\n{% endfor %}", 'line 2: the tag "endfor" is not supported here'],
		["{{ (1] }}", 'line 1: unexpected "]", expected ")"'],
		["a\n{{ 1 1 }}", 'line 2: unexpected "1", expected a }}'],
		["{% if x %}\n", 'line 1: the template ends before "endif"'],
		["{% break %}", 'line 1: "break" outside of a loop'],
	];
	for (const [template, text] of cases) assert.deepEqual(tried(template), [null, text], template);
});
