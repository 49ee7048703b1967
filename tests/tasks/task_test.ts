import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { VERSION } from "../../base/version.ts";
import { PROJECT } from "../checkout.ts";
import { Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

/** What a task does in each case, and how it ends. */
const ENDS: [what: string, code: number, message: RegExp][] = [
	["null.x", 70, /^Error: TypeError: Cannot read properties of null/],
	["throw 'a text'", 70, /^Error: a text\. This is a fault/],
	[
		"setTimeout(() => { throw new RangeError('later\\nmore'); }); await new Promise(() => setTimeout(() => {}, 9e3))",
		70,
		/^Error: RangeError: later\. /,
	],
	[
		"Promise.reject(new Error('unheard')); await new Promise(() => setTimeout(() => {}, 9e3))",
		70,
		/^Error: Error: unheard\. /,
	],
	[
		"(await import('node:fs')).readFileSync('/nowhere/x')",
		1,
		/^Error: Cannot use "\/nowhere\/x": no such file or folder\n$/,
	],
	["Deno.readTextFileSync('/nowhere/x')", 1, /^Error: .*nowhere.*\n$/],
];

for (const [what, code, message] of ENDS) {
	Deno.test(`how a task ends after ${what}`, async () => {
		using folder = new TemporaryFolder();
		const path = join(folder.path, "task.js");
		const task = join(PROJECT, "tasks/task.ts");
		writeFileSync(
			path,
			`const { runCommand } = await import(${JSON.stringify(`file://${task}`)});
       await runCommand({ name: "x", help: "", options: {} }, async () => { ${what} });`,
		);
		const run = async (env: Record<string, string>) => {
			const { code, stderr } = await new Deno.Command(Deno.execPath(), {
				args: ["run", "-A", "--no-check", "--config", join(PROJECT, "deno.json"), path],
				env: { NO_COLOR: "1", BILLM_TRACE: "", ...env },
			}).output();
			return { code, stderr: new TextDecoder().decode(stderr) };
		};
		const plain = await run({});
		assert.equal(plain.code, code, plain.stderr);
		assert.match(plain.stderr, message);
		assert.equal(plain.stderr.trimEnd().split("\n").length, 1, plain.stderr);
		if (code !== 70) return;
		const report =
			`This is a fault of this program (billm ${VERSION}). Please report it, with the command ` +
			"and what it prints with BILLM_TRACE=1, under Issues on the page of the repository\n";
		assert.ok(plain.stderr.endsWith(report), plain.stderr);
		if (what !== "null.x") return;
		assert.match((await run({ BILLM_TRACE: "1" })).stderr, /\n\s+at .*task\.js:2:/);
	});
}

for (const code of ["for (;;);", "await new Promise(() => {});"]) {
	for (const signal of ["SIGINT", "SIGTERM"] as const) {
		Deno.test(`${signal} ends the loading of a module: ${code}`, async () => {
			using folder = new TemporaryFolder();
			const file = join(folder.path, "p.yaml");
			writeFileSync(
				join(folder.path, "stage.ts"),
				`console.log("loading"); ${code} export default 1;`,
			);
			writeFileSync(file, "name: a\nmodel: b\nstages: [{ use: ./stage.ts }]\n");
			let sent = 0;
			const { code: exit, stderr } = await startTask("quantize", [file, "--check"], {
				onOutput(text, child) {
					if (sent > 0 || !text.includes("loading")) return;
					sent = performance.now();
					child.kill(signal);
				},
			});
			assert.ok(performance.now() - sent < 5000);
			assert.deepEqual(
				[exit, stderr],
				[130, "\nInterrupted. The same command resumes where this one stopped.\n"],
			);
		});
	}
}

Deno.test("an interrupted task says what the same command will do", async () => {
	using place = new Workplace({ layers: 2 });
	const preload = place.path("interrupt.js");
	writeFileSync(
		preload,
		`const listen = Deno.addSignalListener;
     Deno.addSignalListener = (signal, act) => {
       listen(signal, act);
       Deno.kill(Deno.pid, signal);
     };`,
	);
	const resumes = "The same command resumes where this one stopped.";
	const anew = "The same command begins anew.";
	for (
		const [task, args, words] of [
			["quantize", [place.pipeline()], resumes],
			["generate", [place.model, "--prompt", "a"], anew],
			["bench/kernels", [], anew],
			["bench/layer", ["--like", "opt-125m"], anew],
		] as const
	) {
		const { code, stderr } = await startTask(task, [...args], { preload });
		assert.deepEqual([task, code, stderr], [task, 130, `\nInterrupted. ${words}\n`]);
	}
});
