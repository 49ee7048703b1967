import { modelInfo } from "@huggingface/hub";
import { parseDocument } from "yaml";
import { type Folder, readText } from "../storage/folder.ts";
import { fetchFiles } from "./fetch_files.ts";
import { resolveRevision, topFiles } from "./listing.ts";
import { join } from "node:path";
import { sessionOf, type UploadOptions } from "./upload_plan.ts";

/** The license of a model, as model cards have it. */
export interface License {
	/** The keys `license`, `license_name` and `license_link` of the card, as far as it has them. */
	keys: Record<string, string | string[]>;
	/** The files that hold its text, by name. */
	files: Record<string, string>;
}

const KEYS = ["license", "license_name", "license_link"];

/** The most bytes of a file of a license. */
const MOST_BYTES = 1 << 20;

function isLicenseFile(name: string): boolean {
	return /^(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)([._-][\w.-]*)?$/i.test(name);
}

/** The license of a model in a folder. */
export function licenseOfFolder(folder: Folder, path: string): License {
	const names = folder.names().filter(isLicenseFile);
	const card = folder.has("README.md") ? readText(folder.file("README.md")) : "";
	const [, head = ""] = /^---\r?\n([^]*?)\r?\n---/.exec(card) ?? [];
	const document = parseDocument(head);
	const keys = document.errors.length > 0 ? {} : licenseKeys(document.toJS({ maxAliasCount: 10 }));
	return { keys, files: Object.fromEntries(names.map((name) => [name, join(path, name)])) };
}

/**
 * The license of a model on the hub.
 *
 * @throws {UserError} If the hub does not answer, or has no such model.
 */
export async function licenseOnHub(id: string, options: UploadOptions): Promise<License> {
	const repository = { type: "model", id, revision: "main" } as const;
	const session = sessionOf(repository, options);
	const { settings, signal, onWarning, limits } = options;
	const { commit } = await resolveRevision(session);
	const { cardData } = await modelInfo({
		name: id,
		hubUrl: settings.endpoint,
		fetch: session.fetch,
		additionalFields: ["cardData"],
	});
	const names = (await topFiles(session, commit))
		.filter(({ path, bytes }) => isLicenseFile(path) && bytes <= MOST_BYTES)
		.map(({ path }) => path);
	const files: Record<string, string> = {};
	if (names.length > 0) {
		const found = await fetchFiles({ ...repository, revision: commit }, names, {
			settings,
			signal,
			onWarning,
			limits,
		});
		for (const name of names) files[name] = join(found.folder, name);
	}
	return { keys: licenseKeys(cardData), files };
}

/** The keys of a license among those of a card, whatever its author has written. */
function licenseKeys(card: unknown): License["keys"] {
	const isText = (value: unknown) => typeof value === "string" && value.length <= 300;
	return Object.fromEntries(
		KEYS.map((key) => [key, Object(card)[key]])
			.filter(([, value]) => isText(value) || Array.isArray(value) && value.every(isText)),
	);
}
