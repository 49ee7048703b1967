import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { FolderBeside } from "../../storage/output_folder.ts";

/**
 * Replaces a folder that the program has written earlier, or writes a new one: it is complete or not there.
 *
 * @param mark A JSON file that such a folder has.
 * @param isOurs Whether the content of the mark is that of such a folder.
 * @param write Writes the files into a folder.
 * @throws {UserError} If something else is in the folder.
 */
export function writeFolder(
	folder: string,
	mark: string,
	isOurs: (content: Record<string, unknown>) => boolean,
	write: (part: string) => void,
): void {
	const path = folder.replace(/[\\/]+$/, "");
	if (existsSync(path) && !isReplaceable(path, mark, isOurs)) {
		throw new UserError(`Cannot write to "${folder}": other files are there; name a new folder`);
	}
	using part = new FolderBeside(path);
	write(part.path);
	part.replace();
}

function isReplaceable(
	path: string,
	mark: string,
	isOurs: (content: Record<string, unknown>) => boolean,
): boolean {
	try {
		if (readdirSync(path).length === 0) return true;
		return isOurs(JSON.parse(readFileSync(join(path, mark), "utf8")) ?? {});
	} catch {
		return false; // a file, or a folder without the mark
	}
}
