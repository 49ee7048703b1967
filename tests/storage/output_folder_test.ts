import assert from "node:assert/strict";
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FolderBeside } from "~/storage/output_folder.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

Deno.test("a folder takes the place of another one, with the usual access, or leaves nothing", () => {
	using place = new TemporaryFolder();
	const out = join(place.path, "a", "out");
	const plain = join(place.path, "plain");
	mkdirSync(plain);
	for (const text of ["first", "second"]) {
		using beside = new FolderBeside(out);
		writeFileSync(join(beside.path, text), text);
		beside.replace();
		assert.deepEqual(readdirSync(out), [text]);
	}
	assert.equal(statSync(out).mode, statSync(plain).mode);
	assert.throws(() => {
		using beside = new FolderBeside(out);
		writeFileSync(join(beside.path, "third"), "");
		throw new Error("stop");
	}, /stop/);
	assert.deepEqual(readdirSync(join(place.path, "a")), ["out"]);
	assert.throws(() => new FolderBeside(join(out, "second", "x")), /Cannot make the folder/);
});
