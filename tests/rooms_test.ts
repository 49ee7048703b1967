import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { PROJECT } from "./checkout.ts";
import { DOCUMENT, documentWithTable, findImports, roomOf, ROOMS } from "./rooms.ts";

const imports = findImports();

Deno.test("imports go down only", () => {
	assert.ok(imports.length > 500, "the imports are found");
	const upward = imports.filter(({ file, target }) =>
		!ROOMS.includes(roomOf(target)) || ROOMS.indexOf(roomOf(file)) < ROOMS.indexOf(roomOf(target))
	);
	assert.deepEqual(upward.map(({ file, target }) => `${file} -> ${target}`), []);
});

Deno.test("every import leads to a file", () => {
	const missing = imports.filter(({ target }) => !existsSync(join(PROJECT, target)));
	assert.deepEqual(missing, []);
});

Deno.test("docs/architecture.md has the table of rooms as they are", () => {
	const text = readFileSync(DOCUMENT, "utf8");
	assert.equal(text, documentWithTable(text), "run `deno run -A tests/rooms.ts`");
});
