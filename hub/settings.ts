import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "../storage/folder.ts";
import { inHome } from "../storage/home.ts";

/** Settings of the hub and its cache. */
export interface HubSettings {
	/** URL of the hub, without a trailing slash. */
	endpoint: string;
	/** Access token, sent only to the endpoint. */
	token?: string;
	/** Source of the token, for messages: a variable or a file path. */
	tokenSource?: string;
	/** Cache folder with entries such as `models--owner--name`, shared with Python's huggingface_hub. */
	cache: string;
	/** Whether network requests are disabled. */
	offline: boolean;
	/** Name and password for the endpoint, as "name:password"; never shown. */
	credentials?: string;
	/** Whether snapshots hold copies in place of links. */
	copies?: boolean;
}

type Environment = Record<string, string | undefined>;

/**
 * The settings of Python's huggingface_hub from the environment, with its precedence: HF_ENDPOINT;
 * HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME; HF_TOKEN, HUGGING_FACE_HUB_TOKEN,
 * the file HF_TOKEN_PATH or `token` in HF_HOME, none of them with HF_HUB_DISABLE_IMPLICIT_TOKEN;
 * HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE; HF_HUB_DISABLE_SYMLINKS. `~` and `$NAME` in paths are expanded. Unlike
 * in Python, empty variables count as unset.
 *
 * @throws {UserError} If HF_ENDPOINT is not a URL or the token file cannot be read.
 * @see https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
 */
export function hubSettings(env: Environment = Deno.env.toObject()): HubSettings {
	const path = (name: string, other: string) => expand(env[name] || other, env);
	const userHome = env.HOME || env.USERPROFILE || homedir();
	const cacheHome = env.XDG_CACHE_HOME || join(userHome, ".cache");
	const home = path("HF_HOME", join(cacheHome, "huggingface"));
	return {
		...readEndpoint(env.HF_ENDPOINT || "https://huggingface.co"),
		...findToken(env, path("HF_TOKEN_PATH", join(home, "token"))),
		cache: path("HF_HUB_CACHE", env.HUGGINGFACE_HUB_CACHE || join(home, "hub")),
		offline: isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
		...(isTrue(env.HF_HUB_DISABLE_SYMLINKS) && { copies: true }),
	};
}

/** The address without name and password, which are sent to it but written nowhere. */
function readEndpoint(text: string): Pick<HubSettings, "endpoint" | "credentials"> {
	const url = URL.parse(text);
	if (url === null || !/^https?:$/.test(url.protocol) || url.search !== "" || url.hash !== "") {
		throw new UserError(
			`Cannot use HF_ENDPOINT "${text.replace(/\/\/.*@/, "//")}": it is no address of a hub; ` +
				`write one such as "https://huggingface.co", or unset it`,
		);
	}
	const { username, password } = url;
	const [, scheme, rest] = /^(https?:\/\/)(?:[^/]*@)?(.*?)\/*$/i.exec(text)!;
	const decoded = [username, password].map(decodeURIComponent).join(":");
	return { endpoint: scheme + rest, ...(username + password !== "" && { credentials: decoded }) };
}

function findToken(env: Environment, file: string): Pick<HubSettings, "token" | "tokenSource"> {
	if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return {};
	// HF_TOKEN takes precedence even if it is blank, as in Python.
	const tokenSource = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].find((name) => env[name]);
	const fromEnvironment = clean(tokenSource && env[tokenSource]);
	if (fromEnvironment) return { token: fromEnvironment, tokenSource };
	const fromFile = clean(readTokenFile(file));
	return fromFile ? { token: fromFile, tokenSource: file } : {};
}

function readTokenFile(file: string): string | undefined {
	try {
		return readFileSync(file, "utf8");
	} catch (error) {
		if (["ENOENT", "ENOTDIR"].includes((error as { code?: string }).code ?? "")) return undefined;
		throw new UserError(`Cannot read the token file "${file}": ${reasonOf(error)}`);
	}
}

function clean(token: string | undefined): string | undefined {
	const text = token?.replace(/[\r\n]/g, "").trim();
	// Other characters are invalid in a header.
	if (text && !/^[\x21-\x7e]+$/.test(text)) {
		throw new UserError(
			`Cannot use the token of the hub: it has characters that no token has; ` +
				`look at HF_TOKEN and at the token file`,
		);
	}
	return text || undefined;
}

function isTrue(value: string | undefined): boolean {
	return ["1", "ON", "YES", "TRUE"].includes(value?.toUpperCase() ?? "");
}

function expand(path: string, env: Environment): string {
	return inHome(path, env.HOME || env.USERPROFILE || homedir())
		.replace(/\$(?:(\w+)|\{(\w+)\})/g, (all, plain, braced) => env[plain ?? braced] ?? all);
}
