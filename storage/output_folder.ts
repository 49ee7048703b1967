import {
	existsSync,
	mkdirSync,
	readdirSync,
	realpathSync,
	renameSync,
	rmSync,
	statSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "./folder.ts";

/**
 * Checks that nothing is lost when a model is written to a folder.
 *
 * @param model The folder of the model that is read.
 * @param out The folder that is to be written.
 * @param isOurs Whether a file may be one that the program has written there.
 * @throws {UserError} If it is in use.
 */
export function checkOutputFolder(
	model: string,
	out: string,
	overwrite: boolean,
	isOurs: (name: string) => boolean,
): void {
	if (!existsSync(out)) return;
	if (!statSync(out).isDirectory()) throw new UserError(`"${out}" is a file; give a folder`);
	if (realpathSync(out) === realpathSync(model)) {
		throw new UserError(`"${out}" is the packed model itself; give another folder`);
	}
	const entries = readdirSync(out, { withFileTypes: true });
	if (entries.length === 0) return;
	const foreign = entries.find((entry) => !entry.isFile() || !isOurs(entry.name));
	if (foreign || !existsSync(join(out, "config.json"))) {
		const what = foreign ? `, "${foreign.name}"` : "";
		throw new UserError(
			`The folder "${out}" holds something else than a model${what}; give another`,
		);
	}
	if (!overwrite) {
		throw new UserError(
			`The folder "${out}" is not empty; give another, or --overwrite to replace what is in it`,
		);
	}
}

/** A folder on the disk of another one, in whose place it can be put; otherwise it is removed. */
export class FolderBeside implements Disposable {
	readonly path: string;

	/** @throws {UserError} If it cannot be made. */
	constructor(readonly out: string) {
		this.path = `${resolve(out)}-${crypto.randomUUID()}`;
		try {
			mkdirSync(dirname(this.path), { recursive: true });
			mkdirSync(this.path);
		} catch (error) {
			throw new UserError(`Cannot make the folder "${out}": ${reasonOf(error)}`);
		}
	}

	/** Puts it in the place of the other one or of none. @throws {UserError} If it cannot be done. */
	replace(): void {
		try {
			rmSync(this.out, { recursive: true, force: true });
			renameSync(this.path, this.out);
		} catch (error) {
			throw new UserError(`Cannot write the folder "${this.out}": ${reasonOf(error)}`);
		}
	}

	[Symbol.dispose](): void {
		rmSync(this.path, { recursive: true, force: true });
	}
}
