import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { didYouMean } from "../base/did_you_mean.ts";
import { UserError } from "../base/errors.ts";
import { listed } from "../base/figures.ts";

const GGUF =
	"which this program writes but does not read; give the model that it was made from, as " +
	"a folder with config.json and safetensors or by its name on the hub";

/**
 * Refuses what is given as the folder of a model and is another thing, with the folder that may be meant.
 * A folder that holds anything of a model passes: what it lacks is told when it is opened.
 *
 * @throws {UserError} If that is so.
 */
export function refuseOtherThanModel(path: string): void {
	const problem = problemOf(path);
	if (problem) throw new UserError(`"${path}" is no model: ${problem}`);
}

function problemOf(path: string): string | undefined {
	const found = statSync(path, { throwIfNoEntry: false });
	if (!found) {
		const near = nearPath(path);
		return near && `there is no such folder; did you mean "${near}"?`;
	}
	if (!found.isDirectory()) {
		if (/\.gguf$/i.test(path)) return `it is a GGUF file, ${GGUF}`;
		if (/\.ya?ml$/i.test(path)) return `it is a pipeline file; run it: deno task quantize ${path}`;
		const folder = dirname(path);
		return existsSync(join(folder, "config.json"))
			? `it is a file of one; give the folder "${folder}"`
			: "it is a file; give the folder that holds config.json and the weights";
	}
	const names = readdirSync(path).sort();
	const isRun = names.includes("run.json") && !names.includes("config.json");
	const isModelFile = (name: string) =>
		name === "config.json" || /\.(safetensors|bin)(\.|$)/.test(name);
	if (!isRun && names.some(isModelFile)) return;
	const gguf = names.find((name) => /\.gguf$/i.test(name));
	if (gguf) return `it holds the GGUF file "${gguf}", ${GGUF}`;
	if (isRun) {
		return existsSync(join(path, "model/config.json"))
			? "it is the folder of a run, whose model is packed already; give the original one"
			: "it is the folder of a run that has not finished, or packs nothing; run its pipeline again";
	}
	const [, hubName] = /^models--(.+)$/.exec(basename(path)) ?? [];
	if (hubName) return `it is a place of the hub's cache; give "${hubName.replace("--", "/")}"`;
	const isModel = (name: string) =>
		["", "model"].some((inner) => existsSync(join(path, name, inner, "config.json")));
	const models = names.filter(isModel).slice(0, 5).map((name) => `"${join(path, name)}"`);
	if (models.length > 0) return `it has no config.json; give ${listed(models, "or")}`;
	return names.length > 0 ? undefined : "the folder is empty";
}

/** The path that is there and most likely meant by one that is not. */
export function nearPath(path: string): string | undefined {
	const folder = dirname(path);
	if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return undefined;
	const guess = didYouMean(basename(path), readdirSync(folder));
	return guess && join(folder, guess);
}
