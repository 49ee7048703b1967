import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { typescript } from "./typescript.ts";

const PROJECT = join(import.meta.dirname!, "../..");

/** What browsers without explicit resource management lack. */
const SYMBOLS = `for (const name of ["dispose", "asyncDispose"]) {
  if (!Symbol[name]) Object.defineProperty(Symbol, name, { value: Symbol("Symbol." + name) });
}
`;

/**
 * A module of the project with all that it imports, as one minified text for browsers: without syntax that some
 * of them with WebGPU do not have, such as `using`.
 *
 * @param entry Its path in the project.
 * @param scratch A folder for temporary files.
 */
export async function bundleForBrowsers(entry: string, scratch: string): Promise<string> {
	const whole = await denoBundle([join(PROJECT, entry)]);
	const ts = await typescript();
	const { outputText } = ts.transpileModule(whole, {
		compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
	});
	const path = join(scratch, "lowered.js");
	writeFileSync(
		path,
		(/\bSymbol\.(async)?[dD]ispose\b/.test(outputText) ? SYMBOLS : "") + outputText,
	);
	return await denoBundle(["--minify", path]);
}

async function denoBundle(args: string[]): Promise<string> {
	const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["bundle", "--quiet", "--platform", "browser", ...args],
		cwd: PROJECT,
		env: { NO_COLOR: "1" },
	}).output();
	const [text, problem] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
	if (!success) throw new UserError(`Cannot bundle "${args.at(-1)}": ${problem.trim()}`);
	return text;
}
