import { existsSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { z } from "zod";
import { isPlainPath } from "../../storage/home.ts";
import { RUN_RECORD } from "../run/record.ts";
import { type JsonSchema, type PathForm, PATHS, pipelineFields, schemaAt } from "./json_schema.ts";
import type { PipelineSource } from "./source.ts";
import type { Path } from "./values.ts";

/**
 * The folder that paths of a pipeline file may be relative to; undefined for that of a run, whose copy of the
 * file has them relative to the working directory.
 */
export function folderOf(file: string): string | undefined {
	const folder = dirname(file);
	return existsSync(join(folder, RUN_RECORD)) ? undefined : folder;
}

/** A path of a pipeline file that is neither in its folder nor in the working directory. */
export interface AbsentPath {
	/** As the file has it. */
	path: string;
	/** `file:line:column` of the path. */
	where: string;
	/** What it is: "calibrate.dataset". */
	name: string;
	/** Where it was looked for. */
	places: string;
}

/**
 * Puts the folder of a pipeline file before the paths of the file that exist there. Others are relative to
 * the working directory, as are paths of overrides.
 *
 * @param optionsAt The schema of the options at a place in the file, by places.
 * @returns The paths that exist nowhere, though they should.
 */
export function placePaths(
	source: PipelineSource,
	optionsAt: readonly { path: Path; name: string; options: z.ZodObject }[],
): AbsentPath[] {
	const { folder } = source;
	if (folder === undefined) return [];
	const absent: AbsentPath[] = [];
	const model = { path: [], name: "", options: pipelineFields.pick({ model: true }) };
	for (const { path: start, name, options } of [model, ...optionsAt]) {
		const schema = z.toJSONSchema(options, {
			io: "input",
			unrepresentable: "any",
			// deno-lint-ignore no-explicit-any -- any registry gives annotations
			metadata: PATHS as any,
		});
		const value = start.reduce((inner, key) => Object(inner)[key], source.value());
		for (const { path, text } of stringsIn(value)) {
			const { isPath, mayLack, names } = schemaAt(schema, path) as JsonSchema & Partial<PathForm> ??
				{};
			const whole = [...start, ...path];
			if (!isPath || text === "" || isAbsolute(text) || !isPlainPath(text)) continue;
			if (names?.includes(text) || source.isOverride(whole)) continue;
			const beside = join(folder, text);
			if (existsSync(beside)) {
				if (resolve(beside) !== resolve(text)) source.replaceString(whole, beside);
				continue;
			}
			if (mayLack || existsSync(text)) continue;
			const here = resolve();
			const places = resolve(folder) === here
				? `it is not in "${here}", the folder of the file and of the command`
				: `it is neither in "${
					resolve(folder)
				}", the folder of the file, nor in "${here}", that of ` +
					"the command";
			absent.push({
				path: text,
				where: source.place(whole).where,
				name: [name, ...path].filter((part) => part !== "").join("."),
				places,
			});
		}
	}
	return absent;
}

/** The strings within a value. */
function* stringsIn(value: unknown, path: Path = []): Generator<{ path: Path; text: string }> {
	if (typeof value === "string") yield { path, text: value };
	else if (typeof value === "object") {
		for (const [key, inner] of Object.entries(value ?? {})) {
			yield* stringsIn(inner, [...path, Array.isArray(value) ? Number(key) : key]);
		}
	}
}
