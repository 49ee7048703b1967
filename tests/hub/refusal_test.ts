import assert from "node:assert/strict";
import { fetchFiles, fetchModel } from "~/hub/fetch_files.ts";
import type { HubRepository } from "~/hub/repository.ts";
import { HubPlace, noise, tree } from "./hub_place.ts";
import { json, type LoopbackHub, type RepositoryOptions, text } from "./loopback_hub.ts";

const MODEL: HubRepository = { type: "model", id: "org/model", revision: "main" };
const DATA: HubRepository = { type: "dataset", id: "org/data", revision: "main" };
const FILES = { "config.json": "{}", "model.safetensors": noise(2000) };

interface Refusal {
	/** The files of the model and their rights. */
	model?: [files: Record<string, Uint8Array | string>, rights?: RepositoryOptions];
	prepare?: (hub: LoopbackHub) => void;
	token?: string;
	repository?: Partial<HubRepository>;
	/** Paths in a data set; else a model is fetched. */
	paths?: string[];
	/** What cannot be downloaded, if not the repository. */
	subject?: string;
	/** What is said of it; HUB is the address of the hub. */
	message: string;
}

function refuses(
	what: string,
	{ model, prepare, token, repository, paths, subject, message }: Refusal,
) {
	Deno.test(`a download is refused: ${what}`, async () => {
		await using place = new HubPlace();
		const { hub, cache } = place;
		hub.tokens.hf_good = [];
		if (model) hub.add("model", "org/model", ...model);
		prepare?.(hub);
		const settings = hub.settings(cache, token ? { token, tokenSource: "HF_TOKEN" } : {});
		const options = place.options({ settings });
		const wanted = { ...(paths ? DATA : MODEL), ...repository };
		const expected = `Cannot download ${subject ?? `"${wanted.id}"`}: ${message}`;
		await assert.rejects(
			paths ? fetchFiles(wanted, paths, options) : fetchModel(wanted, options),
			{ name: "UserError", message: expected.replaceAll("HUB", hub.url) },
		);
		// Nothing is left that would look like a download.
		assert.deepEqual(tree(cache).filter((path) => /\/refs\/|incomplete/.test(path)), []);
	});
}

const ADVICE = "); check HF_ENDPOINT, or sign in to the network";
const TOKENS = "HUB/settings/tokens";
const NO_MODEL = "the hub has no such model, or it is private; check the name at HUB/org/model, " +
	`and set HF_TOKEN if it is private (${TOKENS})`;
const UNSEEN = "the hub has no such model, or the token of HF_TOKEN may not see it; check the " +
	`name at HUB/org/model, and the token's rights at ${TOKENS}`;
const CONDITIONS = "its owner asks for conditions to be accepted; do so at HUB/";
const LOG_IN = `, then set HF_TOKEN to a token of that account (${TOKENS})`;
const NO_WEIGHTS = 'it has no weights as "model.safetensors" or "pytorch_model.bin"';
const OTHER = "; choose a repository that has them, such as the one that this one was made from";
const WEB_PAGE = 'what answers at "HUB" is no hub (it sends "text/html" in place of JSON); check ' +
	"HF_ENDPOINT, or sign in to the network";

refuses("no such model", { message: NO_MODEL });

refuses("no such model, with a token", { token: "hf_good", message: UNSEEN });

refuses("no such data set", {
	paths: ["a.txt"],
	message: `the hub has no such data set, or it is private; check ` +
		`the name at HUB/datasets/org/data, and set HF_TOKEN if it is private (${TOKENS})`,
});

refuses("a private model", { model: [FILES, { private: true }], message: NO_MODEL });

refuses("a private model that the token may not see", {
	model: [FILES, { private: true }],
	token: "hf_good",
	message: UNSEEN,
});

refuses("a token that is no good", {
	model: [FILES],
	token: "hf_bad",
	message: `the hub refuses the token of HF_TOKEN (Invalid ` +
		`credentials in Authorization header); make a new one at ${TOKENS}, or unset it`,
});

refuses("a gated model", {
	model: [FILES, { gated: true }],
	message: `${CONDITIONS}org/model${LOG_IN}`,
});

refuses("a gated model that the token does not open", {
	model: [FILES, { gated: true }],
	token: "hf_good",
	message:
		`${CONDITIONS}org/model, with the account of the token of HF_TOKEN (the hub says: Access to model ` +
		`org/model is restricted and you are not in the authorized list.)`,
});

