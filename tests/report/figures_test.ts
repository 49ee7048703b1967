import assert from "node:assert/strict";
import * as figures from "../../report/figures.ts";
import { html } from "../../report/html.ts";
import { escapeMarkdown } from "../../report/table.ts";

Deno.test("numbers are grouped, and what was not measured is a dash", () => {
  const { decimal } = figures;
  assert.equal(decimal(1234567.891, 2), "1\u202f234\u202f567.89");
  assert.equal(decimal(123.4567, 3), "123.457");
  assert.equal(decimal(-1234, 0), "-1\u202f234");
  assert.equal(decimal(undefined, 1), "–");
  assert.equal(figures.percent(0.12345), "12.3\u00a0%");
  assert.equal(figures.counted(1, "run"), "1 run");
  assert.equal(figures.counted(0, "run"), "0 runs");
});

Deno.test("perplexities have as many digits as they are worth", () => {
  const texts = [24.631, 999.999, 4102.3, 2.5e7, null, undefined].map(figures.perplexityText);
  assert.deepEqual(texts, ["24.63", "1\u202f000.00", "4\u202f102", "2.50e+7", "not finite", "–"]);
  assert.equal(figures.growthText(24, 36), "×\u00a01.50");
  assert.equal(figures.growthText(24, 24000), "×\u00a01\u202f000");
  assert.equal(figures.growthText(undefined, 24), "–");
});

Deno.test("dates are those of UTC to the minute", () => {
  assert.equal(figures.dateText("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04 UTC");
  assert.equal(figures.dateText(undefined), "–");
});

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
