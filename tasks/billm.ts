import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { didYouMean } from "../base/did_you_mean.ts";
import { VERSION } from "../base/version.ts";
import { asTyped, commandName, runTask, startInCallersFolder, usageErrors } from "./task.ts";

// What the launcher runs for a name that is no task: help, the version, or a mistake.

/** The commands of users, in the order of the help; all other tasks are those of developers. */
const COMMANDS = [
	...["init", "quantize", "generate", "report", "inspect", "serve", "web", "web:package"],
	...[
		"export",
		"push",
		"dequantize",
		"compare",
		"stages",
		"matrix",
		"schema",
		"doctor",
		"dawn",
		"synth",
	],
];

const PROJECT = join(import.meta.dirname!, "..");
const { tasks }: { tasks: Record<string, { description: string }> } = JSON.parse(
	readFileSync(join(PROJECT, "deno.json"), "utf8"),
);

const [name = "help", ...rest] = Deno.args;

await runTask(async () => {
	startInCallersFolder();
	if (["--version", "-V", "version"].includes(name)) {
		return console.log(`billm ${VERSION} (Deno ${Deno.version.deno})`);
	}
	if (!["help", "--help", "-h"].includes(name)) throw unknown();
	const [asked] = rest;
	if (asked === undefined) return console.log(asTyped(help()));
	if (!(asked in tasks)) throw unknown(asked);
	const { code } = await new Deno.Command(Deno.execPath(), {
		args: ["task", "--quiet", "--cwd", PROJECT, asked, "--help"],
	}).spawn().status;
	Deno.exit(code);
});

function help(): string {
	const width = Math.max(...Object.keys(tasks).map((name) => name.length));
	// Examples in a description are those of its own help.
	const line = (name: string) =>
		`  ${name.padEnd(width)}  ${tasks[name].description.split(": deno task")[0]}`;
	const others = Object.keys(tasks).filter((name) => !COMMANDS.includes(name));
	return `Usage: ${commandName("COMMAND")} [ARGUMENTS]

Commands
${COMMANDS.map(line).join("\n")}

For developers of this program
${others.map(line).join("\n")}

${commandName("help COMMAND")} prints what a command takes, ${
		commandName("--version")
	} the version. On Windows type
billm in place of ./billm; billm.cmd was not run there yet.`;
}

function unknown(asked = name): Error {
	const isFile = /\.ya?ml$/i.test(asked) || existsSync(asked);
	const guess = isFile ? `quantize ${asked}` : didYouMean(asked, Object.keys(tasks));
	const meant = guess === undefined ? "" : `; did you mean "${commandName(guess)}"?`;
	const rest = `${meant ? "" : ";"} ${commandName("help")} lists the commands`;
	return usageErrors("")(`There is no command "${asked}"${meant}${rest}`);
}