refuses("a gated data set", {
	prepare: (hub) => hub.add("dataset", "org/data", { "a.txt": "a" }, { gated: true }),
	paths: ["a.txt"],
	message: `${CONDITIONS}datasets/org/data${LOG_IN}`,
});

refuses("no such revision", {
	model: [FILES],
	repository: { revision: "v2" },
	message: `it has no revision "v2"; its branches and commits are at HUB/org/model/tree/main`,
});

refuses("no such commit", {
	model: [FILES],
	repository: { revision: "0".repeat(40) },
	message: `it has no revision "${"0".repeat(40)}"; its branches ` +
		`and commits are at HUB/org/model/tree/main`,
});

refuses("no such file", {
	prepare: (hub) => hub.add("dataset", "org/data", { "a/b.txt": "a" }),
	paths: ["a/b.txt", "a/c.txt"],
	message: `revision "main" has no file "a/c.txt"; its files are at ` +
		`HUB/datasets/org/data/tree/main`,
});

refuses("a folder in place of a file", {
	prepare: (hub) => hub.add("dataset", "org/data", { "a/b.txt": "a" }),
	paths: ["a"],
	message: `revision "main" has no file "a"; its files are at HUB/datasets/org/data/tree/main`,
});

refuses("a file that is listed and not there", {
	model: [FILES],
	prepare: (hub) => {
		hub.intercept = ({ path }) =>
			path === "config.json" ? text(404, "", { "X-Error-Code": "EntryNotFound" }) : undefined;
	},
	message: `revision "main" has no file "config.json"; its files are at HUB/org/model/tree/main`,
});

refuses("a model that is disabled", {
	prepare: (hub) => {
		hub.intercept = () =>
			text(403, "", { "X-Error-Message": "Access to this resource is disabled." });
	},
	message: `the hub has disabled access to it; nothing but another repository would do`,
});

refuses("a token without the right", {
	prepare: (hub) => {
		hub.intercept = () => ({ ...json({ error: "Fine-grained token lacks it" }), status: 403 });
	},
	token: "hf_good",
	message: `the hub answers 403 (Fine-grained token lacks it); ` +
		`check the rights of the token at ${TOKENS}`,
});

refuses("any other answer", {
	prepare: (hub) => {
		hub.intercept = () => text(410, "Gone");
	},
	message: `the hub answers 410`,
});

refuses("a model without weights", {
	model: [{ "config.json": "{}", "README.md": "-" }],
	message: NO_WEIGHTS + OTHER,
});

refuses("a model in other formats only", {
	model: [{
		"config.json": "{}",
		"model.Q4_K_M.gguf": "-",
		"model.Q8_0.gguf": "-",
		"consolidated.00.pth": "-",
	}],
	message: `${NO_WEIGHTS}, only as PyTorch under another name ("consolidated.00.pth"), GGUF ` +
		`("model.Q4_K_M.gguf" and 1 more)${OTHER}`,
});

refuses("a model without configuration", {
	model: [{ "model.safetensors": "-" }],
	message: `it has no "config.json"; choose a repository made for the transformers library`,
});

refuses("an index that lists what is not there", {
	model: [{
		"config.json": "{}",
		"model.safetensors.index.json": `{"weight_map": {"a": "a.safetensors"}}`,
	}],
	message: `"model.safetensors.index.json" lists "a.safetensors", ` +
		`which is not in the repository; choose another revision or repository`,
});

refuses("what answers is a web page", {
	prepare: (hub) => {
		hub.intercept = () => ({
			status: 200,
			headers: { "Content-Type": "text/html" },
			body: new TextEncoder().encode("<!doctype html><title>Sign in</title>"),
		});
	},
	message: WEB_PAGE,
});

refuses("what answers is another server", {
	prepare: (hub) => {
		hub.intercept = () => text(404, "<!doctype html>Not found", { "Content-Type": "text/html" });
	},
	message: WEB_PAGE,
});

for (
	const [what, answer, found, route = "info"] of [
		["null", null, "JSON of another form"],
		["no commit hash", { id: "org/model", sha: "main" }, "no commit hash"],
		["no list", {}, "JSON of another form", "tree"],
		[
			"a file without hash",
			[{ type: "file", path: "config.json", size: 3, oid: "../../x" }],
			"a file without hash",
			"tree",
		],
		[
			"a file without size",
			[{ type: "file", path: "config.json", size: -3, oid: "0".repeat(40) }],
			"a file without size",
			"tree",
		],
	] as [string, unknown, string, string?][]
) {
	refuses(`the hub's answer is ${what}`, {
		model: [FILES],
		prepare: (hub) => {
			hub.intercept = (request) => request.route === route ? json(answer) : undefined;
		},
		message: `what answers at "HUB" is no hub (it gives ${found}${ADVICE}`,
	});
}

