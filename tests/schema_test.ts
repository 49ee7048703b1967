import Ajv from "ajv/dist/2020.js";
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parse } from "yaml";
import { VERSION } from "../base/version.ts";
import { pipelineJsonSchema } from "../pipeline/config/config.ts";
import { compactSchema } from "../pipeline/config/compact_schema.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { PROJECT } from "./checkout.ts";

const FILE = join(PROJECT, "schema/pipeline.schema.json");
const text = readFileSync(FILE, "utf8");
const whole = pipelineJsonSchema(STAGES, RECIPES);

const examples = readdirSync(join(PROJECT, "examples"), { recursive: true }).map(String)
	.filter((name) => name.endsWith(".yaml")).map((name) => join(PROJECT, "examples", name));

Deno.test("schema/pipeline.schema.json is what the code gives", () => {
	const now = JSON.stringify(compactSchema(whole));
	const hint = "deno task schema --compact > schema/pipeline.schema.json brings it up to date";
	assert.equal(text, `${now}\n`, hint);
	assert.equal(JSON.parse(text).$id, `urn:billm:pipeline:${VERSION}`);
});

Deno.test("every example names the schema and keeps to it", () => {
	const validators = [JSON.parse(text), whole].map((schema) =>
		// deno-lint-ignore no-explicit-any -- the types of the package are those of CommonJS
		new (Ajv as any)({ strict: false }).compile(schema)
	);
	assert(examples.length >= 20);
	for (const path of examples) {
		const yaml = readFileSync(path, "utf8");
		const [, named] = yaml.match(/^# yaml-language-server: \$schema=(\S+)\n/) ?? [];
		assert.equal(join(dirname(path), named ?? ""), FILE, path);
		for (const accepts of validators) {
			assert(accepts(parse(yaml)), `${path}: ${JSON.stringify(accepts.errors)}`);
		}
	}
	const [start, calibrate] = ["name: a\nmodel: b\n", "calibrate: { dataset: a.txt }"];
	for (
		const wrong of [
			"name: a\nmodel: b",
			"model: b\nrecipe: default",
			`${start}recipe: defalt`,
			`${start}stages: [{ ${calibrate.replace("dataset", "datset")} }, gptq]`,
			`${start}stages: [{ ${calibrate} }, { gptq: { bits: 5 } }]`,
			`${start}stages: [{ ${calibrate} }, { gptq: { overrides: { a: { bits: 5 } } } }]`,
			`${start}recipe: default\nstages: [pack]`,
			`${start}recipe: default\nstages: { calibrate: { samples: 0, dataset: a.txt } }`,
			`${start}recipe: default\nmatrix: { gpu.adapter: 3 }`,
		]
	) {
		for (const accepts of validators) assert.equal(accepts(parse(wrong)), false, wrong);
	}
});
