import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ARCHITECTURES } from "../models/architectures/mod.ts";
import { STAGES } from "../stages/mod.ts";
import { pagesFromCode } from "../tasks/docs.ts";
import { PROJECT } from "./checkout.ts";
import { blocksOf, checkYaml, isShell, PAGES, runBlocks, shortened, textOf } from "./documents.ts";
import { ROOMS } from "./rooms.ts";
import { TemporaryFolder } from "./temporary_folder.ts";

const BLOCKS = PAGES.flatMap(blocksOf);
const SOURCES = ROOMS.flatMap((room) =>
	readdirSync(join(PROJECT, room), { recursive: true }).map((name) => join(room, `${name}`))
).filter((name) => name.endsWith(".ts"));

Deno.test("sections that come from the code are up to date", () => {
	const pages = pagesFromCode();
	const names = pages.flatMap(({ text }) => text.match(/(?<=<!-- from the code: )[\w-]+/g));
	assert.deepEqual(names.sort(), ["families", "family-list", "fields", "recipes", "stages"]);
	for (const { path, text, wanted } of pages) {
		assert.equal(text, wanted, `${path}: run \`deno task docs\``);
	}
	for (const [type, { models, features }] of Object.entries(ARCHITECTURES)) {
		assert(models && features, `models and features of ${type}, for docs/families.md`);
	}
});

/** The place of a heading in a rendered page, as GitHub names it. */
function anchorOf(heading: string): string {
	return heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(" ", "-");
}

function anchorsOf(page: string): string[] {
	return [...textOf(page).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchorOf(heading));
}

Deno.test("links lead to files and headings, and docs/README.md to every page", () => {
	const broken: string[] = [];
	for (const page of PAGES) {
		for (const [, target] of textOf(page).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
			const [file, anchor] = target.split("#");
			const path = file === "" ? page : join(dirname(page), file);
			const isThere = existsSync(join(PROJECT, path)) &&
				(anchor === undefined || !path.endsWith(".md") || anchorsOf(path).includes(anchor));
			if (!isThere) broken.push(`${page}: ${target}`);
		}
	}
	assert.deepEqual(broken, []);
	const index = textOf("docs/README.md");
	const unlisted = PAGES.map((page) => page.replace("docs/", ""))
		.filter((page) => page !== "README.md" && !index.includes(`(${page})`));
	assert.deepEqual(unlisted, []);
});

Deno.test("every block of commands says whether it is run", () => {
	const marker = /^(run( in test:docs)?|not run: .+)$/;
	const unmarked = BLOCKS.filter((block) => isShell(block) && !marker.test(block.marker));
	assert.deepEqual(unmarked.map(({ where }) => where), []);
	for (const page of PAGES) {
		assert.doesNotMatch(
			textOf(page),
			/^ {4}(\.\/billm|deno|bash|export|BILLM_\w+=)/m,
			`${page}: commands belong into fenced blocks`,
		);
	}
});

Deno.test("blocks of YAML are pipelines or parts of one", async () => {
	const blocks = BLOCKS.filter(({ language, marker }) =>
		language === "yaml" && !marker.startsWith("no pipeline: ")
	);
	assert(blocks.length > 10);
	for (const { where, code } of blocks) {
		await checkYaml(code).catch((error) => assert.fail(`${where}: ${error.message}\n${code}`));
	}
});

Deno.test("blocks of TypeScript are well typed", async () => {
	// The JavaScript of docs/browser.md is run by tests/browser/package.ts.
	const pages = PAGES.filter((page) => blocksOf(page).some(({ language }) => language === "ts"));
	const { success, stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["check", "--doc-only", ...pages],
		cwd: PROJECT,
	}).output();
	assert(success, new TextDecoder().decode(stderr));
});

Deno.test("docs/stages.md has every artifact, and docs/troubleshooting.md messages as they are", () => {
	const declared = readFileSync(join(PROJECT, "pipeline/stage.ts"), "utf8")
		.match(/interface Artifacts \{([^]*?)\n\}/)![1].match(/(?<=^\s+")[\w-]+/gm)!;
	const stages = textOf("docs/stages.md");
	assert.deepEqual(declared.filter((name) => !stages.includes(`\`${name}\``)), []);
	const rows = [...stages.matchAll(/^\| (`.*?) \| (.*?) \|/gm)];
	for (const { name, gives } of STAGES) {
		for (const artifact of gives.filter((name) => name !== "block-error")) {
			const isListed = rows.some(([, names, givers]) =>
				names.includes(`\`${artifact}\``) && givers.includes(`\`${name}\``)
			);
			assert(isListed, `docs/stages.md: ${name} gives ${artifact}`);
		}
	}
	const code = SOURCES.map((name) => readFileSync(join(PROJECT, name), "utf8")).join("\n")
		.replace(/[`"] \+\s+[`"]/g, ""); // texts in several pieces
	const messages = textOf("docs/troubleshooting.md").match(/(?<=^\| `)[^`]+/gm)!;
	assert.deepEqual(messages.filter((message) => !code.includes(message)), []);
});

Deno.test("docs/hub.md lists the variables of the environment", () => {
	const names = (text: string) => text.match(/\b(BILLM|HF)_[A-Z]+(_[A-Z]+)*\b/g) ?? [];
	const used = ["billm", ...SOURCES].flatMap((name) =>
		names(readFileSync(join(PROJECT, name), "utf8"))
	);
	// What the launcher itself sets is none of a user's business.
	const launcher = readFileSync(join(PROJECT, "billm"), "utf8");
	const own = [...launcher.matchAll(/^export (\w+)=/gm)].map(([, name]) => name);
	const rows = textOf("docs/hub.md").match(/^\| `(BILLM|HF)_.*$/gm)!;
	const listed = rows.flatMap((row) => names(row.split("|")[1]));
	assert.deepEqual(listed.sort(), [...new Set(used)].filter((name) => !own.includes(name)).sort());
});

Deno.test("the commands of README and docs/ run in a copy of the checkout", async () => {
	using folder = new TemporaryFolder();
	const blocks = BLOCKS.filter(({ marker }) => marker === "run");
	assert(blocks.length > 3);
	await runBlocks(blocks, folder.path, shortened);
});
