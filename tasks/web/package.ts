import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { typescript } from "./typescript.ts";
import { VERSION } from "../../base/version.ts";
import { bundleForBrowsers } from "./bundle.ts";
import { writeFolder } from "./write_folder.ts";

const PROJECT = join(import.meta.dirname!, "../..");
/** The module that the package consists of. */
const ENTRY = "web/web.ts";

/**
 * Writes `web/web.ts` as a package for npm: one module, its types, package.json and the documentation.
 *
 * @throws {UserError} If something else than an earlier package is in the folder.
 */
export async function writePackage(folder: string): Promise<void> {
	const scratch = mkdtempSync(join(tmpdir(), "billm-package-"));
	try {
		const files = new Map([
			["billm.js", await bundleForBrowsers(ENTRY, scratch)],
			["package.json", JSON.stringify(description(), undefined, 2)],
			["README.md", readFileSync(join(PROJECT, "docs/browser.md"), "utf8")],
			["LICENSE", readFileSync(join(PROJECT, "LICENSE"), "utf8")],
			...[...await declarations()].map(([name, text]) => [`types/${name}`, text] as const),
		]);
		writeFolder(folder, "package.json", ({ name }) => name === NAME, (part) => {
			for (const [name, text] of files) {
				mkdirSync(dirname(join(part, name)), { recursive: true });
				writeFileSync(join(part, name), text);
			}
		});
	} finally {
		rmSync(scratch, { recursive: true });
	}
}

const NAME = "billm-web";

function description() {
	return {
		name: NAME,
		version: VERSION,
		description: "Language models of 1 to 4 bits per weight on the WebGPU of browsers",
		license: "MIT",
		type: "module",
		sideEffects: false,
		exports: { ".": { types: "./types/web/web.d.ts", default: "./billm.js" } },
		dependencies: { "@webgpu/types": "^0.1.74" },
	};
}

/** The types of the module and of all that they name, by their paths. */
async function declarations(): Promise<Map<string, string>> {
	const ts = await typescript();
	const program = ts.createProgram([join(PROJECT, ENTRY)], {
		declaration: true,
		emitDeclarationOnly: true,
		noCheck: true, // `deno check` does, with the types of packages, which this compiler cannot find
		allowImportingTsExtensions: true,
		strict: true,
		target: ts.ScriptTarget.ESNext,
		module: ts.ModuleKind.ESNext,
		moduleResolution: ts.ModuleResolutionKind.Bundler,
		lib: ["lib.esnext.d.ts", "lib.dom.d.ts"],
		types: [],
		rootDir: PROJECT,
		outDir: PROJECT,
	});
	const all = new Map<string, string>();
	program.emit(undefined, (path, text) => {
		all.set(normalize(path).slice(PROJECT.length + 1).replaceAll("\\", "/"), text);
	});
	const entry = ENTRY.replace(/ts$/, "d.ts");
	const reached = new Map<string, string>([[entry, ""]]);
	for (const name of reached.keys()) { // which grows meanwhile
		const text = all.get(name)!;
		for (const [, path] of text.matchAll(/(?:\bfrom|\bimport\()\s*"(\.[^"]+)\.ts"/g)) {
			const target = normalize(join(name, "..", `${path}.d.ts`)).replaceAll("\\", "/");
			if (!reached.has(target)) reached.set(target, "");
		}
		// Resolvers of packages know a declaration by the name of its module.
		reached.set(name, text.replaceAll(/((?:\bfrom|\bimport\()\s*"\.[^"]+)\.ts"/g, '$1.js"'));
	}
	const types = `/// <reference types="@webgpu/types" />\n`;
	return reached.set(entry, types + reached.get(entry));
}
