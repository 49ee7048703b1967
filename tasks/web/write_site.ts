import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyFileAtomically } from "../../storage/files.ts";
import type { PageFiles } from "./page_files.ts";
import { writeFolder } from "./write_folder.ts";
import { FILE_LIST, type ServedModel } from "./served_model.ts";

/**
 * Writes the page, and its model, for any static host.
 *
 * @throws {UserError} If something else than an earlier page is in the folder, or a file cannot be copied.
 */
export function writeSite(
	folder: string,
	page: PageFiles,
	model?: ServedModel,
): void {
	writeFolder(folder, "site.json", ({ generator }) => generator === "billm", (part) => {
		for (const [name, content] of page) writeFileSync(join(part, name), content);
		if (!model) return;
		const place = join(part, model.place);
		mkdirSync(place, { recursive: true });
		for (const [name, path] of model.paths) copyFileAtomically(path, join(place, name));
		writeFileSync(join(place, FILE_LIST), JSON.stringify(model.list()));
	});
}
