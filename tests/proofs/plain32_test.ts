import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Checkpoint } from "../../storage/checkpoint.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { Workplace } from "../micro_model.ts";
import { startTask, type TaskOptions } from "../start_task.ts";

/** Runs a task of the project as it is, but with the tables' two lines more. */
function run(task: string, args: string[], options: TaskOptions = {}) {
	return startTask(task, args, { ...options, preload: join(import.meta.dirname!, "plain32.ts") });
}

Deno.test("a codec, a stage and two lines in tables are all that a new format takes", async (t) => {
	using place = new Workplace({ layers: 2, dtype: "F16" });
	const output = place.path("out");
	const model = join(output, "model");
	const stages = ["download", "keep", { pack: { embeddings: "stored" } }, place.evaluate];
	const done = async (task: string, args: string[]) => {
		const { code, stdout, stderr } = await run(task, args);
		assert.equal(code, 0, stderr);
		return stdout;
	};

	await t.step("quantize packs and evaluates", async () => {
		await done("quantize", [place.pipeline({ stages })]);
		const record = JSON.parse(readFileSync(join(output, "run.json"), "utf8"));
		const [original] = record.evaluation.original;
		const [packed] = record.evaluation.packed;
		assert.equal(packed.loss, original.loss);
		assert.equal(record.packed.paperBits, 32);
		assert.equal(record.packed.storedBitsByPart.values, 32);
		assert.deepEqual(Object.keys(record.layers[0].linears[0].storedBytes), ["values"]);
		using checkpoint = Checkpoint.open(denoFolder(model));
		assert.equal(checkpoint.get("model.layers.1.mlp.up_proj.plain32").dtype, "F32");
	});

	await t.step("inspect shows its columns", async () => {
		const text = await done("inspect", [output]);
		assert.match(text, /packed by keep, format version 3/);
		assert.match(text, /linear layer +shape +largest +paper +stored +values +error/);
		assert.match(text, /0\.mlp\.up_proj +100x64 +32 bits +32\.000 +32\.000 +32\.000/);
	});

	await t.step("generate continues a text", async () => {
		const args = ["--prompt", "The", "--max-tokens", "5", "--json"];
		const ids = (text: string) => JSON.parse(text.trim().split("\n").at(-1)!).ids;
		const [packed, original] = [
			ids(await done("generate", [model, ...args])),
			ids(await done("generate", [place.model, ...args])),
		];
		assert.equal(packed.length, 5);
		assert.deepEqual(packed, original);
	});

	await t.step("dequantize gives the original weights back", async () => {
		const plain = place.path("plain");
		await done("dequantize", [output, plain]);
		using before = Checkpoint.open(denoFolder(place.model));
		using after = Checkpoint.open(denoFolder(plain));
		const linears = [...before.tensors.keys()].filter((name) => name.includes("_proj"));
		assert.equal(linears.length, 14);
		for (const name of linears) assert.deepEqual(after.readBytes(name), before.readBytes(name));
	});

	await t.step("report has its parts", async () => {
		await done("report", [output]);
		assert.ok(existsSync(join(output, "report.html")));
		assert.match(
			readFileSync(join(output, "report.html"), "utf8"),
			/Bits of the linear layers by part[\s\S]*values/,
		);
	});
});
