import { mkdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { SMALL_FILES } from "../models/model_files.ts";
import { denoFolder } from "../storage/deno_folder.ts";
import { reasonOf } from "../storage/folder.ts";
import { checkOutputFolder, FolderBeside } from "../storage/output_folder.ts";
import { compressedTensors } from "./compressed_tensors.ts";
import type { Export, Exported, ExportOptions } from "./export.ts";
import { gguf } from "./gguf/gguf.ts";
import { gptq } from "./gptq.ts";
import { mlx } from "./mlx.ts";
import { ExportSource } from "./source.ts";

/** The formats of other programs, in the order of listings. A new one is a file in this room and a line here. */
export const EXPORTS: readonly Export[] = [gguf, compressedTensors, gptq, mlx];

/**
 * Writes a model in a format of other programs, to a folder or a file that appears when it is complete.
 *
 * @param folder The folder of the model, plain or packed.
 * @param out The folder, or the file with the format's ending.
 * @param overwrite Whether a model that is there is replaced.
 * @param name The model's name in messages and in the file; the folder if absent.
 * @throws {UserError} If the model cannot be read, something does not map, or it cannot be written.
 */
export async function exportModel(
	format: Export,
	folder: string,
	out: string,
	{ overwrite = false, name, ...options }: ExportOptions & { overwrite?: boolean; name?: string },
): Promise<Exported & { warnings: readonly string[] }> {
	using source = ExportSource.open(denoFolder(folder), name);
	const { warnings } = source.model;
	if (format.form.kind === "file") {
		checkOutputFile(out, format.form.ending, overwrite);
		return { ...await format.write(source, out, options), warnings };
	}
	checkOutputFolder(folder, out, overwrite, isExportedFile);
	using temporary = new FolderBeside(out);
	const exported = await format.write(source, temporary.path, options);
	temporary.replace();
	return { ...exported, warnings };
}

/** @throws {UserError} If a path is not one for a new file of this format. */
function checkOutputFile(out: string, ending: string, overwrite: boolean): void {
	if (!out.endsWith(ending)) {
		throw new UserError(`"${out}" does not end in "${ending}"; write "${out}${ending}"`);
	}
	const found = statSync(out, { throwIfNoEntry: false });
	if (found?.isDirectory()) throw new UserError(`"${out}" is a folder; give a file`);
	if (found && !overwrite) {
		throw new UserError(`"${out}" exists already; give another, or --overwrite to replace it`);
	}
	try {
		mkdirSync(dirname(resolve(out)), { recursive: true });
	} catch (error) {
		throw new UserError(`Cannot make the folder of "${out}": ${reasonOf(error)}`);
	}
}

/** The folder of exports in that of a run. */
export const EXPORT_FOLDER = "exports";

/** Whether a file may be one that an export has written into a folder. */
export function isExportedFile(name: string): boolean {
	return SMALL_FILES.includes(name) ||
		/^model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?$/.test(name) ||
		EXPORTS.some(({ form }) => form.kind === "file" && name === `model${form.ending}`);
}
