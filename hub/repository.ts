import { UserError } from "../base/errors.ts";

/** A model or a data set on the hub, at a revision. */
export interface HubRepository {
	type: "model" | "dataset";
	/** `owner/name`, or `name` for a few old ones. */
	id: string;
	/** A branch, a tag or a commit hash. */
	revision: string;
}

/** Checks a repository. @throws {UserError} If its name or revision is invalid. */
export function checkRepository({ id, revision }: HubRepository): void {
	const parts = id.split("/");
	const good = parts.length <= 2 && id.length <= 96 && !/--|\.\./.test(id) &&
		!id.endsWith(".git") &&
		parts.every((part) => /^\w([\w.-]*\w)?$/.test(part));
	if (!good) {
		throw new UserError(`Cannot download "${id}": it is no name on the hub; write "owner/name"`);
	}
	if (!isPlainPath(revision)) {
		throw new UserError(
			`Cannot download "${id}": "${revision}" is no revision; ` +
				`give a branch, a tag or a commit hash`,
		);
	}
}

export function isCommitHash(revision: string): boolean {
	return /^[0-9a-f]{40}$/.test(revision);
}

/** Whether a path with forward slashes stays within its folder, on any system. */
export function isPlainPath(path: string): boolean {
	// deno-lint-ignore no-control-regex
	return path.split("/").every((part) => !/^\.{0,2}$|[\\:\x00-\x1f]/.test(part));
}

/** The URL path of a repository. */
export function repositoryPath({ type, id }: HubRepository): string {
	return type === "model" ? id : `datasets/${id}`;
}

export function pageOf(endpoint: string, repository: HubRepository): string {
	return `${endpoint}/${repositoryPath(repository)}`;
}

/** The kind of a repository, for messages. */
export function kindOf({ type }: HubRepository): string {
	return type === "model" ? "model" : "data set";
}
