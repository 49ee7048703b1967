import { UserError } from "../base/errors.ts";
import { counted } from "../base/figures.ts";
import { disks, examineGpu, examineHub, type Finding, versions } from "./findings.ts";
import { lookAtMachine } from "./machine.ts";
import { runCommand } from "./task.ts";

const HELP = `Usage: deno task doctor [--json]

Checks what runs need: the adapter with its features, limits, memory and speed, disk space, the
hub, versions. Suggests a remedy for each problem. Takes a few seconds.

Options
  --json   Print the findings as JSON
  --help   Print this

Exit codes: 0 ready (perhaps with warnings), 1 something must be fixed.
`;

const command = {
	name: "doctor",
	help: HELP,
	options: { json: { type: "boolean" } },
	takesArguments: false,
	interrupted: "Nothing was changed.",
} as const;

await runCommand(command, async ({ values, signal }) => {
	const findings: Finding[] = [];
	const tell = (...found: Finding[]) => {
		findings.push(...found);
		if (!values.json) found.forEach((finding) => console.log(lineOf(finding)));
	};
	tell(versions());
	const machine = await lookAtMachine();
	await examineGpu(machine, tell);
	tell(...disks());
	tell(await examineHub(signal));

	const bad = findings.filter(({ state }) => state === "bad").length;
	if (values.json) console.log(JSON.stringify({ ready: bad === 0, findings }, null, 2));
	if (bad > 0) {
		throw new UserError(`${counted(bad, "finding")} must be fixed before anything runs`);
	}
	if (!values.json) console.log("\nReady.");
});

function lineOf({ check, state, text, remedies = [] }: Finding): string {
	const mark = { good: "ok  ", warning: "note", bad: "BAD " }[state];
	return [`${mark} ${check.padEnd(9)} ${text}`, ...remedies.map((way) => `      -> ${way}`)]
		.join("\n");
}
