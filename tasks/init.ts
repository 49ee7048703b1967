import { existsSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { stringify } from "yaml";
import { didYouMean } from "../base/did_you_mean.ts";
import { UserError } from "../base/errors.ts";
import { isRecord } from "../base/record.ts";
import { DATASETS } from "../data/datasets.ts";
import { RepositoryCache } from "../hub/cache.ts";
import { DEFAULT_LIMITS } from "../hub/limits.ts";
import { HubSession, HubUnreachable } from "../hub/session.ts";
import { hubSettings } from "../hub/settings.ts";
import type { Architecture } from "../models/architectures/architecture.ts";
import { readArchitecture } from "../models/architectures/mod.ts";
import { readConfig } from "../models/model_files.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { RECIPES } from "../stages/mod.ts";
import { requireOriginal } from "../stages/run_needs.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { writeFileAtomically } from "../storage/files.ts";
import { refuseOtherThanModel } from "../storage/model_folder.ts";
import { runName, windowLength } from "./pipeline_of_model.ts";
import { commandName, runCommand, usageErrors } from "./task.ts";

const HELP = `Usage: deno task init MODEL [FILE] [options]

Writes a commented pipeline file for MODEL, a folder or a name on the hub. FILE is the names of
the model and the recipe with .yaml if left out. It calibrates and evaluates on WikiText-2 if that
can be had, else on the texts of this program.

Options
  --recipe NAME   The recipe (2-bit): ${RECIPES.slice(0, 7).map(({ name }) => name).join(", ")} ...
  --overwrite     Replace FILE
  --help          Print this

Exit codes: 0 done, 1 failed, 2 bad arguments.
`;

const PROJECT = join(import.meta.dirname!, "..");
const usageError = usageErrors("init");
const options = { recipe: { type: "string" }, overwrite: { type: "boolean" } } as const;

await runCommand({ name: "init", help: HELP, options }, async (given) => {
	const { values: { recipe = "2-bit", overwrite }, positionals, signal } = given;
	if (positionals.length < 1 || positionals.length > 2) {
		throw usageError(`Give one model, and perhaps a file, found ${positionals.length} arguments`);
	}
	const [model, file = `${runName(model, recipe)}.yaml`] = positionals;
	if (/\.ya?ml$/i.test(model) || !/\.ya?ml$/i.test(file)) {
		const found = positionals.map((path) => `"${path}"`).join(" and ");
		throw usageError(`Give a model, and then a file that ends in .yaml, found ${found}`);
	}
	if (existsSync(file) && (!overwrite || !statSync(file).isFile())) {
		throw new UserError(`"${file}" is there already; give another name, or --overwrite`);
	}
	const recipes = RECIPES.map(({ name }) => name);
	if (!recipes.includes(recipe)) {
		const guess = didYouMean(recipe, recipes);
		const rest = guess ? `did you mean "${guess}"?` : `the recipes are ${recipes.join(", ")}`;
		throw usageError(`There is no recipe "${recipe}"; ${rest}`);
	}
	const isFolder = existsSync(model);
	if (isFolder || !HUB_ID.test(model)) refuseOtherThanModel(model);
	const architecture = isFolder || !HUB_ID.test(model)
		? architectureOf(model)
		: await architectureOnHub(model, signal);
	const text = pipelineText(model, file, recipe, architecture);
	writeFileAtomically(file, text);
	console.log(`Written: ${file}\nRun it with: ${commandName(`quantize ${file}`)}`);
});

function architectureOf(folder: string): Architecture {
	const { architecture, quantization } = readConfig(denoFolder(folder), folder);
	requireOriginal({ quantization, name: folder });
	return architecture;
}

/** The architecture of a model on the hub; undefined if the hub cannot be asked. */
async function architectureOnHub(
	id: string,
	signal: AbortSignal,
): Promise<Architecture | undefined> {
	const settings = hubSettings();
	const repository = { type: "model" as const, id, revision: "main" };
	if (settings.offline) {
		console.error(`Warning: "${id}" is no folder here, and was not checked on the hub: offline`);
		return undefined;
	}
	try {
		const session = new HubSession(settings, repository, DEFAULT_LIMITS, signal, () => {}, true);
		const url = `${settings.endpoint}/${id}/resolve/main/config.json`;
		const config: unknown = await (await session.fetch(url)).json();
		return readArchitecture(isRecord(config) ? config : {}, id);
	} catch (error) {
		if (!(error instanceof HubUnreachable)) throw error;
		console.error(`Warning: "${id}" was not checked: ${error.message}`);
		return undefined;
	}
}

function pipelineText(
	model: string,
	file: string,
	recipe: string,
	architecture: Architecture | undefined,
): string {
	const from = (path: string) => {
		const near = relative(dirname(resolve(file)), resolve(path));
		return isAbsolute(path) && near.startsWith("..") ? path : near;
	};
	const isFolder = existsSync(model);
	const { cache, offline } = hubSettings();
	const { id, revision } = DATASETS.wikitext2;
	const cached = new RepositoryCache(cache, { type: "dataset", id, revision }).folder;
	const usesHub = existsSync(join(cached, "snapshots")) || (!isFolder && !offline);
	const text = (name: string) => from(join(PROJECT, `examples/text/${name}.txt.gz`));
	const length = Math.min(usesHub ? 2048 : 256, windowLength(architecture));
	const what = architecture
		? `: ${architecture.modelType}, ${architecture.layers} layers, ${architecture.hiddenSize} wide`
		: "";
	const name = runName(model, recipe);
	const quoted = (word: string) => stringify(word).trim();
	return `# ${model}${what}
#   ${commandName(`quantize ${file} --check`)}   # prints the plan, and what the run takes
#   ${commandName(`quantize ${file}`)}           # runs it, and resumes an interrupted run

name: ${quoted(name)} # results are in out/${name}: the model, report.html, run.json
model: ${quoted(isFolder ? from(model) : model)} # a folder, or a name on the hub

# The method: 1-bit, 1.6-bit, 2-bit, 2.5-bit, 3-bit, default (BiLLM) ...; quantize --help lists all
recipe: ${quoted(recipe)}

# Options of its stages, and stages that it lacks. "stages NAME" describes all options of one
stages:
  calibrate:
    # The text that the method looks at: wikitext2, c4, or .txt, .jsonl and .parquet files of yours
    dataset: ${quoted(usesHub ? "wikitext2" : text("calibration"))}
    samples: ${usesHub ? 128 : 64} # windows: more take longer, and help up to a point
    sequence-length: ${length} # tokens of each, at most those that the model takes
  evaluate:
    # Texts for the perplexity of the original and of the packed model; windows: 20 takes fewer
    perplexity:
      - { dataset: ${
		quoted(usesHub ? "wikitext2" : text("evaluation"))
	}, sequence-length: ${length} }
    # zero-shot: [piqa, arc-easy] # questions, from the hub

# seed: 0 # of all random choices
# gpu: { memory: 12GB } # to stay under; as much as there is if left out
`;
}
