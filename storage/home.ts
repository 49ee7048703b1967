import { homedir } from "node:os";

/** Why a path with "~" is refused: it would name a folder "~". */
export const NO_HOME = 'must not begin with "~" on a system without a home; write the whole path';

/** A path in which a leading "~", alone or before a slash, is the user's home, as in a shell. */
export function inHome(path: string, home: string | null = homedir()): string {
	return home ? path.replace(/^~(?=[/\\]|$)/, () => home) : path;
}

/** Whether a path does not begin with "~" in place of a home. */
export function isPlainPath(path: string): boolean {
	return !/^~(?:$|[/\\])/.test(path);
}
