import { runCommand, usageErrors } from "./task.ts";
import { writePackage } from "./web/package.ts";

const HELP = `Usage: deno task web:package [OUT]

Writes what web/web.ts exports as a package for npm into the folder OUT (dist): one module for
browsers, its types and a package.json.

Options
  --help        Print this

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
`;

const usageError = usageErrors("web:package");

await runCommand({ name: "web:package", help: HELP, options: {} }, async ({ positionals }) => {
	if (positionals.length > 1) {
		throw usageError(`Give one folder at most, found ${positionals.length}`);
	}
	const [folder = "dist"] = positionals;
	await writePackage(folder);
	console.log(`Written: ${folder}`);
});
