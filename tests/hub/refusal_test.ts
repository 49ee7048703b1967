import assert from "node:assert/strict";
import { fetchFiles, fetchModel } from "../../hub/fetch_files.ts";
import type { HubRepository } from "../../hub/repository.ts";
import { HubPlace, noise, tree } from "./hub_place.ts";
import { json, type LoopbackHub, text } from "./loopback_hub.ts";

const MODEL: HubRepository = { type: "model", id: "org/model", revision: "main" };
const DATA: HubRepository = { type: "dataset", id: "org/data", revision: "main" };
const FILES = { "config.json": "{}", "model.safetensors": noise(2000) };

interface Refusal {
  prepare?: (hub: LoopbackHub) => void;
  token?: string;
  repository?: Partial<HubRepository>;
  /** Paths in a data set; else a model is fetched. */
  paths?: string[];
  /** HUB is the address of the hub, HOST its host. */
  message: string;
}

function refuses(
  what: string,
  { prepare, token, repository, paths, message }: Refusal,
) {
  Deno.test(`a download is refused: ${what}`, async () => {
    await using place = new HubPlace();
    const { hub, cache } = place;
    hub.tokens.hf_good = [];
    prepare?.(hub);
    const settings = hub.settings(cache, token ? { token, tokenSource: "HF_TOKEN" } : {});
    const options = place.options({ settings });
    const expected = message.replaceAll("HUB", hub.url).replaceAll("HOST", new URL(hub.url).host);
    await assert.rejects(
      paths
        ? fetchFiles({ ...DATA, ...repository }, paths, options)
        : fetchModel({ ...MODEL, ...repository }, options),
      { name: "UserError", message: expected },
    );
    // Nothing is left that would look like a download.
    assert.deepEqual(tree(cache).filter((path) => /\/refs\/|incomplete/.test(path)), []);
  });
}

const TOKENS = "HUB/settings/tokens";

refuses("no such model", {
  message: `Cannot download "org/model": the hub has no such model, or it is private; check the ` +
    `name at HUB/org/model, and set HF_TOKEN if it is private (${TOKENS})`,
});

refuses("no such model, with a token", {
  token: "hf_good",
  message: `Cannot download "org/model": the hub has no such model, or the token of HF_TOKEN may ` +
    `not see it; check the name at HUB/org/model, and the token's rights at ${TOKENS}`,
});

refuses("no such data set", {
  paths: ["a.txt"],
  message: `Cannot download "org/data": the hub has no such data set, or it is private; check ` +
    `the name at HUB/datasets/org/data, and set HF_TOKEN if it is private (${TOKENS})`,
});

refuses("a private model", {
  prepare: (hub) => hub.add("model", "org/model", FILES, { private: true }),
  message: `Cannot download "org/model": the hub has no such model, or it is private; check the ` +
    `name at HUB/org/model, and set HF_TOKEN if it is private (${TOKENS})`,
});

refuses("a private model that the token may not see", {
  prepare: (hub) => hub.add("model", "org/model", FILES, { private: true }),
  token: "hf_good",
  message: `Cannot download "org/model": the hub has no such model, or the token of HF_TOKEN may ` +
    `not see it; check the name at HUB/org/model, and the token's rights at ${TOKENS}`,
});

refuses("a token that is no good", {
  prepare: (hub) => hub.add("model", "org/model", FILES),
  token: "hf_bad",
  message: `Cannot download "org/model": the hub refuses the token of HF_TOKEN (Invalid ` +
    `credentials in Authorization header); make a new one at ${TOKENS}, or unset it`,
});

refuses("a gated model", {
  prepare: (hub) => hub.add("model", "org/model", FILES, { gated: true }),
  message: `Cannot download "org/model": its owner asks for conditions to be accepted; do so at ` +
    `HUB/org/model, then set HF_TOKEN to a token of that account (${TOKENS})`,
});

refuses("a gated model that the token does not open", {
  prepare: (hub) => hub.add("model", "org/model", FILES, { gated: true }),
  token: "hf_good",
  message: `Cannot download "org/model": its owner asks for conditions to be accepted; do so at ` +
    `HUB/org/model, with the account of the token of HF_TOKEN (the hub says: Access to model ` +
    `org/model is restricted and you are not in the authorized list.)`,
});

refuses("a gated data set", {
  prepare: (hub) => hub.add("dataset", "org/data", { "a.txt": "a" }, { gated: true }),
  paths: ["a.txt"],
  message: `Cannot download "org/data": its owner asks for conditions to be accepted; do so at ` +
    `HUB/datasets/org/data, then set HF_TOKEN to a token of that account (${TOKENS})`,
});

refuses("no such revision", {
  prepare: (hub) => hub.add("model", "org/model", FILES),
  repository: { revision: "v2" },
  message: `Cannot download "org/model": it has no revision "v2"; its branches and commits are ` +
    `at HUB/org/model/tree/main`,
});

refuses("no such commit", {
  prepare: (hub) => hub.add("model", "org/model", FILES),
  repository: { revision: "0".repeat(40) },
  message: `Cannot download "org/model": it has no revision "${"0".repeat(40)}"; its branches ` +
    `and commits are at HUB/org/model/tree/main`,
});

