import { UserError } from "../base/errors.ts";

/** Where a model is downloaded from. */
export interface ModelSource {
	/** Its name for people: the hub's name of it, or the end of the URL. */
	name: string;
	/** The URL of the folder, without a trailing slash; for the hub, that of the model's page. */
	url: string;
	/** The hub's name and the revision; absent for other servers. */
	hub?: { endpoint: string; id: string; revision: string };
}

/** The hub that names such as "owner/name" belong to. */
export const HUB = "https://huggingface.co";

const ID = /^[\w-][\w.-]*\/[\w-][\w.-]*$/;

/**
 * The source of a model from what people write: the URL of a folder, a path that begins with "/" or "./", a
 * name on the hub such as `owner/name`, `owner/name@revision`, or the URL of its page.
 *
 * @param base The URL that paths are relative to.
 * @throws {UserError} If it is none of them.
 */
export function parseSource(text: string, base: string, endpoint = HUB): ModelSource {
	const given = text.trim();
	const [id, revision] = given.split("@");
	if (ID.test(id) && given.split("@").length <= 2) return hubSource(endpoint, id, revision);
	const isAddress = /^https?:\/\//i.test(given) || /^\.{0,2}\//.test(given);
	const url = isAddress ? URL.parse(given, base) : null;
	if (!url) {
		throw new UserError(
			given === ""
				? "Give the URL of a model folder, or a name on the hub such as owner/name"
				: `Cannot load "${given}": it is neither a URL nor a name on the hub; write ` +
					`https://host/folder, /folder on this server, or owner/name`,
		);
	}
	if (url.origin === new URL(endpoint).origin) {
		const [, owner, name, , revision] = url.pathname.split("/");
		const page = `${owner}/${name}`;
		if (/^\/[^/]+\/[^/]+(\/(tree|resolve)\/[^/]+)?\/?$/.test(url.pathname) && ID.test(page)) {
			return hubSource(endpoint, page, revision);
		}
	}
	refuseParts(given, url);
	url.hash = "";
	const folder = url.href.replace(/(\/(config|model\.safetensors\.index)\.json)?\/*$/, "");
	return { name: decoded(folder.split("/").at(-1)!) || url.host, url: folder };
}

/** @throws {UserError} If a URL has parts that the names of files cannot be added to, or pages may not send. */
function refuseParts(given: string, { search, username, password }: URL): void {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot load "${given.replace(/\/\/.*@/, "//")}": ${problem}`);
	};
	if (search) refuse(`give the address of a folder, without "${search}"`);
	if (username || password) refuse("pages may not send a name or password in an address");
}

/** A part of a URL as text, or as it is if it is no UTF-8. */
function decoded(part: string): string {
	try {
		return decodeURIComponent(part);
	} catch {
		return part;
	}
}

function hubSource(endpoint: string, id: string, revision = "main"): ModelSource {
	if (!/^[\w.-]+$/.test(revision)) {
		throw new UserError(
			`Cannot load "${id}@${revision}": the revision must be a branch, a tag or a commit without ` +
				`further characters than letters, digits, ".", "-" and "_"`,
		);
	}
	const isMain = revision === "main";
	return {
		name: isMain ? id : `${id}@${revision}`,
		url: isMain ? `${endpoint}/${id}` : `${endpoint}/${id}/tree/${revision}`,
		hub: { endpoint, id, revision },
	};
}
