/**
 * Looks at reports as people do: `deno task test:report`, with a Chromium on the machine (Debian:
 * apt-get install chromium). REPORT_PICTURES=FOLDER keeps pictures of the pages and PDFs.
 */
import axe from "axe-core";
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { MergedReport } from "../../report/merged_report.ts";
import { runReport } from "../../report/run_report.ts";
import { comparison, finishedRun } from "../report/runs.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { Chromium, type View } from "./chromium.ts";

const VIEWS: Record<string, View> = {
	light: { width: 1100, height: 900, scheme: "light" },
	dark: { width: 1100, height: 900, scheme: "dark" },
	phone: { width: 375, height: 800, scheme: "light" },
	"phone-dark": { width: 375, height: 800, scheme: "dark" },
};

const PAGES: Record<string, () => string> = {
	"run": () => runReport(finishedRun()),
	"large-run": () => runReport(finishedRun({ layers: 80 })),
	"merged": () => new MergedReport(comparison()).page("/"),
	"picture": () => new MergedReport(comparison()).svg()!,
};

/** What axe-core says of a page. */
interface Violation {
	id: string;
	impact: string;
	help: string;
	nodes: { html: string; failureSummary: string }[];
}

const browser = await Chromium.open();
Deno.test.afterAll(() => browser.close());

for (const [name, make] of Object.entries(PAGES)) {
	for (const [look, view] of Object.entries(VIEWS)) {
		Deno.test(`${name}, ${look}: no complaint, nothing beyond the edge, accessible`, async () => {
			using folder = new TemporaryFolder();
			const isPicture = name === "picture";
			const path = join(folder.path, isPicture ? "pareto.svg" : "report.html");
			writeFileSync(path, make());
			await browser.show(pathToFileURL(path).href, view);
			await keepPicture(`${name}-${look}.png`, () => browser.picture());
			if (isPicture) {
				assert.equal(await browser.evaluate("document.documentElement.tagName"), "svg");
			} else {
				const width = await browser.evaluate<number>("document.documentElement.scrollWidth");
				assert.equal(width, view.width, "it does not scroll sideways");
				await browser.evaluate(
					"document.querySelectorAll('details').forEach((d) => d.open = true)",
				);
				await browser.evaluate(axe.source);
				const { violations } = await browser.evaluate<{ violations: Violation[] }>("axe.run()");
				assert.deepEqual(violations.map(violationText), []);
			}
			assert.deepEqual(browser.complaints(), []);
		});
	}
}

Deno.test("on paper a report is light, whatever the screen is, and shows its folded tables", async () => {
	using folder = new TemporaryFolder();
	const path = join(folder.path, "report.html");
	writeFileSync(path, runReport(finishedRun()));
	await browser.show(pathToFileURL(path).href, VIEWS.dark);
	const folded =
		"document.querySelector('details table').checkVisibility({ contentVisibilityAuto: true })";
	const page = "getComputedStyle(document.body).backgroundColor";
	assert.deepEqual(
		[await browser.evaluate(folded), await browser.evaluate(page)],
		[false, "rgb(20, 23, 26)"],
	);
	await browser.send("Emulation.setEmulatedMedia", {
		media: "print",
		features: [{ name: "prefers-color-scheme", value: "dark" }],
	});
	// What was folded away is laid out with the next picture.
	await browser.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))");
	assert.deepEqual(
		[await browser.evaluate(folded), await browser.evaluate(page)],
		[true, "rgb(255, 255, 255)"],
	);
});

/** The most layers of what is common: LLaMA-7B, Qwen3, SmolLM2. */
const PRINTED = { "run": 6, "32-layers": 32 };

for (const [name, layers] of Object.entries(PRINTED)) {
	Deno.test(`the report of ${layers} layers prints on four pages or fewer`, async () => {
		using folder = new TemporaryFolder();
		const path = join(folder.path, "report.html");
		writeFileSync(path, runReport(finishedRun({ layers })));
		await browser.show(pathToFileURL(path).href, VIEWS.light);
		const pdf = await browser.pdf();
		await keepPicture(`${name}.pdf`, () => Promise.resolve(pdf));
		const pages = new TextDecoder("latin1").decode(pdf).match(/\/Type\s*\/Page\b/g)!.length;
		assert(pages >= 2 && pages <= 4, `${pages} pages`);
	});
}

function violationText({ id, impact, help, nodes }: Violation): string {
	return `${impact} ${id}: ${help}; ${
		nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")
	}`;
}

async function keepPicture(name: string, take: () => Promise<Uint8Array>): Promise<void> {
	const folder = Deno.env.get("REPORT_PICTURES");
	if (!folder) return;
	mkdirSync(folder, { recursive: true });
	writeFileSync(join(folder, name), await take());
}