refuses("no such file", {
  prepare: (hub) => hub.add("dataset", "org/data", { "a/b.txt": "a" }),
  paths: ["a/b.txt", "a/c.txt"],
  message: `Cannot download "org/data": revision "main" has no file "a/c.txt"; its files are at ` +
    `HUB/datasets/org/data/tree/main`,
});

refuses("a folder in place of a file", {
  prepare: (hub) => hub.add("dataset", "org/data", { "a/b.txt": "a" }),
  paths: ["a"],
  message: `Cannot download "org/data": revision "main" has no file "a"; its files are at ` +
    `HUB/datasets/org/data/tree/main`,
});

refuses("a file that is listed and not there", {
  prepare: (hub) => {
    hub.add("model", "org/model", FILES);
    hub.intercept = ({ path }) =>
      path === "config.json" ? text(404, "", { "X-Error-Code": "EntryNotFound" }) : undefined;
  },
  message: `Cannot download "org/model": revision "main" has no file "config.json"; its files ` +
    `are at HUB/org/model/tree/main`,
});

refuses("a model that is disabled", {
  prepare: (hub) => {
    hub.intercept = () =>
      text(403, "", { "X-Error-Message": "Access to this resource is disabled." });
  },
  message: `Cannot download "org/model": the hub has disabled access to it; nothing but another ` +
    `repository would do`,
});

refuses("a token without the right", {
  prepare: (hub) => {
    hub.intercept = () => ({ ...json({ error: "Fine-grained token lacks it" }), status: 403 });
  },
  token: "hf_good",
  message: `Cannot download "org/model": the hub answers 403 (Fine-grained token lacks it); ` +
    `check the rights of the token at ${TOKENS}`,
});

refuses("any other answer", {
  prepare: (hub) => {
    hub.intercept = () => text(410, "Gone");
  },
  message: `Cannot download "org/model": the hub answers 410`,
});

refuses("a model without weights", {
  prepare: (hub) => hub.add("model", "org/model", { "config.json": "{}", "README.md": "-" }),
  message: `Cannot download "org/model": it has no weights as "model.safetensors" or ` +
    `"pytorch_model.bin"; choose a repository that has them, such as the one that this one was ` +
    `made from`,
});

refuses("a model in other formats only", {
  prepare: (hub) =>
    hub.add("model", "org/model", {
      "config.json": "{}",
      "model.Q4_K_M.gguf": "-",
      "model.Q8_0.gguf": "-",
      "consolidated.00.pth": "-",
    }),
  message: `Cannot download "org/model": it has no weights as "model.safetensors" or ` +
    `"pytorch_model.bin", only as PyTorch under another name ("consolidated.00.pth"), GGUF ` +
    `("model.Q4_K_M.gguf" and 1 more); choose a repository that has them, such as the one that ` +
    `this one was made from`,
});

refuses("a model without configuration", {
  prepare: (hub) => hub.add("model", "org/model", { "model.safetensors": "-" }),
  message: `Cannot download "org/model": it has no "config.json"; choose a repository made for ` +
    `the transformers library`,
});

refuses("an index that lists what is not there", {
  prepare: (hub) =>
    hub.add("model", "org/model", {
      "config.json": "{}",
      "model.safetensors.index.json": `{"weight_map": {"a": "a.safetensors"}}`,
    }),
  message: `Cannot download "org/model": "model.safetensors.index.json" lists "a.safetensors", ` +
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
  message: `Cannot download "org/model": what answers at "HUB" is no hub (it sends "text/html" ` +
    `in place of JSON); check HF_ENDPOINT, or sign in to the network`,
});

refuses("what answers is another server", {
  prepare: (hub) => {
    hub.intercept = () => text(404, "<!doctype html>Not found", { "Content-Type": "text/html" });
  },
  message: `Cannot download "org/model": what answers at "HUB" is no hub (it sends "text/html" ` +
    `in place of JSON); check HF_ENDPOINT, or sign in to the network`,
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
    prepare: (hub) => {
      hub.add("model", "org/model", FILES);
      hub.intercept = (request) => request.route === route ? json(answer) : undefined;
    },
    message: `Cannot download "org/model": what answers at "HUB" is no hub (it gives ${found}); ` +
      `check HF_ENDPOINT, or sign in to the network`,
  });
}

for (
  const id of ["", "a/b/c", "../b", "a/..", "/b", "a/", "a--b", "-a/b", "a/b.git", "a b", "ä/b"]
) {
  refuses(`"${id}" is no name`, {
    repository: { id },
    message: `Cannot download "${id}": it is no name on the hub; write "owner/name"`,
  });
}

for (const revision of ["", "..", "a/../b", "/main", "a\\b", "a//b"]) {
  refuses(`"${revision}" is no revision`, {
    repository: { revision },
    message: `Cannot download "org/model": "${revision}" is no revision; give a branch, a tag or ` +
      `a commit hash`,
  });
}

for (const path of ["", "../a", "/a", "a/../../b", "a\\..\\b", "C:/a", "a//b", "a/"]) {
  refuses(`"${path}" is no path`, {
    paths: [path],
    message: `Cannot download "${path}" of "org/data": it is no path in a repository; write one ` +
      `such as "data/train.parquet"`,
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
const ADVICE = "); check HF_ENDPOINT, or sign in to the network";

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
