import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { PROJECT } from "./checkout.ts";
import { TemporaryFolder } from "./temporary_folder.ts";

/** Runs files of these texts and says how that ended. */
async function run(files: Record<string, string>) {
	using folder = new TemporaryFolder();
	for (const [name, text] of Object.entries(files)) writeFileSync(join(folder.path, name), text);
	const { code, stdout } = await new Deno.Command(Deno.execPath(), {
		args: ["run", "-A", join(PROJECT, "tests/run.ts"), folder.path],
		env: { NO_COLOR: "1" },
	}).output();
	const text = new TextDecoder().decode(stdout);
	const broken = [...text.matchAll(/^ {2}\S*\/(\w+_test\.ts)$/gm)].map(([, name]) => name);
	return { code, broken, sum: text.trimEnd().split("\n").at(-1)!.replace(/ \(\d+s\)$/, "") };
}

const test = (body: string) => `Deno.test("a", async (t) => { ${body} });\n`;
const GOOD = {
	"two_test.ts": test("") + test("await t.step('s', () => {});"),
	"ignored_test.ts": "Deno.test.ignore('a', () => {});",
	"no_tests.ts": "throw new Error();",
	"says_test.ts": test("console.log('ok | 7 passed | 0 failed (1s)');"),
};

Deno.test("the sum is that of all files", async () => {
	assert.deepEqual(await run(GOOD), { code: 0, broken: [], sum: "ok | 3 passed | 0 failed" });
});

Deno.test("a file that fails, does not load, is killed, leaves early or has no tests is a failure", async () => {
	const bad = {
		"fails_test.ts": test("throw new Error();") + test("throw new Error();") + test(""),
		"syntax_test.ts": "}",
		"throws_test.ts": test("") + "throw new Error();",
		"killed_test.ts": test("Deno.kill(Deno.pid, 'SIGKILL'); await new Promise(() => {});"),
		"leaves_test.ts": test("") + "Deno.exit(0);",
		"none_test.ts": "",
	};
	const { code, broken, sum } = await run({ ...GOOD, ...bad });
	assert.equal(code, 1);
	assert.deepEqual(broken, Object.keys(bad).sort());
	assert.equal(sum, "FAILED | 4 passed | 7 failed");
});
