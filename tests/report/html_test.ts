import assert from "node:assert/strict";
import { html } from "../../report/html.ts";
import { escapeMarkdown } from "../../report/table.ts";

Deno.test("html`` escapes texts, not HTML, and keeps the white space of texts", () => {
	const inner = html`<b>${"<&>"}</b>`;
	assert.equal(
		html`<p title="${`"'`}">${inner}${["a", 1, undefined]}</p>`.text,
		`<p title="&quot;&#39;"><b>&lt;&amp;&gt;</b>a1</p>`,
	);
	assert.equal(html`<pre>${"a:\n    b\n"}</pre>`.text, "<pre>a:\n    b\n</pre>");
	assert.equal(html`${"\0\x1b[1m"}`.text, "\ufffd\ufffd[1m");
});

Deno.test("Markdown shows texts as they are, on one line", () => {
	assert.equal(escapeMarkdown("a|b\n*c* <d> `e`"), "a\\|b \\*c\\* \\<d\\> \\`e\\`");
});
