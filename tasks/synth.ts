import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { didYouMean } from "../base/did_you_mean.ts";
import { UserError } from "../base/errors.ts";
import { SHAPES } from "../models/synthetic.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { readJson } from "../storage/json.ts";
import { count, runCommand, usageErrors } from "./task.ts";
import { writeSyntheticModel, writeSyntheticTokens } from "./write_synthetic.ts";

const HELP = `Usage: deno task synth --like NAME FOLDER [options]

Writes a model of random weights in the shapes of a known one (f16 safetensors, one shard per layer),
and random calibration token ids, token_ids.safetensors. NAME is one of
${Object.keys(SHAPES).join(", ")}.

Options
  --layers N            Number of decoder layers; default that of the model
  --samples N           Number of token windows (128)
  --sequence-length N   Tokens per window (2048)
  --seed N              Random seed (0)
  --help                Print this
`;

const usageError = usageErrors("synth");

const options = {
	"like": { type: "string" },
	"layers": { type: "string" },
	"samples": { type: "string" },
	"sequence-length": { type: "string" },
	"seed": { type: "string" },
} as const;

await runCommand({ name: "synth", help: HELP, options }, ({ values, positionals }) => {
	const name = values.like ?? "";
	if (!Object.hasOwn(SHAPES, name)) {
		const names = Object.keys(SHAPES);
		const guess = didYouMean(name, names);
		const meant = guess ? `; did you mean "${guess}"?` : "";
		throw usageError(`--like must be one of ${names.join(", ")}, found "${name}"${meant}`);
	}
	if (positionals.length !== 1) throw usageError(`Give one folder, found ${positionals.length}`);
	const [folder] = positionals;
	const seed = count(usageError, "--seed", values.seed, 0, 0);
	const layers = count(usageError, "--layers", values.layers, 0);
	const config: Record<string, unknown> = {
		...SHAPES[name],
		...(layers > 0 && { num_hidden_layers: layers }),
	};
	refuseOthers(folder, config);
	writeSyntheticModel(folder, config, seed);
	const tokens = join(folder, "token_ids.safetensors");
	writeSyntheticTokens(tokens, {
		samples: count(usageError, "--samples", values.samples, 128),
		length: count(usageError, "--sequence-length", values["sequence-length"], 2048),
		vocabulary: config.vocab_size as number,
		seed,
	});
	console.log(`${folder}: random weights in the shapes of ${name}; calibrate on ${tokens}`);
});

/** @throws {UserError} If a folder holds a model other than the one to be written. */
function refuseOthers(folder: string, config: unknown): void {
	const path = join(folder, "config.json");
	if (!existsSync(path) || isDeepStrictEqual(readJson(denoFile(path)), config)) return;
	throw new UserError(`"${folder}" holds another model; give an empty folder, or a new one`);
}