for (
	const id of ["", "a/b/c", "../b", "a/..", "/b", "a/", "a--b", "-a/b", "a/b.git", "a b", "ä/b"]
) {
	refuses(`"${id}" is no name`, {
		repository: { id },
		message: `it is no name on the hub; write "owner/name"`,
	});
}

for (const revision of ["", "..", "a/../b", "/main", "a\\b", "a//b"]) {
	refuses(`"${revision}" is no revision`, {
		repository: { revision },
		message: `"${revision}" is no revision; give a branch, a tag or a commit hash`,
	});
}

for (const path of ["", "../a", "/a", "a/../../b", "a\\..\\b", "C:/a", "a//b", "a/"]) {
	refuses(`"${path}" is no path`, {
		paths: [path],
		subject: `"${path}" of "org/data"`,
		message: `it is no path in a repository; write one such as "data/train.parquet"`,
	});
}

Deno.test("every server's message is cut to a length that can be read", async () => {
	await using place = new HubPlace();
	place.hub.intercept = () => text(410, "", { "X-Error-Message": "x".repeat(5000) });
	await assert.rejects(place.fetchModel(), {
		message: `Cannot download "org/model": the hub answers 410 (${"x".repeat(300)})`,
	});
});

const NO_HUB = 'Cannot download "org/model": what answers at "HUB" is no hub (it gives ';

const FILE = { type: "file", path: "config.json", size: 2, oid: "0".repeat(40) };
const LISTINGS: [unknown, string][] = [
	[[null], "JSON of another form"],
	[{}, "JSON of another form"],
	[7, "JSON of another form"],
	[[[FILE]], "JSON of another form"],
	[[{ ...FILE, oid: 5 }], "a file without hash"],
	[[{ ...FILE, oid: null }], "a file without hash"],
	[[{ ...FILE, path: 5 }], "a file without a name"],
	[[{ ...FILE, size: "2" }], "a file without size"],
	[[{ ...FILE, size: -1 }], "a file without size"],
	[[{ ...FILE, lfs: 5 }], "a file without hash"],
];

Deno.test("listings of another form are refused", async () => {
	for (const [listing, problem] of LISTINGS) {
		await using place = new HubPlace();
		place.addModel();
		place.hub.intercept = ({ route }) => route === "tree" ? json(listing) : undefined;
		await assert.rejects(place.fetchModel(), ({ name, message }: Error) => {
			assert.equal(name, "UserError", JSON.stringify(listing));
			const start = NO_HUB.replace("HUB", place.hub.url);
			const isShort = JSON.stringify(listing) === "[[" + JSON.stringify(FILE) + "]]";
			if (!isShort) assert.ok(message.startsWith(start + problem), message);
			return true;
		});
	}
});

Deno.test("a listing without end is refused", async () => {
	const successors: ((n: number, url: string) => string)[] = [
		(_, url) => url,
		(n, url) => `${url}${url.includes("?") ? "&" : "?"}page=${n}`,
	];
	for (const successor of successors) {
		await using place = new HubPlace();
		place.addModel();
		let pages = 0;
		place.hub.intercept = (request, reply) => {
			if (request.route !== "tree") return;
			const url = `${place.hub.url}/api/models/org/model/tree/main`;
			const Link = `<${successor(pages++, url)}>; rel="next"`;
			return { ...reply, headers: { ...reply.headers, Link } };
		};
		await assert.rejects(place.fetchModel(), ({ name, message }: Error) => {
			assert.equal(name, "UserError");
			assert.ok(message.startsWith(NO_HUB.replace("HUB", place.hub.url)), message);
			assert.ok(message.endsWith(ADVICE));
			return true;
		});
		assert.ok(pages <= 201, `${pages} pages`);
	}
});

Deno.test("an answer without end is refused", async () => {
	for (const status of [200, 404]) {
		await using place = new HubPlace();
		place.addModel();
		place.hub.intercept = ({ route }, reply) => {
			if (route !== "tree") return;
			const body = new Uint8Array(40 << 20).fill(0x20);
			return { ...reply, status, body, headers: { "Content-Type": "application/json" } };
		};
		await assert.rejects(place.fetchModel(), { name: /UserError|HubUnreachable/ });
	}
});
