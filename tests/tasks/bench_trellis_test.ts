import assert from "node:assert/strict";
import { startTask } from "../start_task.ts";

Deno.test("bench:trellis measures forms of a search that give the same", async () => {
	const args = ["--bits", "2", "--table", "8", "--tiles", "1", "--runs", "1"];
	const { code, stdout, stderr } = await startTask("bench/trellis", args);
	assert.deepEqual([code, stderr], [0, ""]);
	const [title, head, first, ...others] = stdout.trim().split("\n");
	assert.match(title, /columns of 1 tiles$/);
	assert.match(head, /^bits +table +form /);
	assert.match(first, /^2 +8 +\d+ threads, .* as the stage$/);
	assert.ok(others.length > 1);
	assert.doesNotMatch(stdout, /OTHER RESULT|NaN/);
});
