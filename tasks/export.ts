import { basename, resolve } from "node:path";
import { setImmediate } from "node:timers/promises";
import { bytesText } from "../base/units.ts";
import { plural } from "../base/figures.ts";
import { misfitLines } from "../export/export.ts";
import { exportModel, EXPORTS } from "../export/mod.ts";
import { didYouMean } from "../base/did_you_mean.ts";
import { modelFolder, runCommand, usageErrors, warnOf } from "./task.ts";

const formats = EXPORTS.map(({ name, summary }) => `    ${name.padEnd(20)} ${summary}`).join("\n");

const HELP = `Usage: deno task export MODEL --to FORMAT OUT [options]

Writes a model for other programs, with the same codes and scales. What a format cannot hold exactly
is refused. MODEL is a packed model, the output folder of the run that packed it, or a plain model
(to gguf). OUT is a folder, to gguf a file that ends in .gguf; it appears when it is complete.

Options
  --to FORMAT
${formats}
  --types A,B        Types that linear layers may have, in gguf: ${
	EXPORTS.flatMap(({ types = [] }) => types).join(", ")
}.
                     TQ1_0 and TQ2_0 are written on request only, as not all devices have them
  --allow lossy      Approximate what does not map, and say what
  --overwrite        Replace an existing model in OUT
  --help             Print this

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
`;

const usageError = usageErrors("export");

const command = {
	name: "export",
	help: HELP,
	options: {
		to: { type: "string" },
		types: { type: "string" },
		allow: { type: "string" },
		overwrite: { type: "boolean" },
	},
	interrupted: "OUT is as it was; beside it, a temporary file or folder may be left.",
} as const;

await runCommand(command, async ({ values, positionals, signal }) => {
	if (positionals.length !== 2) {
		throw usageError(
			`Give MODEL and OUT, found ${positionals.length} ${plural(positionals.length, "argument")}`,
		);
	}
	const format = formatOf(values.to);
	const { allow } = values;
	if (allow !== undefined && allow !== "lossy") {
		throw usageError(`--allow must be lossy, found "${allow}"`);
	}
	const [given, out] = positionals;
	const exported = await exportModel(format, modelFolder(given), out, {
		lossy: allow === "lossy",
		types: typesOf(values.types, format),
		overwrite: values.overwrite,
		name: basename(resolve(given)),
		async pause() {
			await setImmediate();
			signal.throwIfAborted();
		},
	});
	warnOf(exported);
	for (const { text, instead } of misfitLines(exported.misfits)) {
		console.error(`Approximated as ${instead}: ${text}`);
	}
	for (const note of exported.notes) console.error(`Note: ${note}`);
	const types = Object.entries(exported.types).map(([type, count]) => `${count} ${type}`);
	console.log(`${out}: ${bytesText(exported.bytes)}; tensors: ${types.join(", ")}`);
});

function formatOf(name: string | undefined) {
	const names = EXPORTS.map(({ name }) => name);
	const known = `the formats are ${names.join(", ")}`;
	if (name === undefined) throw usageError(`Give a format with --to; ${known}`);
	const found = EXPORTS.find((format) => format.name === name);
	if (found) return found;
	const guess = didYouMean(name, names);
	throw usageError(
		`Unknown format "${name}"; ${guess ? `did you mean "${guess}"? ` : ""}${known}`,
	);
}

/** The types of `--types`, in the spelling of the format. */
function typesOf(
	text: string | undefined,
	{ name, types = [] }: ReturnType<typeof formatOf>,
): string[] | undefined {
	if (text === undefined) return undefined;
	return text.split(",").map((written) => {
		const type = types.find((type) => type.toLowerCase() === written.trim().toLowerCase());
		if (type !== undefined) return type;
		throw usageError(
			types.length > 0
				? `--types names "${written}"; ${name} has ${types.join(", ")}`
				: `--types is for gguf; ${name} has no choice of types`,
		);
	});
}
