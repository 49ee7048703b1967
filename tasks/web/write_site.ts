import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { copyFileAtomically } from "../../storage/files.ts";
import { FILE_LIST, type ServedModel } from "./served_model.ts";

/**
 * Writes the page, and its model, for any static host. The folder is complete or not there.
 *
 * @throws {UserError} If something else than an earlier page is in the folder.
 */
export function writeSite(
  folder: string,
  page: ReadonlyMap<string, string>,
  model?: ServedModel,
): void {
  if (existsSync(folder) && !isReplaceable(folder)) {
    throw new UserError(
      `Cannot write the page to "${folder}": other files are there; name a new folder`,
    );
  }
  const part = `${folder.replace(/[\\/]+$/, "")}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  for (const [name, text] of page) writeFileSync(join(part, name), text);
  if (model) {
    const place = join(part, model.place);
    mkdirSync(place, { recursive: true });
    for (const [name, path] of model.paths) copyFileAtomically(path, join(place, name));
    writeFileSync(join(place, FILE_LIST), JSON.stringify(model.list()));
  }
  rmSync(folder, { recursive: true, force: true });
  renameSync(part, folder);
}

/** Whether a folder is empty or has an earlier page. */
function isReplaceable(folder: string): boolean {
  if (readdirSync(folder).length === 0) return true;
  try {
    return JSON.parse(readFileSync(join(folder, "site.json"), "utf8")).generator === "billm";
  } catch {
    return false;
  }
}
