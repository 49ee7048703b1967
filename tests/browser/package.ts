/**
 * The example of docs/browser.md with the package that `deno task web:package` writes, in Chromium:
 * `deno task test:browser`.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { writePackage } from "../../tasks/web/package.ts";
import { PROJECT } from "../checkout.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { WebPage } from "./web_page.ts";

const MODEL = join(PROJECT, "examples/models/tiny-llama");

const folder = new TemporaryFolder();
Deno.test.afterAll(() => folder[Symbol.dispose]());
const dist = join(folder.path, "dist");
mkdirSync(dist); // an empty folder is no obstacle
await writePackage(dist);

Deno.test("the example of docs/browser.md downloads a model and writes a text", async () => {
	const document = readFileSync(join(PROJECT, "docs/browser.md"), "utf8");
	const examples = [...document.matchAll(/```js\n\/\/ (\S+)\n([^]*?)```/g)];
	assert.equal(examples.length, 2);
	await using page = await WebPage.open({
		...Object.fromEntries(examples.map(([, name, text]) => [`/${name}`, text])),
		"/billm.js": readFileSync(join(dist, "billm.js"), "utf8"),
		...Object.fromEntries(
			readdirSync(MODEL).map((name) => [
				`/models/tiny/${name}`,
				new Uint8Array(readFileSync(join(MODEL, name))),
			]),
		),
	});
	await page.browser.evaluate(`import("/page.js").then(() => {})`);
	let text = "";
	for (let tries = 0; tries < 600 && text.length < 100; tries++) {
		await setTimeout(200);
		text = await page.browser.evaluate("document.body.textContent");
	}
	assert.match(text, /^[\w\s,.;:'"!?-]{100}/);
});

Deno.test("the types of the package fit a page, and refuse what it does not take", async () => {
	const { exports } = JSON.parse(readFileSync(join(dist, "package.json"), "utf8"));
	const types = join(dist, exports["."].types);
	const check = async (text: string) => {
		const path = join(folder.path, "page.ts");
		writeFileSync(
			path,
			`/// <reference lib="webworker" />\n// @ts-types="${types}"\nimport * as web from "${
				join(dist, "billm.js")
			}";\n${text}`,
		);
		const config = join(PROJECT, "tests/web/browser_types.json");
		const { stderr } = await new Deno.Command(Deno.execPath(), {
			args: ["check", "--unstable-sloppy-imports", "--lock", "deno.lock", "--config", config, path],
			cwd: PROJECT,
			env: { NO_COLOR: "1" },
		}).output();
		const said = new TextDecoder().decode(stderr);
		return [...said.matchAll(/^TS\d+ \[ERROR\]: (.*)$/gm)].map(([, message]) => message);
	};
	const store = "new web.ModelStore(await navigator.storage.getDirectory(), navigator.locks)";
	assert.deepEqual(await check(`export const models = await (${store}).list();`), []);
	const [wrong] = await check(`export const models: string = await (${store}).list();`);
	assert.match(wrong, /^Type 'StoredModel\[\]' is not assignable to type 'string'/);
});
