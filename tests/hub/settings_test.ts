import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hubSettings } from "~/hub/settings.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

const DEFAULTS = {
	endpoint: "https://huggingface.co",
	cache: "/home/kim/.cache/huggingface/hub",
	offline: false,
};

const TABLE: [Record<string, string>, Record<string, unknown>][] = [
	[{}, {}],
	[{ HF_ENDPOINT: "https://mirror.example/" }, { endpoint: "https://mirror.example" }],
	[{ HF_ENDPOINT: "http://host:8080/hf//" }, { endpoint: "http://host:8080/hf" }],
	[{ HF_ENDPOINT: "" }, {}],
	[{ HF_ENDPOINT: "https://kim:p%40ss@mirror.example/hf/" }, {
		endpoint: "https://mirror.example/hf",
		credentials: "kim:p@ss",
	}],
	[{ HF_ENDPOINT: "http://kim@host:9" }, { endpoint: "http://host:9", credentials: "kim:" }],
	[{ HF_HUB_DISABLE_SYMLINKS: "1" }, { copies: true }],
	[{ HF_HUB_DISABLE_SYMLINKS: "0" }, {}],

	[{ XDG_CACHE_HOME: "/x" }, { cache: "/x/huggingface/hub" }],
	[{ HF_HOME: "/h", XDG_CACHE_HOME: "/x" }, { cache: "/h/hub" }],
	[{ HF_HOME: "~/h" }, { cache: "/home/kim/h/hub" }],
	[{ HF_HOME: "~other/h" }, { cache: "~other/h/hub" }],
	[{ HF_HOME: "$BASE/h", BASE: "/b" }, { cache: "/b/h/hub" }],
	[{ HF_HOME: "${BASE}s/h", BASE: "/b" }, { cache: "/bs/h/hub" }],
	[{ HF_HOME: "/$NONE/h" }, { cache: "/$NONE/h/hub" }],
	[{ HUGGINGFACE_HUB_CACHE: "/old", HF_HOME: "/h" }, { cache: "/old" }],
	[{ HF_HUB_CACHE: "/new", HUGGINGFACE_HUB_CACHE: "/old" }, { cache: "/new" }],
	[{ HF_HUB_CACHE: "~/$WHERE", WHERE: "c" }, { cache: "/home/kim/c" }],

	[{ HF_TOKEN: " hf_a\n" }, { token: "hf_a", tokenSource: "HF_TOKEN" }],
	[{ HUGGING_FACE_HUB_TOKEN: "hf_b" }, { token: "hf_b", tokenSource: "HUGGING_FACE_HUB_TOKEN" }],
	[{ HF_TOKEN: "hf_a", HUGGING_FACE_HUB_TOKEN: "hf_b" }, {
		token: "hf_a",
		tokenSource: "HF_TOKEN",
	}],
	[
		{ HF_TOKEN: "", HUGGING_FACE_HUB_TOKEN: "hf_b" },
		{ token: "hf_b", tokenSource: "HUGGING_FACE_HUB_TOKEN" },
	],
	[{ HF_TOKEN: " ", HUGGING_FACE_HUB_TOKEN: "hf_b" }, {}],
	[{ HF_TOKEN: "hf_a", HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }, {}],
	[
		{ HF_TOKEN: "hf_a", HF_HUB_DISABLE_IMPLICIT_TOKEN: "0" },
		{ token: "hf_a", tokenSource: "HF_TOKEN" },
	],

	...["1", "on", "Yes", "TRUE"].map((yes): [Record<string, string>, Record<string, unknown>] => [
		{ HF_HUB_OFFLINE: yes },
		{ offline: true },
	]),
	[{ HF_HUB_OFFLINE: "no" }, {}],
	[{ TRANSFORMERS_OFFLINE: "1" }, { offline: true }],
	[{ HF_HUB_OFFLINE: "0", TRANSFORMERS_OFFLINE: "1" }, {}],
	[{ HF_HUB_OFFLINE: "", TRANSFORMERS_OFFLINE: "1" }, { offline: true }],
];

for (const [env, expected] of TABLE) {
	Deno.test(`hubSettings() reads ${JSON.stringify(env)}`, () => {
		const found = hubSettings({ HOME: "/home/kim", ...env });
		assert.deepEqual(found, { ...DEFAULTS, ...expected });
	});
}

Deno.test("hubSettings() takes the token from a file", () => {
	using folder = new TemporaryFolder();
	const home = folder.path;
	writeFileSync(join(home, "token"), "hf_file\r\n");
	writeFileSync(join(home, "other"), "hf_other");
	const token = (env: Record<string, string>) => {
		const { token, tokenSource } = hubSettings({ HF_HOME: home, ...env });
		return [token, tokenSource];
	};
	assert.deepEqual(token({}), ["hf_file", join(home, "token")]);
	assert.deepEqual(token({ HF_TOKEN: "hf_env" }), ["hf_env", "HF_TOKEN"]);
	assert.deepEqual(token({ HF_TOKEN_PATH: "$HF_HOME/other" }), ["hf_other", join(home, "other")]);
	assert.deepEqual(token({ HF_TOKEN_PATH: join(home, "none") }), [undefined, undefined]);
	assert.deepEqual(token({ HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }), [undefined, undefined]);
	writeFileSync(join(home, "token"), "\n");
	assert.deepEqual(token({}), [undefined, undefined]);
});

Deno.test("hubSettings() refuses what it cannot use", () => {
	using folder = new TemporaryFolder();
	const refuses = (env: Record<string, string>, message: string) =>
		assert.throws(() => hubSettings({ HF_HOME: folder.path, ...env }), {
			name: "UserError",
			message,
		});
	for (const HF_ENDPOINT of ["mirror.example", "ftp://mirror.example", "https://m.example/?a=b"]) {
		refuses(
			{ HF_ENDPOINT },
			`Cannot use HF_ENDPOINT "${HF_ENDPOINT}": it is no address of a hub; ` +
				`write one such as "https://huggingface.co", or unset it`,
		);
	}
	refuses(
		{ HF_TOKEN: "hf_a hf_b" },
		"Cannot use the token of the hub: it has characters that no token has; " +
			"look at HF_TOKEN and at the token file",
	);
	mkdirSync(folder.file("token"));
	refuses({}, `Cannot read the token file "${folder.path}/token": it is a folder`);
});
