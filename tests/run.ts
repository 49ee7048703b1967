// Runs the test files, some side by side, each in a process of its own: most of the time goes into
// compiling kernels, which takes one core each. `deno task test` passes its arguments on: files or
// folders, and options of `deno test` such as --coverage=FOLDER.

import { readdirSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { PROJECT } from "./checkout.ts";

/** Files that run side by side: one more than cores, as each waits now and then; not too many. */
const WORKERS = Math.min(4, availableParallelism() + 1);

/** What takes long comes first, so that no core waits for it in the end. */
const LONG = [
	"tests/codecs/billm",
	"tests/gpu/kernels",
	"tests/net",
	"tests/pipeline",
	"tests/models",
];

function testFiles(paths: readonly string[]): string[] {
	const all = paths.flatMap((path) => {
		if (statSync(path).isFile()) return [path];
		return readdirSync(path, { recursive: true }).map((name) => join(path, `${name}`))
			.filter((name) => name.endsWith("_test.ts"));
	});
	const rank = (path: string) => {
		const place = LONG.findIndex((start) => path.startsWith(start));
		return place < 0 ? LONG.length : place;
	};
	return [...new Set(all.map((path) => relative(PROJECT, path)))]
		.sort((a, b) => rank(a) - rank(b) || statSync(b).size - statSync(a).size);
}

interface Counts {
	passed: number;
	failed: number;
}

/**
 * Runs a test file, prints what it says, and counts. A process that ends without a sum has failed, and
 * so has one that ran no test: something has ended it early, or its tests were lost.
 */
async function runFile(file: string, options: readonly string[]): Promise<Counts> {
	const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["test", "-A", "--no-check", ...options, file],
		cwd: PROJECT,
		stdout: "piped",
		stderr: "piped",
	}).output();
	const decoder = new TextDecoder();
	const text = decoder.decode(stdout);
	// The last one: tests may print the like before.
	const sums = /^\w+ \| (\d+) passed(?: \(\d+ steps?\))? \| (\d+) failed(.*)/gm;
	const [, passed = 0, failed = 0, others = ""] = [...stripColours(text).matchAll(sums)].at(-1) ??
		[];
	const ranSome = Number(passed) + Number(failed) > 0 || /ignored|filtered/.test(others);
	const isGood = code === 0 && ranSome;
	console.log(isGood ? text.trimEnd() : `${text.trimEnd()}\n${decoder.decode(stderr).trimEnd()}`);
	if (!ranSome) console.log(`${file} ended with code ${code} and ran no test`);
	return { passed: Number(passed), failed: isGood ? Number(failed) : Math.max(1, Number(failed)) };
}

function stripColours(text: string): string {
	// deno-lint-ignore no-control-regex -- the escape character begins a colour
	return text.replace(/\x1b\[[0-9;]*m/g, "");
}

// Set by the launcher; messages would name it instead of the task.
Deno.env.delete("BILLM_COMMAND");
const start = performance.now();
const options = Deno.args.filter((argument) => argument.startsWith("-"));
const paths = Deno.args.filter((argument) => !argument.startsWith("-"));
const all = join(PROJECT, Deno.env.get("BILLM_TESTS") ?? "tests"); // test:dawn has those of kernels
const files = testFiles(paths.length > 0 ? paths : [all]);
const total: Counts = { passed: 0, failed: 0 };
const broken: string[] = [];
const times: [seconds: number, file: string][] = [];
const workers = Array.from({ length: WORKERS }, async () => {
	for (let file = files.shift(); file !== undefined; file = files.shift()) {
		const begin = performance.now();
		const { passed, failed } = await runFile(file, options);
		times.push([Math.round((performance.now() - begin) / 1000), file]);
		total.passed += passed;
		total.failed += failed;
		if (failed > 0) broken.push(file);
	}
});
await Promise.all(workers);
const seconds = Math.round((performance.now() - start) / 1000);
const slowest = times.sort(([a], [b]) => b - a).slice(0, 10).filter(([seconds]) => seconds > 0);
console.log(
	`\nSlowest files:${slowest.map(([seconds, file]) => `\n  ${seconds}s ${file}`).join("")}`,
);
if (broken.length > 0) console.log(`\nFiles with failures:\n  ${broken.sort().join("\n  ")}`);
const { passed, failed } = total;
console.log(`\n${failed ? "FAILED" : "ok"} | ${passed} passed | ${failed} failed (${seconds}s)`);
Deno.exit(failed > 0 ? 1 : 0);
