import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { PROJECT } from "../checkout.ts";
import { Environment } from "../environment.ts";
import { LoopbackHub } from "../hub/loopback_hub.ts";
import { Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

const TOKEN = "hf_kim";
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

Deno.test("push uploads a run with its card, and only what has changed", async () => {
	await using hub = new LoopbackHub();
	using place = new Workplace({ layers: 1 });
	hub.tokens[TOKEN] = ["kim/micro-1-bit"];
	hub.writers[TOKEN] = ["kim"];
	hub.addFolder("model", "someone/micro", place.model, {
		card: { license: "other", license_name: "micro-license", license_link: "LICENSE", x: 1 },
	});
	hub.add("model", "someone/micro", {
		...hub.files("model", "someone/micro"),
		LICENSE: "Do what you like.",
		"LICENSES.md5": "",
	});
	const env = {
		HF_ENDPOINT: hub.url,
		HF_HOME: place.path("hf"),
		HF_HUB_OFFLINE: "",
		HF_TOKEN: TOKEN,
	};
	{
		using _ = new Environment(env);
		await place.run({ model: "someone/micro" });
	}
	const args = [place.path("out"), "kim/micro-1-bit"];
	const push = (...more: string[]) => startTask("push", [...args, ...more], { env });

	const dry = await push("--dry-run", "--private");
	assert.equal(dry.code, 0, dry.stderr);
	assert.match(dry.stdout, /^"kim\/micro-1-bit" would be created, private, or is not visible/);
	assert.match(dry.stdout, /\nsend {4}config\.json {2}[\d.]+ k?B\n/);
	assert.match(dry.stdout, /\n\nREADME\.md:\n\n---\nbase_model: someone\/micro\n/);
	assert.equal(hub.files("model", "kim/micro-1-bit"), undefined);
	const changing = ["create", "preupload", "batch", "commit", "upload"];
	assert(hub.requests.every(({ route }) => !changing.includes(route)), "a dry run only asks");

	const first = await push("--private");
	assert.equal(first.code, 0, first.stderr);
	assert.match(
		first.stdout,
		/^\d+ files sent \(.*\), 0 unchanged, 0 removed: http.*\/commit\/\w+\n$/,
	);
	assert.match(first.stderr, /^Warning: pipeline.yaml names folders of this machine.*\n$/);
	const files = hub.files("model", "kim/micro-1-bit")!;
	const model = place.path("out", "model");
	for (const { name } of Deno.readDirSync(model)) {
		assert.deepEqual(files[name], new Uint8Array(readFileSync(join(model, name))), name);
	}
	assert.equal(decode(files.LICENSE), "Do what you like.");
	assert.equal(files["LICENSES.md5"], undefined);
	assert.equal(
		decode(files["pipeline.yaml"]),
		readFileSync(place.path("out/pipeline.yaml"), "utf8"),
	);
	assert.match(decode(files["chart.svg"]), /^<svg [^]*<\/svg>\s*$/);

	const card = decode(files["README.md"]);
	const [, head, body] = /^---\n([^]*?)\n---\n([^]*)$/.exec(card)!;
	const record = JSON.parse(readFileSync(place.path("out/run.json"), "utf8"));
	const bits = record.packed.storedBits;
	assert.deepEqual(parse(head), {
		base_model: "someone/micro",
		base_model_relation: "quantized",
		library_name: "billm",
		license: "other",
		license_name: "micro-license",
		license_link: "LICENSE",
		pipeline_tag: "text-generation",
		tags: ["billm", "quantized", `${Math.round(bits)}-bit`, "webgpu"],
	});
	const { perplexity } = record.evaluation.packed[0];
	for (
		const text of [
			`**${bits.toFixed(2)} bits per weight**`,
			"deno task generate kim/micro-1-bit",
			"KL, nats",
			"Calibration",
			"- dataset: calibration.txt",
			"- samples: 4",
			"![The result against the size of the weight files](chart.svg)",
			"deno task quantize pipeline.yaml",
			"micro-license. See [LICENSE](LICENSE).",
		]
	) assert(body.includes(text), `${text} in ${body}`);

	const digits = Math.round(perplexity).toString().split("").join("\\D?");
	assert.match(body, new RegExp(`\\*\\*Perplexity\\*\\*: .* → ${digits} \\(.* KL `));
	const own = body.slice(0, body.indexOf("```yaml")); // what follows is the pipeline file
	assert(!own.includes(place.folder) && !decode(files["chart.svg"]).includes(place.folder));

	hub.add("model", "kim/micro-1-bit", { ...files, "README.md": "my own words" });
	const kept = await push();
	assert.match(
		kept.stderr,
		/Warning: README.md of "kim\/micro-1-bit" was changed .*; --card replaces/,
	);
	assert.match(kept.stdout, /^Nothing to do: "kim\/micro-1-bit" has all \d+ files\n$/);
	const replaced = await push("--card");
	assert.match(replaced.stdout, /^1 file sent \(.*\), \d+ unchanged, 0 removed/);
	assert.equal(decode(hub.files("model", "kim/micro-1-bit")!["README.md"]), card);

	writeFileSync(join(model, "config.json"), "{}");
	const changed = await push();
	assert.equal(changed.code, 1);
	assert.match(changed.stderr, /config\.json" is not what the run has written/);
});

Deno.test("docs/push.md shows the command as it is", async () => {
	const page = readFileSync(join(PROJECT, "docs/push.md"), "utf8");
	const { code, stdout } = await startTask("push", ["--help"]);
	assert.equal(code, 0);
	assert(stdout.split("\n").every((line) => line.length <= 100), "fits the screen");
	for (const [, option] of stdout.matchAll(/^ {2}(--(?!help)[\w-]+)/gm)) {
		assert(page.includes(`\`${option}`), option);
	}
});
